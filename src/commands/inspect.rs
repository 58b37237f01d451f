//! `lapwing inspect`: what a model or adapter is, and what it will cost. Nothing is computed.
use std::fmt::Write as _;
use std::path::PathBuf;

use lapwing::cost::Cost;
use lapwing::session::default_context;
use lapwing::text::safe;
use lapwing_models::arch::DecoderSpec;
use lapwing_models::gguf::{Gguf, OpenOptions};
use lapwing_models::kv_cache::KvType;
use lapwing_models::lora::Adapter;
use lapwing_models::model::Model;
use lapwing_models::{Class, Error, Result, os};
use serde_json::{Value, json};

use super::Ui;
use super::lora::inspect::describe as describe_adapter;

/// Arguments of `lapwing inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model file, the name of one, or an adapter (a GGUF file or a PEFT folder)
    file: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print the chat template and nothing else
    #[arg(long)]
    template: bool,
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let is_peft = args.file.is_dir()
        || args.file.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors") || e == "json");
    if is_peft {
        return print(&describe_adapter(&Adapter::open(&args.file)?, args.tensors), ui);
    }
    let path = super::find::model(&args.file)?;
    let gguf = Gguf::open(&path, &OpenOptions { any_type: true, ..OpenOptions::default() })?;
    if gguf.opt_str("general.type")? == Some("adapter") {
        return print(&describe_adapter(&Adapter::open(&path)?, args.tensors), ui);
    }
    if args.template {
        return template(&gguf, ui);
    }
    print(&model(&gguf, args.tensors)?, ui)
}

/// A report: lines for people, and the same as JSON.
pub struct Report {
    /// Lines.
    pub text: String,
    /// An object.
    pub json: Value,
}

impl Report {
    /// Adds a line: a name, and what is so named.
    pub fn line(&mut self, name: &str, what: impl std::fmt::Display) {
        // A stranger's name must not look like further lines. Writing to a string cannot fail.
        let what = what.to_string().replace(['\n', '\r'], " ");
        let _ = writeln!(self.text, "{name:<13} {what}");
    }
}

/// Prints a report in the form asked for.
pub fn print(report: &Report, ui: &Ui) -> anyhow::Result<()> {
    let text = if ui.json() { format!("{:#}\n", report.json) } else { safe(&report.text).into_owned() };
    write_stdout(&text)
}

