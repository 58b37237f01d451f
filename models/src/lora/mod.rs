//! LoRA adapters: small low-rank deltas on frozen weights, read from GGUF files and PEFT folders.
//!
//! y = Wx + Σᵢ sᵢ·Bᵢ·(Aᵢ·x), always against the frozen W. Source: Hu et al. 2021 (LoRA), Liu et al. 2024
//! (DoRA), Kalajdzievski 2023 (rsLoRA).
mod combine;
mod config;
mod dora;
mod export;
mod factor;
mod fit;
mod gguf;
mod names;
mod peft;
mod similarity;
mod stack;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lapwing_kernels::team::map_all;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::Model;

pub use combine::{Change, Combined};
pub use factor::Factor;
pub use fit::{EMBEDDING, OUTPUT};
pub use similarity::{cosine, inner_product};
pub use stack::{DEFAULT_FACTORS, Entry, Fitted, Resolved, Stack, StackKey, check_scale};

/// Which container an adapter was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A GGUF file with `adapter.type = lora`.
    Gguf,
    /// A PEFT folder: `adapter_config.json` and `adapter_model.safetensors`.
    Peft,
}

/// Order of the output rows of q and k projections in a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As in the GGUF of the base: pairs of one rotation side by side where the architecture is `llama`.
    Base,
    /// As in the Hugging Face checkpoint: first halves, then second halves of each head.
    HuggingFace,
}

/// One low-rank delta: what an adapter adds to one tensor of the base.
#[derive(Clone, Debug)]
pub struct Delta {
    /// Rank r, the inner dimension of B·A.
    pub rank: usize,
    /// Factor on B·A·x that comes with the file (alpha / r or alpha / √r), without the user's scale.
    pub scale: f32,
    /// A, `[r][inputs]`; of an embedding `[vocabulary][r]`.
    pub a: Factor,
    /// B, `[outputs][r]`.
    pub b: Factor,
    /// DoRA magnitudes m, `[outputs]`.
    pub magnitude: Option<Factor>,
    /// Order of the rows of `b` and `magnitude`.
    pub rows: RowOrder,
}

/// An adapter: deltas by the name of the base tensor they belong to.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Short name: the file's or folder's, without endings.
    pub name: String,
    /// Where it was read from.
    pub path: PathBuf,
    /// Its container.
    pub container: Container,
    /// Architecture of the base that the file names; PEFT folders name none.
    pub architecture: Option<String>,
    /// SHA-256 over settings and factors; orders a stack and identifies it in sessions.
    pub hash: [u8; 32],
    /// Bytes on disk.
    pub bytes: u64,
    /// The deltas, by base tensor.
    pub deltas: BTreeMap<String, Delta>,
}

impl Delta {
    /// Whether this delta belongs to the token embedding, whose A is gathered by token id.
    pub fn is_embedding(target: &str) -> bool {
        target == EMBEDDING
    }

    /// Inputs of the delta: columns of A, or rows for an embedding.
    pub fn inputs(&self, target: &str) -> usize {
        if Self::is_embedding(target) { self.a.rows } else { self.a.cols }
    }

    /// Outputs of the delta: rows of B.
    pub fn outputs(&self) -> usize {
        self.b.rows
    }

    /// B as f32 `[outputs][r]`, its rows in the order of `base`.
    pub fn b_in_base_order(&self, target: &str, base: &Model) -> Vec<f32> {
        self.in_base_order(self.b.to_f32(), self.rank, target, base)
    }

    /// DoRA magnitudes as f32 `[outputs]`, in the order of `base`.
    pub fn magnitude_in_base_order(&self, target: &str, base: &Model) -> Option<Vec<f32>> {
        Some(self.in_base_order(self.magnitude.as_ref()?.to_f32(), 1, target, base))
    }

    fn in_base_order(&self, values: Vec<f32>, cols: usize, target: &str, base: &Model) -> Vec<f32> {
        match base.permuted_heads(target) {
            Some(heads) if self.rows == RowOrder::HuggingFace => permute_rotary_rows(&values, cols, heads),
            _ => values,
        }
    }

    /// What makes this change of `target` what it is.
    fn hash(&self, target: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(target.as_bytes());
        hash.update([0, self.rows as u8]);
        hash.update(self.scale.to_le_bytes());
        for factor in [Some(&self.a), Some(&self.b), self.magnitude.as_ref()].into_iter().flatten() {
            factor.update_hash(&mut hash);
        }
        hash.finalize().into()
    }

    fn check(&self, target: &str) -> Result<()> {
        let r = self.rank;
        if r == 0 {
            return Err(Error::bad_file("an adapter of rank 0").at(target).expected_got("rank 1 or more", 0));
        }
        let a_rank = if Self::is_embedding(target) { self.a.cols } else { self.a.rows };
        if a_rank != r || self.b.cols != r {
            return Err(Error::bad_file("A and B do not have the rank that the adapter states")
                .at(target)
                .expected_got(
                    format!("rank {r}"),
                    format!("A of rank {a_rank}, B of rank {}", self.b.cols),
                ));
        }
        if !self.scale.is_finite() {
            return Err(Error::bad_file("scale is not finite")
                .at(target)
                .expected_got("a number", self.scale));
        }
        if let Some(m) = &self.magnitude
            && (m.rows * m.cols != self.b.rows || Self::is_embedding(target))
        {
            return Err(Error::bad_file("DoRA magnitudes do not fit B")
                .at(target)
                .expected_got(format!("{} values of a linear layer", self.b.rows), m.rows * m.cols));
        }
        for factor in [Some(&self.a), Some(&self.b), self.magnitude.as_ref()].into_iter().flatten() {
            factor.check_finite().map_err(|e| e.at(target))?;
        }
        Ok(())
    }
}

