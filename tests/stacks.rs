//! Sessions whose stack of adapters changes: what they compute is what a new session computes.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::sync::Arc;

use lapwing::engine::{Engine, EngineOptions};
use lapwing::sampler::{Chain, Rng, Settings};
use lapwing::session::{Cancel, Limits, Piece, Session, SessionOptions};
use lapwing::synthetic;
use lapwing_kernels::TensorType;
use lapwing_models::lora::{Fitted, Stack};

fn engine(model: &str) -> Arc<Engine> {
    let options = EngineOptions { threads: Some(1), ..EngineOptions::default() };
    Arc::new(Engine::new(synthetic::model(model, 1, 1).unwrap(), &options).unwrap())
}

/// Adapters of ranks 3, 4, 5 … of random factors.
fn adapters(engine: &Engine, shape: &str, n: u64) -> Vec<Arc<Fitted>> {
    let fit = |i| {
        let adapter = synthetic::adapter(&format!("{shape}:f16"), 3 + i as usize, i).unwrap();
        Arc::new(engine.model().fit(adapter, TensorType::Q8_0, engine.team()).unwrap())
    };
    (0..n).map(fit).collect()
}

fn session(engine: &Arc<Engine>) -> Session {
    let options = SessionOptions { context: Some(192), batch: 64, ..SessionOptions::default() };
    Session::new(engine.clone(), &options).unwrap()
}

fn eval(session: &mut Session, tokens: &[u32]) {
    session.eval(tokens, &Cancel::default(), &mut |_, _| {}).unwrap();
}

/// Lets the session answer with `n` tokens.
fn answer(session: &mut Session, n: usize) -> Vec<u32> {
    let limits = Limits { predict: Some(n), ignore_eos: true, ..Limits::default() };
    let mut settings = Settings::default();
    settings.set("seed", "1").unwrap();
    let mut chain = Chain::new(&settings, session.engine().clone().model().tokenizer());
    let go_on = &mut |_: &Piece<'_>| ControlFlow::Continue(());
    session.generate(&mut chain, &limits, &Cancel::default(), go_on).unwrap().ids
}

/// Logits of a session made for this.
fn fresh(engine: &Arc<Engine>, stack: &Stack, tokens: &[u32]) -> Vec<f32> {
    let mut session = session(engine);
    session.set_stack(stack.clone());
    eval(&mut session, tokens);
    session.logits().to_vec()
}

/// Below `n`.
fn below(rng: &mut Rng, n: usize) -> usize {
    (rng.next_u64() % n as u64) as usize
}

#[test]
fn any_changes_of_the_stack_leave_what_a_new_session_computes() {
    let shapes = ["tiny-llama", "tiny-qwen2", "tiny-gemma3", "tiny-phi3"];
    let mut restored = 0;
    for (shape, seeds) in shapes.into_iter().zip([0..125, 125..250, 250..375, 375..500]) {
        let engine = engine(&format!("{shape}:q4_0"));
        let known = adapters(&engine, shape, 4);
        for seed in seeds {
            let mut rng = Rng::new(seed);
            let mut session = session(&engine);
            let mut tokens = vec![1];
            for step in 0..6 {
                let loaded: Vec<String> =
                    session.stack().entries().iter().map(|entry| entry.name.clone()).collect();
                let scale = [0.0, 0.5, -1.0, 1.0][below(&mut rng, 4)];
                let which = below(&mut rng, 4);
                let changed = session.change_stack(|stack| match below(&mut rng, 6) {
                    0 | 1 => stack.add("a", known[which].clone(), scale).map(drop),
                    2 if !loaded.is_empty() => stack.set_scale(&loaded[which % loaded.len()], scale),
                    3 if !loaded.is_empty() => stack.remove(&loaded[which % loaded.len()]).map(drop),
                    4 => {
                        stack.set_on(!stack.is_on());
                        Ok(())
                    }
                    _ => Ok(()),
                });
                changed.unwrap();
                if below(&mut rng, 4) == 0 {
                    // Taken back, to go on in another way.
                    tokens.truncate(1 + below(&mut rng, tokens.len()));
                }
                for _ in 0..below(&mut rng, 3) {
                    tokens.push((rng.next_u64() % 200) as u32);
                }
                eval(&mut session, &tokens);
                restored += usize::from(step > 1 && session.stats().n_eval == 0);
                // The same adapters, added in the other order.
                let mut stack = Stack::default();
                for entry in session.stack().entries().iter().rev() {
                    stack.add("b", entry.fitted.clone(), entry.scale).unwrap();
                }
                stack.set_on(session.stack().is_on());
                assert!(
                    session.logits() == fresh(&engine, &stack, &tokens),
                    "{shape}, seed {seed}, step {step}"
                );
                if below(&mut rng, 3) == 0 {
                    tokens.extend(answer(&mut session, 3));
                }
            }
        }
    }
    assert!(restored > 20, "{restored} of the steps found all in a snapshot");
}

