//! `lapwing perplexity`.
use std::io::Write;
use std::path::PathBuf;

use lapwing::perplexity::{Base, Comparison, Evaluation, LogitsReader, Report, run as evaluate, tokens};
use lapwing_models::Error;

use super::config::Config;
use super::interrupt::Interrupt;
use super::{ModelArg, ModelOptions, Output, Ui, load};

/// Arguments of `lapwing perplexity`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Text to predict (with --kl-divergence it may be left out: the logits file has its tokens)
    #[arg(short, long, value_name = "FILE", required_unless_present = "kl_divergence")]
    file: Option<PathBuf>,
    /// Chunks to evaluate at most (default: all)
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    /// Logits file to write, or with --kl-divergence to compare with; llama.cpp's tool reads and writes it too
    #[arg(long, value_name = "FILE")]
    kl_divergence_base: Option<PathBuf>,
    /// Compare with the logits file
    #[arg(long, requires = "kl_divergence_base")]
    kl_divergence: bool,
    #[command(flatten)]
    options: ModelOptions,
}

/// Context of a chunk where none is given, as in llama.cpp's tool.
const CONTEXT: usize = 512;

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let cancel = Interrupt::install()?.into_cancel();
    // The context of the settings file is one to talk in; this one belongs to the measure, and figures compare only
    // where it is the same.
    let ctx_size = args.options.ctx_size;
    let options = &args.options.or_config(Config::get()?.named(&args.model.model))?;
    let kv_type = options.session()?.kv_type;
    let engine = load::engine(&args.model.file()?, options)?;
    let model = engine.model();
    let stack = load::stack(model, engine.team(), &options.lora)?;
    let (base, mut n_ctx) = match &args.kl_divergence_base {
        None => (Base::None, None),
        Some(path) if args.kl_divergence => {
            let reader = LogitsReader::open(path)?;
            let n_ctx = reader.header().n_ctx;
            (Base::Compare(reader), Some(n_ctx))
        }
        Some(path) => (Base::Write(path), None),
    };
    n_ctx = ctx_size.map(|n| n as usize).or(n_ctx);
    let n_ctx = n_ctx.unwrap_or(CONTEXT);
    let tokens = match &args.file {
        Some(file) => {
            let text = std::fs::read(file).map_err(|e| Error::io("read the text", file, &e))?;
            let text = String::from_utf8(text).map_err(|e| {
                Error::bad_file("the text is not UTF-8")
                    .in_file(file)
                    .at(format!("byte {}", e.utf8_error().valid_up_to()))
            })?;
            tokens(model, &text, n_ctx, args.chunks)?
        }
        None => Vec::new(),
    };
    let shows = ui.shows_progress();
    let progress = |done: usize, all: usize, ppl: f64| {
        if shows {
            eprint!("\rchunk {done} of {all}, perplexity {ppl:.3}{}", if done == all { "\n" } else { "" });
        }
    };
    let evaluation = Evaluation {
        engine: &engine,
        stack: &stack,
        kv_type,
        tokens: &tokens,
        n_ctx,
        max_chunks: args.chunks,
        cancel: &cancel,
    };
    let report = evaluate(&evaluation, base, progress)?;
    print(&report, ui)?;
    Ok(())
}

fn print(report: &Report, ui: &Ui) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let pairs = pairs(report);
    match ui.output {
        Some(Output::Json | Output::Jsonl) => {
            let map: serde_json::Map<_, _> = pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            writeln!(out, "{}", serde_json::Value::Object(map))
        }
        Some(Output::Csv | Output::Md) => {
            let (names, values): (Vec<_>, Vec<_>) =
                pairs.into_iter().map(|(k, v)| (k, v.to_string())).unzip();
            if ui.output == Some(Output::Csv) {
                return writeln!(out, "{}\n{}", names.join(","), values.join(","));
            }
            let line = "|---".repeat(names.len());
            writeln!(out, "| {} |\n{line}|\n| {} |", names.join(" | "), values.join(" | "))
        }
        _ => {
            let Report { tokens, chunks, ppl, ppl_stderr, against } = report;
            writeln!(out, "perplexity {ppl:.4} ± {ppl_stderr:.4} ({tokens} tokens in {chunks} chunks)")?;
            let Some(c) = against else { return Ok(()) };
            writeln!(out, "perplexity of the base {:.4}", c.ppl_base)?;
            writeln!(
                out,
                "KL divergence {:.6} ± {:.6} mean, {:.4} at 99%, {:.4} at most",
                c.kld_mean, c.kld_stderr, c.kld_p99, c.kld_max
            )?;
            writeln!(
                out,
                "same top token {:.2}%, RMS difference of probability {:.3}%",
                c.same_top_pct, c.rms_dp_pct
            )
        }
    }
}

/// The fields of the report under their stable names.
fn pairs(report: &Report) -> Vec<(&'static str, serde_json::Value)> {
    let Report { tokens, chunks, ppl, ppl_stderr, against } = *report;
    let mut pairs = vec![
        ("tokens", tokens.into()),
        ("chunks", chunks.into()),
        ("ppl", ppl.into()),
        ("ppl_stderr", ppl_stderr.into()),
    ];
    if let Some(Comparison { ppl_base, kld_mean, kld_stderr, kld_p99, kld_max, same_top_pct, rms_dp_pct }) =
        against
    {
        pairs.extend([
            ("ppl_base", ppl_base.into()),
            ("kld_mean", kld_mean.into()),
            ("kld_stderr", kld_stderr.into()),
            ("kld_p99", kld_p99.into()),
            ("kld_max", kld_max.into()),
            ("same_top_pct", same_top_pct.into()),
            ("rms_dp_pct", rms_dp_pct.into()),
        ]);
    }
    pairs
}
