//! Small synthetic models of several architectures against logits that llama.cpp computed from the same files.
//!
//! The logits in `tests/data/oracle` come from `tests/oracle/compare.py`, which compares more models and options than
//! are kept here. They also prove that logits files in llama.cpp's format are read.
use std::path::{Path, PathBuf};
use std::process::Command;

/// Largest mean divergence, in nats: what f32 sums in another order and the 16 bits of the file make, some times
/// over. A rotary base or window that is a little wrong costs a thousand times as much.
const LIMIT: f64 = 1e-5;

fn lapwing(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lapwing")).args(args).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "lapwing {args:?}: {stderr}");
    stdout.into_owned()
}

/// Compares the synthetic model `shape` with the kept logits of `name`; `options` as in compare.py.
fn agrees(name: &str, shape: &str, options: &str) {
    let model = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-{name}.gguf"));
    let model = model.to_str().unwrap();
    lapwing(&["synth", shape, model, "-q", "--with", &format!("vocab=512{options}")]);
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/oracle").join(format!("{name}.logits"));
    let command = ["perplexity", model, "--kl-divergence", "--kl-divergence-base", base.to_str().unwrap()];
    let report = lapwing(&[&command[..], &["--kv-type", "f32", "-o", "json", "-q"]].concat());
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let number = |key: &str| report[key].as_f64().unwrap();
    println!("{name}: mean KLD {:.1e}, largest {:.1e}", number("kld_mean"), number("kld_max"));
    assert!(number("kld_mean") <= LIMIT && number("kld_max") <= 10.0 * LIMIT, "{report}");
    assert_eq!(number("same_top_pct"), 100.0, "{report}");
    std::fs::remove_file(model).unwrap();
}

#[test]
fn llama_with_rope_freqs_and_shared_kv_heads() {
    agrees("llama-rope-freqs", "tiny-llama3:f32", "");
}

#[test]
fn llama_with_yarn() {
    agrees("llama-yarn", "tiny-yarn:f32", "");
}

#[test]
fn llama_with_biases() {
    agrees("llama-biased", "tiny-biased:f32", "");
}

#[test]
fn qwen2() {
    agrees("qwen2", "tiny-qwen2:f32", "");
}

#[test]
fn qwen3_with_heads_of_an_odd_size() {
    agrees("qwen3-odd-heads", "tiny-qwen3:f32", ",head_dim=80,heads=6,kv_heads=3");
}

#[test]
fn gemma2() {
    agrees("gemma2", "tiny-gemma2:f32", ",window=16,attention_cap=2");
}

#[test]
fn gemma3_with_linear_scaling() {
    agrees("gemma3-linear", "tiny-gemma3:f32", ",rope=linear:8,rope_base=100,window=16,window_every=2");
}

#[test]
fn phi3_with_long_divisors() {
    agrees("phi3-long", "tiny-longrope:f32", ",original_context=32");
}