/// Row h·D + 2i + s of the result is row h·D + s·D/2 + i of `values` (`[rows][cols]`, D = rows / heads).
fn permute_rotary_rows(values: &[f32], cols: usize, heads: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    let dim = rows / heads;
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (head, within) = (row / dim, row % dim);
        let source = head * dim + (within % 2) * (dim / 2) + within / 2;
        out.extend_from_slice(&values[source * cols..(source + 1) * cols]);
    }
    out
}

impl Adapter {
    /// Opens a PEFT folder, its `adapter_model.safetensors`, or a GGUF adapter.
    ///
    /// # Errors
    /// Anything in the adapter that is malformed or that lapwing would not compute; nothing is ignored.
    pub fn open(path: &Path) -> Result<Self> {
        let inner = || {
            let folder = if path.is_dir() {
                Some(path)
            } else if path.extension().is_some_and(|e| e == "safetensors" || e == "json") {
                Some(path.parent().unwrap_or(Path::new(".")))
            } else {
                None
            };
            match folder {
                Some(folder) => peft::open(folder),
                None => gguf::open(path),
            }
        };
        inner().map_err(|e| e.in_file(path))
    }

    /// Reads the adapter in an open GGUF file.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn from_gguf(file: Gguf) -> Result<Self> {
        let path = file.path().to_path_buf();
        gguf::read(file).map_err(|e| e.in_file(&path))
    }

    pub(crate) fn new(
        path: &Path,
        container: Container,
        deltas: BTreeMap<String, Delta>,
        bytes: u64,
    ) -> Result<Self> {
        if deltas.is_empty() {
            return Err(Error::bad_file("the adapter has no tensors").in_file(path));
        }
        // On all cores: a hundred megabytes take one core longer than a person waits without noticing.
        let parts: Vec<_> = deltas.iter().collect();
        let checked = map_all(&parts, |(target, delta)| -> Result<_> {
            delta.check(target)?;
            Ok(delta.hash(target))
        });
        let mut hash = Sha256::new();
        for part in checked {
            hash.update(part.map_err(|e| e.in_file(path))?);
        }
        let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
        Ok(Self {
            name: stem.map_or_else(|| "adapter".into(), |s| s.to_string_lossy().into_owned()),
            path: path.to_path_buf(),
            container,
            architecture: None,
            hash: hash.finalize().into(),
            bytes,
            deltas,
        })
    }

    /// Whether any delta carries DoRA magnitudes.
    pub fn is_dora(&self) -> bool {
        self.deltas.values().any(|d| d.magnitude.is_some())
    }

    /// Checks that every delta belongs to a tensor of `base` and has its shape.
    ///
    /// # Errors
    /// Another architecture, an unknown target, a shape that differs (also a transposed A).
    pub fn check_fits(&self, base: &Model) -> Result<()> {
        let fail = |e: Error| Err(e.in_file(&self.path));
        let expected = base.spec().architecture;
        if let Some(architecture) = self.architecture.as_deref().filter(|a| *a != expected) {
            return fail(
                Error::bad_file("the adapter was made for another architecture")
                    .at("general.architecture")
                    .expected_got(expected, architecture),
            );
        }
        for (target, delta) in &self.deltas {
            let Some((inputs, outputs)) = base.target_shape(target) else {
                return fail(
                    Error::bad_file("the adapter changes a tensor that this model does not have")
                        .at(target)
                        .advice("use the base model that it was trained on"),
                );
            };
            if (delta.inputs(target), delta.outputs()) != (inputs, outputs) {
                return fail(
                    Error::bad_file("the adapter does not fit this model")
                        .at(target)
                        .expected_got(
                            format!("{inputs} inputs and {outputs} outputs"),
                            format!("{} and {}", delta.inputs(target), delta.outputs()),
                        )
                        .advice("use the base model that it was trained on"),
                );
            }
            if delta.rows == RowOrder::HuggingFace
                && base.permuted_heads(target).is_some_and(|heads| !outputs.is_multiple_of(heads * 2))
            {
                return fail(Error::bad_file("rotary rows cannot be reordered").at(target));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::permute_rotary_rows;

    #[test]
    fn rotary_rows_move_from_halves_to_pairs() {
        // Two heads of dimension 4, one column: row h·4 + 2i + s takes row h·4 + 2s + i.
        let rows: Vec<f32> = (0..8u8).map(f32::from).collect();
        assert_eq!(permute_rotary_rows(&rows, 1, 2), [0., 2., 1., 3., 4., 6., 5., 7.]);
    }
}
