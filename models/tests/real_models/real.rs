//! What tests of the decoder share: real models opened or as f32, and golden data.
use std::path::{Path, PathBuf};

use lapwing_kernels::TensorType;
use lapwing_kernels::format::decode_row;
use lapwing_kernels::isa::Isa;
use lapwing_kernels::team::Team;
use lapwing_models::gguf::{Gguf, OpenOptions, Writer};
use lapwing_models::model::Model;
use serde_json::Value;

pub const SMOLLM2: &str = "smollm2-135m-instruct-q4_1.gguf";
pub const GEMMA3: &str = "gemma-3-270m-q4_k_m.gguf";
pub const QWEN2: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";

pub fn open(path: &Path) -> Model {
    Model::open(path, &OpenOptions::default()).unwrap()
}

pub fn team(threads: usize) -> Team {
    Team::new(threads, Isa::best()).unwrap()
}

/// Golden data of `tests/data/golden`.
pub fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// The model with all weights as f32, written once to the folder for test files of this target.
pub fn dequantised(path: &Path) -> PathBuf {
    let name = format!("{}-as-f32.gguf", path.file_stem().unwrap().to_str().unwrap());
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if out.exists() {
        return out;
    }
    let gguf = Gguf::open(path, &OpenOptions::default()).unwrap();
    let mut writer = Writer::new(&out);
    for (key, value) in gguf.entries() {
        writer.set(key, value.clone());
    }
    for tensor in gguf.tensors() {
        writer.tensor(tensor.name, TensorType::F32, tensor.shape).unwrap();
    }
    let mut stream = writer.start().unwrap();
    for tensor in gguf.tensors() {
        let cols = tensor.shape[0];
        let mut row = vec![0.0; cols];
        for bytes in tensor.data.chunks_exact(tensor.ty.row_bytes(cols).unwrap()) {
            decode_row(tensor.ty, bytes, &mut row);
            let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
            stream.write(&bytes).unwrap();
        }
    }
    stream.finish().unwrap();
    out
}

/// Index of the largest value, the first of equals.
pub fn argmax(values: &[f32]) -> u32 {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best }) as u32
}

/// ln Σ exp, in f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + logits.iter().map(|&l| f64::from(l - max).exp()).sum::<f64>().ln()
}

/// KL divergence of the distribution that logits `q` stand for from that of `p`.
pub fn kl(p: &[f32], q: &[f32]) -> f64 {
    let (of_p, of_q) = (log_sum_exp(p), log_sum_exp(q));
    let term =
        |(p, q): (&f32, &f32)| (f64::from(*p) - of_p).exp() * (f64::from(*p) - of_p - f64::from(*q) + of_q);
    p.iter().zip(q).map(term).sum()
}
