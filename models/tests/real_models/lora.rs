//! Adapters on a real model against PEFT, and the promises of a stack: order and absence change no bit.

use std::path::PathBuf;
use std::sync::Arc;

use crate::real::{SMOLLM2, dequantised, ids, kl, log_sum_exp, open, team};
use lapwing_kernels::TensorType;
use lapwing_kernels::team::Team;
use lapwing_models::decoder::{Want, Workspace, forward};
use lapwing_models::kv_cache::{KvCache, KvType};
use lapwing_models::lora::{Adapter, DEFAULT_FACTORS, Fitted, Stack};
use lapwing_models::model::Model;
use serde_json::Value;

fn adapters() -> Option<PathBuf> {
    crate::common::shared("lora")
}

/// The model on f32 weights, and what PEFT says of stacks on it.
fn expected() -> Option<(Model, Value)> {
    let (path, folder) = (crate::common::model(SMOLLM2)?, adapters()?);
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    Some((open(&dequantised(&path)), serde_json::from_str(&text).unwrap()))
}

fn fitted(model: &Model, team: &Team, folder: &str, ty: TensorType) -> Option<Arc<Fitted>> {
    let adapter = Adapter::open(&adapters()?.join(folder)).unwrap();
    Some(Arc::new(model.fit(adapter, ty, team).unwrap()))
}

fn logits(model: &Model, team: &Team, stack: &Stack, tokens: &[u32]) -> Vec<f32> {
    let mut ws = Workspace::new(model, 512).unwrap();
    ws.set_stack(stack);
    let mut cache = KvCache::new(model.spec(), KvType::F32, tokens.len()).unwrap();
    forward(model, team, &mut ws, &mut cache, tokens, Want::All).unwrap().to_vec()
}

/// Largest difference of the top 16 log-probabilities and of the next token's.
fn largest_difference(logits: &[f32], vocab: usize, tokens: &[u32], data: &Value) -> f64 {
    let mut largest = 0f64;
    for (i, row) in logits.chunks_exact(vocab).enumerate() {
        let log_sum = log_sum_exp(row);
        let mut compare =
            |id: usize, want: f64| largest = largest.max((f64::from(row[id]) - log_sum - want).abs());
        let (top, values) = (ids(&data["top_ids"][i]), data["top_logprobs"][i].as_array().unwrap());
        assert_eq!((top.len(), values.len()), (16, 16));
        for (id, want) in top.iter().zip(values) {
            compare(*id as usize, want.as_f64().unwrap());
        }
        if let Some(want) = data["next_logprob"].get(i).and_then(Value::as_f64) {
            compare(tokens[i + 1] as usize, want);
        }
    }
    largest
}

#[test]
fn every_stack_has_the_log_probabilities_of_peft() {
    let Some((model, expected)) = expected() else { return };
    let team = team(2);
    let load = |name: &str| fitted(&model, &team, name, TensorType::F32).unwrap();
    let known = [("bard", load("lora-bard")), ("json", load("lora-json")), ("dora", load("lora-dora"))];
    for (kind, tokens) in [("text", "text_tokens"), ("chat", "chat_tokens")] {
        let tokens = ids(&expected[tokens]);
        let stacks = expected[kind].as_array().unwrap();
        assert_eq!(stacks.len(), 7);
        for case in stacks {
            let mut stack = Stack::default();
            for entry in case["stack"].as_array().unwrap() {
                let (name, adapter) = known.iter().find(|(name, _)| entry["adapter"] == *name).unwrap();
                stack.add(name, Arc::clone(adapter), entry["scale"].as_f64().unwrap() as f32).unwrap();
            }
            let logits = logits(&model, &team, &stack, &tokens);
            let largest = largest_difference(&logits, model.spec().vocab, &tokens, case);
            println!("{kind} {}: largest difference {largest:.2e}", case["stack"]);
            assert!(largest <= 2e-3, "{kind} {}: {largest}", case["stack"]);
        }
    }
}

/// Writes a stack as one adapter of each container that can hold it, reads it back, and compares with PEFT again.
#[test]
fn exported_stacks_have_the_log_probabilities_of_peft() {
    let (Some((model, expected)), Some(folder)) = (expected(), adapters()) else { return };
    let team = team(2);
    let out = tempfile::tempdir().unwrap();
    let tokens = ids(&expected["chat_tokens"]);
    for case in expected["chat"].as_array().unwrap().iter().skip(1) {
        let entries = case["stack"].as_array().unwrap();
        let open = |entry: &Value| {
            let name = entry["adapter"].as_str().unwrap();
            let adapter = Adapter::open(&folder.join(format!("lora-{name}"))).unwrap();
            (adapter, entry["scale"].as_f64().unwrap() as f32)
        };
        let parts: Vec<_> = entries.iter().map(open).collect();
        let combined = model.combine(&parts).unwrap();
        let (gguf, peft) = (out.path().join("stack.gguf"), out.path().join("stack"));
        combined.write_peft(&team, &peft, TensorType::F32).unwrap();
        let mut written = vec![peft];
        match combined.write_gguf(&team, &gguf, TensorType::F32) {
            Ok(_) => written.push(gguf),
            Err(error) => assert!(parts[0].0.is_dora(), "{error}"),
        }
        for path in written {
            let fitted = model.fit(Adapter::open(&path).unwrap(), TensorType::F32, &team).unwrap();
            let mut stack = Stack::default();
            stack.add("one", Arc::new(fitted), 1.0).unwrap();
            let logits = logits(&model, &team, &stack, &tokens);
            let largest = largest_difference(&logits, model.spec().vocab, &tokens, case);
            assert!(largest <= 2e-3, "{} as {}: {largest}", case["stack"], path.display());
        }
    }
}

