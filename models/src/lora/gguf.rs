//! GGUF adapters: `<base tensor>.lora_a` and `.lora_b`, and alpha in the metadata.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use lapwing_kernels::TensorType;

use super::factor::{Dtype, Factor, Source};
use super::{Adapter, Container, Delta, RowOrder};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, OpenOptions, Tensor};

/// Opens the adapter in the GGUF file at `path`.
pub fn open(path: &Path) -> Result<Adapter> {
    read(Gguf::open(path, &OpenOptions::default())?)
}

/// Reads the adapter in an open file.
pub fn read(file: Gguf) -> Result<Adapter> {
    let file = Arc::new(file);
    expect_str(&file, "general.type", "adapter")?;
    expect_str(&file, "adapter.type", "lora")?;
    let architecture = file.architecture()?.to_string();
    if file.get("adapter.alora.invocation_tokens").is_some() {
        return Err(Error::bad_file("an activated LoRA (aLoRA), which lapwing does not compute")
            .at("adapter.alora.invocation_tokens"));
    }
    let alpha = file.opt_f32("adapter.lora.alpha")?.unwrap_or(0.0);

    let mut targets = BTreeSet::new();
    for tensor in file.tensors() {
        let target = tensor.name.strip_suffix(".lora_a").or_else(|| tensor.name.strip_suffix(".lora_b"));
        targets.insert(target.map(str::to_string).ok_or_else(|| {
            Error::bad_file("a tensor that is no LoRA factor")
                .at(tensor.name)
                .expected_got("a name that ends in .lora_a or .lora_b", tensor.name)
        })?);
    }
    let mut deltas = BTreeMap::new();
    for target in targets {
        let (a, b) =
            (factor(&file, &format!("{target}.lora_a"))?, factor(&file, &format!("{target}.lora_b"))?);
        let rank = if Delta::is_embedding(&target) { a.cols } else { a.rows };
        // Written by old converters: alpha 0 or absent means that the factors are scaled already.
        let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f32 };
        deltas.insert(target, Delta { rank, scale, a, b, magnitude: None, rows: RowOrder::Base });
    }
    let mut adapter = Adapter::new(file.path(), Container::Gguf, deltas, file.file_bytes())?;
    adapter.architecture = Some(architecture);
    Ok(adapter)
}

fn expect_str(file: &Gguf, key: &str, expected: &str) -> Result<()> {
    let got = file.opt_str(key)?.unwrap_or("nothing");
    if got == expected {
        return Ok(());
    }
    Err(Error::bad_file("not a LoRA adapter").at(key).expected_got(expected, got))
}

fn factor(file: &Arc<Gguf>, name: &str) -> Result<Factor> {
    let id = file.tensor_id(name).ok_or_else(|| Error::bad_file("a factor is missing").at(name))?;
    let Tensor { ty, shape, .. } = file.by_id(id);
    let dtype = match ty {
        TensorType::F32 => Dtype::F32,
        TensorType::F16 => Dtype::F16,
        TensorType::Bf16 => Dtype::Bf16,
        TensorType::Q8_0 => Dtype::Q8_0,
        other => {
            return Err(Error::bad_file("a factor of a type that adapters do not use")
                .at(name)
                .expected_got("f32, f16, bf16 or q8_0", other));
        }
    };
    let [cols, rows] = *shape else {
        return Err(Error::bad_file("a factor is not a matrix")
            .at(name)
            .expected_got("two dimensions", format!("shape {shape:?}")));
    };
    Factor::new(Source::Gguf(Arc::clone(file), id), dtype, rows, cols).map_err(|e| e.at(name))
}
