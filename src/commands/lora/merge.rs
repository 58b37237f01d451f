//! `lapwing lora merge`: a model with a stack merged into its weights, and what that costs in quality.
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapwing::divergence::{Divergence, Tuned, divergence};
use lapwing::engine::{Engine, EngineOptions};
use lapwing::sampler::{Chain, Settings};
use lapwing::session::{Cancel, Limits, Session, SessionOptions};
use lapwing_kernels::TensorType;
use lapwing_models::lora::Stack;
use lapwing_models::mix::Mix;
use lapwing_models::model::{Model, OpenOptions};
use lapwing_models::{Class, Error};

use super::{Ui, load, output_file, quantize};
use crate::commands::ModelArg;
use crate::commands::interrupt::Interrupt;
use crate::commands::progress::Progress;

/// Writes a model with a stack of adapters merged into its weights, and compares it with the stack unmerged: few bits
/// can swallow a weak tune.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    target: output_file::Target,
    /// Type to write: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k or q4_k_m
    #[arg(value_name = "TYPE", value_parser = quantize::mix)]
    mix: Mix,
    /// LoRA adapter of the stack, with its scale (repeatable)
    #[arg(long, value_name = "PATH[=SCALE]", required = true)]
    lora: Vec<String>,
    /// Text on which the merged model is compared (default: one that the model with its stack writes)
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of text to compare on at most; 0 compares nothing
    #[arg(long, value_name = "N", default_value_t = 256)]
    tokens: usize,
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let cancel = Interrupt::install()?.into_cancel();
    let text = args.text.as_deref().map(read_text).transpose()?;
    let options = EngineOptions { threads: Some(args.target.threads()), ..EngineOptions::default() };
    let engine = Engine::open(&args.model.file()?, &options)?;
    let (model, team) = (engine.model(), engine.team());
    let adapters = load::adapters(&args.lora)?;
    let combined = model.combine(&adapters)?;
    let stack = Some((&combined, team));
    let (written, bytes) = quantize::write(model.gguf(), args.mix, &args.target, stack, ui, &cancel)?;

    let mut found = None;
    if args.tokens > 0 {
        let stack = load::stack_of(model, team, &adapters, TensorType::F32)?;
        let tokens = match &text {
            Some(text) => {
                let tokenizer = model.tokenizer();
                let mut tokens: Vec<u32> =
                    tokenizer.bos().filter(|_| tokenizer.add_bos()).into_iter().collect();
                tokens.extend(tokenizer.encode(text, false));
                tokens.truncate(args.tokens);
                tokens
            }
            None => own_text(&engine, &stack, args.tokens, &cancel)?,
        };
        let merged = Model::open(&written[0], &OpenOptions::default())?;
        let of_stack = Tuned { model, stack: &stack };
        let compare = |what, other| {
            let progress = Progress::tokens(ui, what);
            divergence(team, of_stack, other, &tokens, 0, |done, of| {
                progress.set(done as u64, of as u64);
                !cancel.is_cancelled()
            })
        };
        let none = Stack::default();
        let of_merged = compare("comparing", Tuned { model: &merged, stack: &none })?;
        let of_base = compare("comparing the base", Tuned { model, stack: &none })?;
        found = Some((of_merged, of_base));
    }
    report(&args, &written, bytes, found.as_ref(), ui)
}

fn report(
    args: &Args,
    written: &[PathBuf],
    bytes: u64,
    found: Option<&(Divergence, Divergence)>,
    ui: &Ui,
) -> anyhow::Result<()> {
    if ui.json() {
        let mut value = serde_json::json!({
            "files": output_file::names(written), "type": args.mix.name(), "tensor_bytes": bytes,
        });
        if let Some((merged, base)) = found {
            value["tokens"] = merged.kl.len().into();
            value["kld_mean"] = merged.mean().into();
            value["kld_max"] = merged.max().into();
            value["same_top_pct"] = merged.same_top_pct().into();
            value["kld_mean_base"] = base.mean().into();
        }
        println!("{value}");
        return Ok(());
    }
    output_file::say_written(written, ui);
    if let Some((merged, base)) = found {
        println!(
            "KL divergence from the unmerged stack {:.6} nats mean, {:.4} at most; same top token {:.1}% ({} tokens)",
            merged.mean(),
            merged.max(),
            merged.same_top_pct(),
            merged.kl.len()
        );
        println!("for comparison: the base without the stack {:.6} nats mean", base.mean());
    }
    Ok(())
}

fn read_text(file: &Path) -> lapwing_models::Result<String> {
    let bytes = std::fs::read(file).map_err(|e| Error::io("read the text", file, &e))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = format!("byte {}", e.utf8_error().valid_up_to());
        Error::bad_file("the text is not UTF-8").in_file(file).at(at)
    })
}

/// `n` tokens drawn from the model with its stack: on them the mean divergence is what the definition asks for.
fn own_text(engine: &Arc<Engine>, stack: &Stack, n: usize, cancel: &Cancel) -> anyhow::Result<Vec<u32>> {
    let tokenizer = engine.model().tokenizer();
    let first = tokenizer.bos().map_or_else(|| tokenizer.encode("\n", false), |bos| vec![bos]);
    let options = SessionOptions { context: Some(n + first.len()), ..SessionOptions::default() };
    let mut session = Session::new(engine.clone(), &options)?;
    session.set_stack(stack.clone());
    session.eval(&first, cancel, &mut |_, _| {})?;
    let mut settings = Settings::default();
    for (name, value) in [("samplers", "temperature"), ("temp", "1"), ("seed", "0")] {
        settings.set(name, value)?;
    }
    let limits = Limits { predict: Some(n - 1), ignore_eos: true, ..Limits::default() };
    let mut chain = Chain::new(&settings, tokenizer);
    session.generate(&mut chain, &limits, cancel, &mut |_| ControlFlow::Continue(()))?;
    if cancel.is_cancelled() {
        return Err(
            Error::new(Class::Interrupted, "interrupted while the text to compare on was made").into()
        );
    }
    Ok(session.tokens().to_vec())
}