#[test]
fn a_swap_back_answers_without_evaluating_anything() {
    let engine = engine("tiny-llama:q4_0");
    let known = adapters(&engine, "tiny-llama", 2);
    let mut session = session(&engine);
    let tokens: Vec<u32> = (1..150).collect();
    let answer = |session: &mut Session| {
        eval(session, &tokens);
        let n_eval = session.stats().n_eval;
        (answer(session, 8), n_eval)
    };
    let (base, n) = answer(&mut session);
    assert_eq!(n, tokens.len());
    session.change_stack(|stack| stack.add("one", known[0].clone(), 1.0)).unwrap();
    let (one, n) = answer(&mut session);
    assert_eq!(n, tokens.len());
    session.change_stack(|stack| stack.add("two", known[1].clone(), 2.0)).unwrap();
    let (both, n) = answer(&mut session);
    assert_eq!(n, tokens.len());
    assert!(base != one && one != both, "adapters change the answer");

    session.change_stack(|stack| stack.remove("two")).unwrap();
    assert_eq!(answer(&mut session), (one.clone(), 0));
    let mut off = session.stack().clone();
    off.set_on(false);
    session.set_stack(off);
    assert_eq!(answer(&mut session), (base, 0));
    // Another name is no other stack, nor is one more adapter of scale 0.
    session
        .change_stack(|stack| {
            stack.set_on(true);
            stack.remove("one")?;
            stack.add("uno", known[0].clone(), 1.0)?;
            stack.add("none", known[1].clone(), 0.0)
        })
        .unwrap();
    assert_eq!(answer(&mut session), (one, 0));
    // A failed change changes nothing.
    assert!(
        session.change_stack(|stack| stack.set_scale("uno", 3.0).and_then(|()| stack.remove("x"))).is_err()
    );
    assert_eq!(session.stack().entries()[0].scale, 1.0);
}

#[test]
fn snapshots_are_bounded_and_the_one_unused_for_longest_goes_first() {
    let engine = engine("tiny-llama:q4_0");
    let known = adapters(&engine, "tiny-llama", 1);
    let tokens: Vec<u32> = (1..100).collect();
    let mut one = session(&engine);
    let with_scale = |session: &mut Session, scale: f32| {
        let mut stack = Stack::default();
        stack.add("a", known[0].clone(), scale).unwrap();
        session.set_stack(stack);
        eval(session, &tokens);
        session.stats().n_eval
    };
    with_scale(&mut one, 1.0);
    with_scale(&mut one, 2.0);
    let (n, bytes) = one.snapshots();
    assert!(n == 1 && bytes > one.cache().bytes());

    // Room for two.
    let options =
        SessionOptions { context: Some(192), snapshot_bytes: Some(bytes * 5 / 2), ..Default::default() };
    let mut two = Session::new(engine.clone(), &options).unwrap();
    for scale in [1.0, 2.0, 3.0, 4.0] {
        assert_eq!(with_scale(&mut two, scale), tokens.len());
        assert!(two.snapshots().1 <= bytes * 5 / 2);
    }
    assert_eq!(two.snapshots().0, 2);
    // 2 and 3 are kept; then 3 is the one unused for longest, and goes when 5 comes.
    assert_eq!(with_scale(&mut two, 2.0), 0);
    assert_eq!(with_scale(&mut two, 5.0), tokens.len());
    assert_eq!(with_scale(&mut two, 4.0), 0);
    assert_eq!(with_scale(&mut two, 2.0), 0);
    assert_eq!(with_scale(&mut two, 3.0), tokens.len());

    let mut none = Session::new(engine, &SessionOptions { snapshot_bytes: Some(0), ..options }).unwrap();
    for scale in [1.0, 2.0, 1.0] {
        assert_eq!(with_scale(&mut none, scale), tokens.len());
    }
    assert_eq!(none.snapshots(), (0, 0));
}

#[test]
fn two_sessions_over_one_model_run_different_stacks() {
    let engine = engine("tiny-llama:q4_0");
    let known = adapters(&engine, "tiny-llama", 1);
    let (mut plain, mut tuned) = (session(&engine), session(&engine));
    tuned.change_stack(|stack| stack.add("a", known[0].clone(), 1.0)).unwrap();
    let tokens: Vec<u32> = (1..40).collect();
    for end in [10, 20, 39] {
        eval(&mut plain, &tokens[..end]);
        eval(&mut tuned, &tokens[..end]);
        assert_ne!(plain.logits(), tuned.logits());
        assert!(plain.logits() == fresh(&engine, plain.stack(), &tokens[..end]));
        assert!(tuned.logits() == fresh(&engine, tuned.stack(), &tokens[..end]));
    }
}