/// Mean KL divergence from the stack on f32 weights with exact factors, over the later half of contexts of 512 tokens:
/// of the adapter that the rounding of activations disturbs most, by 0.005 if outliers were rounded with the others.
#[test]
fn a_stack_on_quantised_weights_stays_near_that_on_exact_ones() {
    let (Some(path), Some(text)) = (crate::common::model(SMOLLM2), crate::common::shared("eval.txt")) else {
        return;
    };
    let team = team(2);
    let (exact, quantised) = (open(&dequantised(&path)), open(&path));
    let stack = |model: &Model, ty| {
        let mut stack = Stack::default();
        stack.add("json", fitted(model, &team, "lora-json", ty).unwrap(), 1.0).unwrap();
        stack
    };
    let (of_exact, of_quantised) = (stack(&exact, TensorType::F32), stack(&quantised, DEFAULT_FACTORS));
    let tokens = exact.tokenizer().encode(&std::fs::read_to_string(text).unwrap(), false);
    let vocab = exact.spec().vocab;
    let mut found = Vec::new();
    for tokens in tokens.chunks_exact(512).take(2) {
        let p = logits(&exact, &team, &of_exact, tokens);
        let q = logits(&quantised, &team, &of_quantised, tokens);
        found.extend(p.chunks(vocab).zip(q.chunks(vocab)).skip(256).map(|(p, q)| kl(p, q)));
    }
    let mean = found.iter().sum::<f64>() / found.len() as f64;
    println!("mean KL divergence {mean:.6} of {} predictions", found.len());
    assert!(mean <= 0.0030 && found.len() == 512, "{mean}");
}

#[test]
fn both_containers_of_an_adapter_agree_to_the_rounding_of_f16() {
    let (Some(path), Some(_)) = (crate::common::model(SMOLLM2), adapters()) else { return };
    let (model, team) = (open(&dequantised(&path)), team(2));
    let tokens: Vec<u32> = (0..40).map(|i| 500 + i * 97).collect();
    let [peft, gguf] = ["lora-bard", "bard-f16.gguf"].map(|name| {
        let mut stack = Stack::default();
        stack.add(name, fitted(&model, &team, name, TensorType::F32).unwrap(), 1.0).unwrap();
        logits(&model, &team, &stack, &tokens)
    });
    let base = logits(&model, &team, &Stack::default(), &tokens);
    let rms = |a: &[f32], b: &[f32]| {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (sum / a.len() as f64).sqrt()
    };
    // Weights rounded to 11 bits move the logits by a few thousandths of what the adapter does.
    let (apart, effect) = (rms(&peft, &gguf), rms(&peft, &base));
    assert!(apart < 2e-3 * effect && effect > 0.1, "{apart} of {effect}");
}

#[test]
fn order_and_absence_change_no_bit() {
    let (Some(path), Some(_)) = (crate::common::model(SMOLLM2), adapters()) else { return };
    let (model, team) = (open(&path), team(2));
    let tokens: Vec<u32> = (0..24).map(|i| 500 + i * 97).collect();
    let parts: Vec<(Arc<Fitted>, f32)> =
        [("lora-bard", 0.7), ("bard-f16.gguf", -0.5), ("lora-json", 1.5), ("lora-dora", 1.0)]
            .map(|(name, scale)| (fitted(&model, &team, name, TensorType::Q8_0).unwrap(), scale))
            .to_vec();
    let base = logits(&model, &team, &Stack::default(), &tokens);
    let mut first: Option<(Vec<f32>, lapwing_models::lora::StackKey)> = None;
    for order in permutations(4) {
        let mut stack = Stack::default();
        for i in order {
            stack.add(&format!("part{i}"), Arc::clone(&parts[i].0), parts[i].1).unwrap();
        }
        let got = (logits(&model, &team, &stack, &tokens), stack.key());
        match &first {
            None => {
                assert_ne!(got.0, base, "the stack changes the logits");
                stack.set_on(false);
                assert_eq!(logits(&model, &team, &stack, &tokens), base, "off");
                stack.set_on(true);
                (0..4).for_each(|i| stack.set_scale(&format!("part{i}"), 0.0).unwrap());
                assert_eq!(logits(&model, &team, &stack, &tokens), base, "scale 0");
                assert!(stack.key().is_empty());
                first = Some(got);
            }
            Some(first) => assert!(got == *first, "another order gives other bits"),
        }
    }
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = permutations(n - 1);
    let insert = |p: &Vec<usize>, at: usize| [&p[..at], &[n - 1], &p[at..]].concat();
    shorter.iter().flat_map(|p| (0..n).map(move |at| insert(p, at))).collect()
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let (Some(path), Some(folder)) = (crate::common::model(crate::real::QWEN2), adapters()) else { return };
    let (model, team) = (open(&path), team(1));
    for (name, at) in [("lora-bard", "blk.0.attn_k.weight"), ("bard-f16.gguf", "general.architecture")] {
        let adapter = Adapter::open(&folder.join(name)).unwrap();
        let error = model.fit(adapter, TensorType::F16, &team).err().expect("does not fit");
        assert!(error.at == at && error.file.is_some(), "{error}");
    }
}