fn write_stdout(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn template(gguf: &Gguf, ui: &Ui) -> anyhow::Result<()> {
    let source = gguf.opt_str("tokenizer.chat_template")?.ok_or_else(|| {
        Error::new(Class::Other, "this model has no chat template")
            .in_file(gguf.path())
            .advice("chat uses ChatML then")
    })?;
    let text = if ui.json() { json!({ "template": source }).to_string() } else { safe(source).into_owned() };
    write_stdout(&(text + "\n"))
}

fn model(gguf: &Gguf, tensors: bool) -> Result<Report> {
    let mut report = Report { text: String::new(), json: json!({}) };
    let name = gguf.opt_str("general.name")?.unwrap_or("(no name)");
    let parts = if gguf.n_parts() > 1 { format!(" in {} parts", gguf.n_parts()) } else { String::new() };
    report.line("name", name);
    report.line(
        "file",
        format!("{}, {}{parts}, GGUF {}", gguf.path().display(), bytes(gguf.file_bytes()), gguf.version()),
    );
    let architecture = gguf.architecture()?;
    report.json = json!({
        "kind": "model", "name": name, "file": gguf.path().to_string_lossy(), "file_bytes": gguf.file_bytes(),
        "parts": gguf.n_parts(), "gguf_version": gguf.version(), "architecture": architecture,
    });
    for key in ["general.license", "general.size_label"] {
        if let Some(text) = gguf.opt_str(key)? {
            report.line(&key["general.".len()..].replace('_', " "), text);
            report.json[&key["general.".len()..]] = text.into();
        }
    }
    // Opened as for running it: what stands against that is part of the answer, and the rest is still worth showing.
    let why_not = match Model::open(gguf.path(), &OpenOptions::default()) {
        Ok(model) => {
            describe(&mut report, gguf, model.spec())?;
            None
        }
        Err(error) if error.class == Class::BadFile => Some(error),
        Err(error) => return Err(error),
    };
    vocabulary(&mut report, gguf)?;
    types(&mut report, gguf);
    if let Some(error) = why_not {
        report.line("architecture", architecture);
        report.line("cannot run", &error);
        report.json["cannot_run"] = error.to_string().into();
    }
    if tensors {
        list(&mut report, gguf);
    }
    Ok(report)
}

/// Shape and cost.
fn describe(report: &mut Report, gguf: &Gguf, spec: &DecoderSpec) -> Result<()> {
    let (ffn, activation) = spec.dense()?;
    report.line(
        "architecture",
        format!(
            "{}: {} layers, width {}, {} heads ({} for keys and values) of {}, feed-forward {ffn} ({activation:?})",
            spec.architecture, spec.layers.len(), spec.width, spec.heads, spec.kv_heads, spec.head_dim
        ),
    );
    let windows: Vec<usize> = spec.layers.iter().filter_map(|l| l.window).collect();
    let window = windows.iter().max().map_or(String::new(), |w| {
        format!(", {} of {} layers see a window of {w}", windows.len(), spec.layers.len())
    });
    report.line("context", format!("{} tokens{window}", spec.context));
    let context = default_context(spec);
    let cost = Cost::new(gguf, spec, KvType::F16, context);
    report.line("per token", format!("{} of weights read", bytes(cost.per_token)));
    report.line(
        "cache",
        format!(
            "{} per position (f16), {} for {context} tokens",
            bytes(cost.per_position),
            bytes(cost.cache)
        ),
    );
    let needed = cost.weights.saturating_add(cost.cache);
    let free = os::available_memory();
    report.line(
        "memory",
        format!(
            "{} ({} of it mapped weights){}",
            bytes(needed),
            bytes(cost.weights),
            free.map_or(String::new(), |free| format!(", {} are available", bytes(free)))
        ),
    );
    report.json["spec"] = json!({
        "layers": spec.layers.len(), "width": spec.width, "heads": spec.heads, "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim, "feed_forward": ffn, "context": spec.context, "vocab": spec.vocab,
        "windowed_layers": windows.len(), "window": windows.iter().max(),
    });
    report.json["cost"] = json!({
        "weight_bytes": cost.weights, "bytes_per_token": cost.per_token, "cache_bytes_per_position": cost.per_position,
        "context": context, "cache_bytes": cost.cache, "memory_bytes": needed, "available_bytes": free,
    });
    Ok(())
}

fn vocabulary(report: &mut Report, gguf: &Gguf) -> Result<()> {
    let n = gguf.opt_strings("tokenizer.ggml.tokens")?.map_or(0, |t| t.len());
    let kind = gguf.opt_str("tokenizer.ggml.model")?.unwrap_or("none");
    let pre = gguf.opt_str("tokenizer.ggml.pre")?;
    let template = gguf.opt_str("tokenizer.chat_template")?.is_some();
    let with = if template { "with" } else { "without" };
    let pre_text = pre.map_or(String::new(), |p| format!(", pre-tokeniser {p}"));
    report.line("vocabulary", format!("{n} tokens, {kind}{pre_text}, {with} chat template"));
    report.json["vocabulary"] = json!({ "tokens": n, "model": kind, "pre": pre, "chat_template": template });
    Ok(())
}

/// Parameters, and the mix of types by size.
fn types(report: &mut Report, gguf: &Gguf) {
    // (name, tensors, values, bytes)
    let mut mix: Vec<(&str, u64, u64, u64)> = Vec::new();
    let mut add = |name, values: u64, bytes: u64| match mix.iter_mut().find(|m| m.0 == name) {
        Some(m) => (m.1, m.2, m.3) = (m.1 + 1, m.2 + values, m.3 + bytes),
        None => mix.push((name, 1, values, bytes)),
    };
    gguf.tensors().for_each(|t| add(t.ty.name(), t.len() as u64, t.data.len() as u64));
    gguf.unsupported().iter().for_each(|t| add(t.type_name, t.shape.iter().product(), t.bytes));
    mix.sort_by_key(|m| std::cmp::Reverse(m.3));
    let values: u64 = mix.iter().map(|m| m.2).sum();
    let all: u64 = mix.iter().map(|m| m.3).sum();
    let per_weight = all as f64 * 8.0 / (values as f64).max(1.0);
    report.line(
        "parameters",
        format!(
            "{} in {} tensors, {per_weight:.2} bits each",
            count(values),
            gguf.n_tensors() + gguf.unsupported().len()
        ),
    );
    for (name, n, _, size) in &mix {
        let share = *size as f64 * 100.0 / (all as f64).max(1.0);
        report.line("", format!("{name:<8} {n:>5} tensors {:>10} {share:>5.1}%", bytes(*size)));
    }
    report.json["parameters"] = values.into();
    report.json["bits_per_weight"] = per_weight.into();
    report.json["types"] =
        mix.iter().map(|m| json!({ "type": m.0, "tensors": m.1, "values": m.2, "bytes": m.3 })).collect();
}

fn list(report: &mut Report, gguf: &Gguf) {
    let mut all: Vec<Value> = Vec::new();
    report.text.push('\n');
    let rows = gguf
        .tensors()
        .map(|t| (t.name, t.ty.name(), t.shape.iter().map(|&n| n as u64).collect(), t.data.len() as u64));
    let others = gguf.unsupported().iter().map(|t| (t.name.as_str(), t.type_name, t.shape.clone(), t.bytes));
    for (name, ty, shape, size) in rows.chain(others) {
        let shape: Vec<u64> = shape;
        let dims = shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ");
        let _ = writeln!(report.text, "{name:<36} {ty:<8} {dims:<20} {:>10}", bytes(size));
        all.push(json!({ "name": name, "type": ty, "shape": shape, "bytes": size }));
    }
    report.json["tensors"] = all.into();
}

/// Bytes for people: powers of 1000, three digits.
pub fn bytes(n: u64) -> String {
    scaled(n, ["B", "kB", "MB", "GB", "TB"])
}

/// A number of things for people.
pub fn count(n: u64) -> String {
    scaled(n, ["", "thousand", "million", "billion", "trillion"]).trim_end().to_owned()
}

fn scaled(n: u64, units: [&str; 5]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (98_362_432, "98.4 MB"),
            (999_600, "1.00 MB"),
            (3_791_940_000, "3.79 GB"),
            (134_515_008_000, "135 GB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(count(134_515_008), "135 million");
        assert_eq!(count(12), "12");
    }
}
