//! Writing a stack as one adapter that other programs load with the same result.
//!
//! All scales are in B, but for the factor alpha / r that every reader applies with the rank of each tensor: alpha is
//! the largest rank R, and B is made smaller by r / R where a tensor has a smaller one.
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use lapwing_kernels::team::Team;
use lapwing_kernels::{TensorType, encode_row};
use serde_json::{Value, json};

use super::Delta;
use super::combine::{Change, Combined, transposed};
use super::names::module_of_tensor;
use crate::error::{Class, Error, Result};
use crate::gguf::Writer;
use crate::os::NewFile;

/// Element types that exported factors may have, and their names in safetensors files.
const TYPES: &[(TensorType, &str)] =
    &[(TensorType::F32, "F32"), (TensorType::F16, "F16"), (TensorType::Bf16, "BF16")];

/// The factors of one target as they are written.
struct Factors {
    /// `[r][inputs]`; of the embedding `[vocabulary][r]`.
    a: Vec<f32>,
    /// `[outputs][r]`
    b: Vec<f32>,
}

impl Combined<'_> {
    /// Writes one GGUF adapter, its factors as `ty` (f32, f16 or bf16).
    ///
    /// # Errors
    /// A stack with DoRA magnitudes, which GGUF adapters cannot hold, or without any change; another type; a value
    /// that the type cannot hold; what [`NewFile`] gives.
    pub fn write_gguf(&self, team: &Team, path: &Path, ty: TensorType) -> Result<Vec<PathBuf>> {
        let alpha = self.alpha(path, ty)?;
        if self.is_dora() {
            return Err(Error::new(Class::Usage, "a GGUF adapter cannot hold DoRA magnitudes")
                .in_file(path)
                .advice("write a PEFT folder, or merge the stack into the model"));
        }
        let mut writer = Writer::new(path);
        writer
            .set("general.architecture", self.model().spec().architecture)
            .set("general.type", "adapter")
            .set("general.name", self.name())
            .set("adapter.type", "lora")
            .set("adapter.lora.alpha", alpha as f32);
        for (target, &rank) in self.ranks() {
            let (rows, cols) = self.shape(target)?;
            let a = if Delta::is_embedding(target) { [rank, rows] } else { [cols, rank] };
            let outputs = if Delta::is_embedding(target) { cols } else { rows };
            writer.tensor(&format!("{target}.lora_a"), ty, &a)?;
            writer.tensor(&format!("{target}.lora_b"), ty, &[rank, outputs])?;
        }
        let mut stream = writer.start()?;
        for target in self.ranks().keys() {
            let (factors, _) = self.factors(team, target, alpha)?;
            for values in [factors.a, factors.b] {
                stream.write(&encoded(&values, ty).map_err(|e| e.in_file(path).at(*target))?)?;
            }
        }
        stream.finish()
    }

    /// Writes a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`, its factors as `ty` (f32, f16 or
    /// bf16). The folder is made if there is none.
    ///
    /// # Errors
    /// A stack with DoRA magnitudes and a second adapter, or without any change; another type; a value that the type
    /// cannot hold; what [`NewFile`] gives.
    pub fn write_peft(&self, team: &Team, folder: &Path, ty: TensorType) -> Result<Vec<PathBuf>> {
        let alpha = self.alpha(folder, ty)?;
        if self.is_dora() && self.parts().len() > 1 {
            return Err(Error::new(Class::Usage, "a DoRA adapter and others cannot be written as one")
                .in_file(folder)
                .advice("export it alone, or merge the stack into the model"));
        }
        let modules = self.modules()?;
        let header = self.peft_header(&modules, ty)?;
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, &e))?;
        let mut weights = NewFile::create(&folder.join("adapter_model.safetensors"))?;
        weights.write(&(header.len() as u64).to_le_bytes())?;
        weights.write(&header)?;
        for (target, _) in &modules {
            let (mut factors, change) = self.factors(team, target, alpha)?;
            let mut magnitude = change.magnitude;
            if let Some(heads) = self.model().permuted_heads(target) {
                factors.b = halves(&factors.b, change.rank, heads);
                magnitude = magnitude.map(|m| halves(&m, 1, heads));
            }
            if Delta::is_embedding(target) {
                factors.a = transposed(&factors.a, change.rank);
            }
            let in_file = |e: Error| e.in_file(folder).at(*target);
            weights.write(&encoded(&factors.a, ty).map_err(in_file)?)?;
            weights.write(&encoded(&factors.b, ty).map_err(in_file)?)?;
            if let Some(magnitude) = magnitude {
                weights.write(&encoded(&magnitude, ty).map_err(in_file)?)?;
            }
        }
        let mut config = NewFile::create(&folder.join("adapter_config.json"))?;
        let settings = self.peft_config(&modules, alpha);
        config.write(format!("{settings:#}\n").as_bytes())?;
        let paths = vec![weights.target().to_path_buf(), config.target().to_path_buf()];
        weights.commit()?;
        config.commit()?;
        Ok(paths)
    }

    /// The largest rank, which is also alpha.
    fn alpha(&self, out: &Path, ty: TensorType) -> Result<usize> {
        if !TYPES.iter().any(|(known, _)| *known == ty) {
            return Err(Error::new(Class::Usage, "factors are not written in this type")
                .expected_got("f32, f16 or bf16", ty));
        }
        self.ranks().values().max().copied().ok_or_else(|| {
            Error::new(Class::Usage, "there is nothing to write: no adapter of a scale other than 0")
                .in_file(out)
        })
    }

    fn is_dora(&self) -> bool {
        self.parts().iter().any(|(adapter, _)| adapter.is_dora())
    }

    /// What the stack is made of: `bard + 0.5 json`.
    fn name(&self) -> String {
        let part = |(adapter, scale): &&(super::Adapter, f32)| match *scale {
            1.0 => adapter.name.clone(),
            scale => format!("{scale} {}", adapter.name),
        };
        self.parts().iter().map(part).collect::<Vec<_>>().join(" + ")
    }

    /// (rows, columns) of a target.
    fn shape(&self, target: &str) -> Result<(usize, usize)> {
        let shape = self.model().target_shape(target);
        let (inputs, outputs) =
            shape.ok_or_else(|| Error::bad_file("the model has no such tensor").at(target))?;
        Ok(if Delta::is_embedding(target) { (inputs, outputs) } else { (outputs, inputs) })
    }

    fn factors(&self, team: &Team, target: &str, alpha: usize) -> Result<(Factors, Change)> {
        let mut change = self
            .change(team, target)
            .ok_or_else(|| Error::bad_file("the stack does not change this tensor").at(target))?;
        let (left, right) = (std::mem::take(&mut change.left), std::mem::take(&mut change.right));
        let (a, mut b) = if Delta::is_embedding(target) {
            let width = right.len() / change.rank;
            (left, transposed(&right, width))
        } else {
            (right, left)
        };
        if change.rank < alpha {
            b.iter_mut().for_each(|v| *v *= change.rank as f32 / alpha as f32);
        }
        Ok((Factors { a, b }, change))
    }

    /// Each target with the Hugging Face name of its module.
    fn modules(&self) -> Result<Vec<(&str, String)>> {
        let fused = self.model().spec().architecture == "phi3";
        let named = self.ranks().keys().map(|target| {
            let module = module_of_tensor(target, fused);
            let unknown = || Error::bad_file("no Hugging Face module is known for this tensor").at(*target);
            Ok((*target, module.ok_or_else(unknown)?))
        });
        named.collect()
    }

    /// The header of the safetensors file, padded as its readers expect.
    fn peft_header(&self, modules: &[(&str, String)], ty: TensorType) -> Result<Vec<u8>> {
        let dtype = TYPES.iter().find(|(known, _)| *known == ty).map_or("", |(_, name)| *name);
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), json!({ "format": "pt" }));
        let mut offset = 0;
        let mut add = |name: String, shape: &[usize]| {
            let end = offset + shape.iter().product::<usize>() * ty.block_bytes();
            header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] }));
            offset = end;
        };
        for (target, module) in modules {
            let (rank, (rows, cols)) = (self.ranks()[target], self.shape(target)?);
            let name = |part: &str| format!("base_model.model.{module}.{part}");
            if Delta::is_embedding(target) {
                add(name("lora_embedding_A"), &[rank, rows]);
                add(name("lora_embedding_B"), &[cols, rank]);
                continue;
            }
            add(name("lora_A.weight"), &[rank, cols]);
            add(name("lora_B.weight"), &[rows, rank]);
            if self.is_dora() {
                add(name("lora_magnitude_vector"), &[rows]);
            }
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        Ok(text)
    }

    fn peft_config(&self, modules: &[(&str, String)], alpha: usize) -> Value {
        // Whole names of modules, so that none is meant that has no factors here.
        let targets: Vec<&str> = modules.iter().map(|(_, module)| module.as_str()).collect();
        let ranks: serde_json::Map<String, Value> = modules
            .iter()
            .map(|(target, module)| (module.clone(), self.ranks()[target]))
            .filter(|(_, rank)| *rank != alpha)
            .map(|(module, rank)| (module, rank.into()))
            .collect();
        json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": null,
            "inference_mode": true, "r": alpha, "lora_alpha": alpha, "rank_pattern": ranks, "alpha_pattern": {},
            "target_modules": targets, "bias": "none", "lora_dropout": 0.0, "fan_in_fan_out": false,
            "init_lora_weights": true, "use_rslora": false, "use_dora": self.is_dora(), "modules_to_save": null,
        })
    }
}

