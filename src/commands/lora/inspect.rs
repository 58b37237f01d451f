//! `lapwing lora inspect`: what adapters are, how they relate, and whether they fit a model. Nothing is computed.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use lapwing_models::lora::{Adapter, Container, Delta, cosine};
use lapwing_models::model::{Model, OpenOptions};
use lapwing_models::{Error, Result};
use serde_json::{Value, json};

use super::Ui;
use super::inspect_any::{Report, bytes, count, print};
use crate::commands::find;

/// Shows what adapters are; of several, also the cosine between each two: near 0 they do not get in each other's way.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Adapters: GGUF files or PEFT folders
    #[arg(required = true)]
    adapters: Vec<PathBuf>,
    /// Model that they are to fit
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let open = |name: &PathBuf| Model::open(find::model(name)?, &OpenOptions::default());
    let model = args.model.as_ref().map(open).transpose()?;
    let mut report = Report { text: String::new(), json: json!({}) };
    let (mut good, mut all, mut failed) = (Vec::new(), Vec::new(), None);
    for path in &args.adapters {
        if !report.text.is_empty() {
            report.text.push('\n');
        }
        match Adapter::open(path) {
            Ok(adapter) => {
                let mut one = describe(&adapter, args.tensors);
                if let Some(base) = &model {
                    fits(&mut one, adapter.check_fits(base), &mut failed);
                }
                report.text += &one.text;
                all.push(one.json);
                good.push(adapter);
            }
            Err(error) => {
                let mut one = Report { text: String::new(), json: json!({ "file": path.to_string_lossy() }) };
                one.line("adapter", path.display());
                one.line("problem", &error);
                one.json["problems"] = json!([error.to_string()]);
                report.text += &one.text;
                all.push(one.json);
                failed.get_or_insert(error);
            }
        }
    }
    report.json["adapters"] = all.into();
    let mut cosines = Vec::new();
    for (i, one) in good.iter().enumerate() {
        for other in &good[i + 1..] {
            let cosine = cosine(one, other, model.as_ref());
            let unknown =
                "unknown (a GGUF and a PEFT adapter: --model tells how their rows relate)".to_owned();
            let text = cosine.map_or(unknown, |c| format!("{c:+.4}"));
            if cosines.is_empty() {
                report.text.push('\n');
            }
            report.line("cosine", format!("{} · {}  {text}", one.name, other.name));
            cosines.push(json!({ "a": one.path.to_string_lossy(), "b": other.path.to_string_lossy(), "cosine": cosine }));
        }
    }
    report.json["cosines"] = cosines.into();
    print(&report, ui)?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn fits(report: &mut Report, result: Result<()>, failed: &mut Option<Error>) {
    report.json["fits"] = result.is_ok().into();
    match result {
        Ok(()) => report.line("fits", "yes"),
        Err(error) => {
            report.line("fits", format!("no: {error}"));
            if let Some(problems) = report.json["problems"].as_array_mut() {
                problems.push(error.to_string().into());
            }
            failed.get_or_insert(error);
        }
    }
}

/// What one adapter is.
pub fn describe(adapter: &Adapter, tensors: bool) -> Report {
    let mut report = Report { text: String::new(), json: json!({}) };
    let container = match adapter.container {
        Container::Gguf => "GGUF",
        Container::Peft => "PEFT",
    };
    let deltas = || adapter.deltas.values();
    let mut ranks: Vec<usize> = deltas().map(|d| d.rank).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let values: u64 = deltas().map(|d| (d.a.rows * d.a.cols + d.b.rows * d.b.cols) as u64).sum();
    let dora = if adapter.is_dora() { ", with DoRA magnitudes" } else { "" };
    let mut kinds: BTreeMap<String, Vec<&Delta>> = BTreeMap::new();
    for (name, delta) in &adapter.deltas {
        kinds.entry(kind_of(name)).or_default().push(delta);
    }
    report.line("name", &adapter.name);
    report.line(
        "adapter",
        format!("LoRA from {container}, {}, {}{dora}", adapter.path.display(), bytes(adapter.bytes)),
    );
    report.line("base", adapter.architecture.as_deref().unwrap_or("not named"));
    report.line("rank", range(deltas().map(|d| d.rank as f32)));
    report.line("scale", range(deltas().map(|d| d.scale)));
    report.line("parameters", count(values));
    report.line("targets", format!("{} tensors", adapter.deltas.len()));
    for (kind, deltas) in &kinds {
        let (rank, scale) =
            (range(deltas.iter().map(|d| d.rank as f32)), range(deltas.iter().map(|d| d.scale)));
        report.line("", format!("{kind:<14} {:>4} tensors  rank {rank:<8} scale {scale}", deltas.len()));
    }
    let problems = problems(adapter);
    problems.iter().for_each(|problem| report.line("problem", problem));
    report.json = json!({
        "kind": "adapter", "name": adapter.name, "container": container, "file": adapter.path.to_string_lossy(),
        "file_bytes": adapter.bytes, "architecture": adapter.architecture, "dora": adapter.is_dora(), "ranks": ranks,
        "parameters": values, "targets": adapter.deltas.len(), "kinds": kinds.keys().collect::<Vec<_>>(),
        "problems": problems,
    });
    if tensors {
        report.text.push('\n');
        for (name, d) in &adapter.deltas {
            let _ = writeln!(
                report.text,
                "{name:<36} rank {:>4}  scale {:<10} {}",
                d.rank,
                d.scale,
                d.a.dtype.name()
            );
        }
        let tensor = |(name, d): (&String, &Delta)| -> Value {
            json!({ "name": name, "rank": d.rank, "scale": d.scale, "type": d.a.dtype.name() })
        };
        report.json["tensors"] = adapter.deltas.iter().map(tensor).collect();
    }
    report
}

/// What is allowed and yet hardly meant.
fn problems(adapter: &Adapter) -> Vec<String> {
    let empty =
        adapter.deltas.values().filter(|d| d.scale == 0.0 || d.b.to_f32().iter().all(|v| *v == 0.0)).count();
    match empty {
        0 => Vec::new(),
        n if n == adapter.deltas.len() => vec!["it changes nothing: B or the scale is 0 everywhere".into()],
        n => vec![format!("{n} of {} tensors are not changed: B or the scale is 0", adapter.deltas.len())],
    }
}

/// One number, or the smallest and the largest.
fn range(values: impl Iterator<Item = f32>) -> String {
    let (low, high) = values.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low == high { low.to_string() } else { format!("{low} to {high}") }
}

/// The parts of the layers that an adapter changes, without what all of one kind share: `q`, `output`, `up` …
pub fn kinds(adapter: &Adapter) -> Vec<String> {
    let short = |name: &String| {
        let kind = kind_of(name);
        kind.trim_start_matches("attn_").trim_start_matches("ffn_").to_owned()
    };
    let kinds: std::collections::BTreeSet<_> = adapter.deltas.keys().map(short).collect();
    kinds.into_iter().collect()
}

/// The part of a layer that a tensor is: `attn_q` of `blk.3.attn_q.weight`.
fn kind_of(tensor: &str) -> String {
    let name = tensor.strip_suffix(".weight").unwrap_or(tensor);
    name.rsplit('.').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_kinds_for_people() {
        assert_eq!(range([2.0, 2.0].into_iter()), "2");
        assert_eq!(range([4.0, 0.5, 2.0].into_iter()), "0.5 to 4");
        assert_eq!(kind_of("blk.3.attn_q.weight"), "attn_q");
        assert_eq!(kind_of("token_embd.weight"), "token_embd");
    }
}