/// Rows of rotary projections from pairs to halves, the inverse of what loading does: row h·D + s·D/2 + i of the result
/// is row h·D + 2i + s of `values` (`[rows][cols]`, D = rows / heads).
fn halves(values: &[f32], cols: usize, heads: usize) -> Vec<f32> {
    let dim = values.len() / cols / heads;
    let mut out = Vec::with_capacity(values.len());
    for row in 0..heads * dim {
        let (head, within) = (row / dim, row % dim);
        let source = head * dim + within % (dim / 2) * 2 + within / (dim / 2);
        out.extend_from_slice(&values[source * cols..][..cols]);
    }
    out
}

/// The values as the bytes of a file.
fn encoded(values: &[f32], ty: TensorType) -> Result<Vec<u8>> {
    let largest = match ty {
        TensorType::F16 => f16::MAX.to_f32(),
        TensorType::Bf16 => bf16::MAX.to_f32(),
        _ => f32::MAX,
    };
    if let Some(v) = values.iter().find(|v| v.is_nan() || v.abs() > largest) {
        return Err(Error::new(Class::Usage, "a scaled factor is too large for this type")
            .expected_got(format!("at most {largest}"), v)
            .advice("write f32"));
    }
    let mut bytes = vec![0; values.len() * ty.block_bytes()];
    encode_row(ty, values, &mut bytes)
        .map_err(|e| Error::new(Class::Usage, format!("factors cannot be written as {ty}: {e}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::halves;

    #[test]
    fn rotary_rows_move_from_pairs_to_halves() {
        let rows: Vec<f32> = (0..8u8).map(f32::from).collect();
        assert_eq!(halves(&rows, 1, 2), [0., 2., 1., 3., 4., 6., 5., 7.]);
        let rows: Vec<f32> = (0..12u8).map(f32::from).collect();
        assert_eq!(halves(&rows, 1, 1), [0., 2., 4., 6., 8., 10., 1., 3., 5., 7., 9., 11.]);
        // Loading moves them back.
        assert_eq!(super::super::permute_rotary_rows(&halves(&rows, 1, 1), 1, 1), rows);
    }
}
