//! Fitting an adapter to an open model.
use lapwing_kernels::TensorType;
use lapwing_kernels::matrix::Matrix;
use lapwing_kernels::team::Team;

use super::{Adapter, Delta, Fitted};
use crate::error::{Error, Result};
use crate::gguf::TensorId;
use crate::linear::Linear;
use crate::model::Model;

/// The name under which adapters change the output product, also where it shares the embedding's tensor.
pub const OUTPUT: &str = "output.weight";

/// The token embedding, whose A is gathered by token id.
pub const EMBEDDING: &str = "token_embd.weight";

/// Rows of a fused tensor must start at a multiple of this for a delta to be cut there.
const ROW_UNIT: usize = 32;

impl Model {
    /// Packs `adapter` for this model, its factors kept as `ty`.
    ///
    /// # Errors
    /// The adapter was made for another model: an unknown target, another shape or architecture.
    pub fn fit(&self, adapter: Adapter, ty: TensorType, team: &Team) -> Result<Fitted> {
        for target in adapter.deltas.keys() {
            if let Some(part) = self.targets(target).find(|l| !l.first_row().is_multiple_of(ROW_UNIT)) {
                return Err(Error::bad_file("an adapter on a fused tensor of odd size is not computed")
                    .in_file(&adapter.path)
                    .at(target)
                    .expected_got(
                        format!("parts that start at multiples of {ROW_UNIT} rows"),
                        part.first_row(),
                    ));
            }
        }
        Fitted::new(adapter, self, ty, team)
    }

    /// The weights that a delta on `target` is added to.
    pub(super) fn target_matrix(&self, target: &str) -> Option<Matrix<'_>> {
        match self.gguf().tensor(target) {
            Some(t) => Matrix::new(t.ty, t.rows(), t.cols(), t.data).ok(),
            None => (target == OUTPUT).then(|| self.matrix(&self.weights().output)),
        }
    }

    /// The tensor of the products that a delta on `target` is added to.
    pub(super) fn target_tensor(&self, target: &str) -> Option<TensorId> {
        self.targets(target).next().map(Linear::tensor)
    }

    /// The heads of a target whose rows are in another order here than in the Hugging Face checkpoint: q and k of the
    /// `llama` architecture, in pairs of one rotation.
    pub(super) fn permuted_heads(&self, target: &str) -> Option<usize> {
        let spec = self.spec();
        match spec.architecture {
            "llama" if target.ends_with(".attn_q.weight") => Some(spec.heads),
            "llama" if target.ends_with(".attn_k.weight") => Some(spec.kv_heads),
            _ => None,
        }
    }

    /// (inputs, outputs) of a tensor that adapters can change.
    pub(super) fn target_shape(&self, target: &str) -> Option<(usize, usize)> {
        if Delta::is_embedding(target) {
            return Some((self.spec().vocab, self.spec().width));
        }
        let rows: usize = self.targets(target).map(Linear::rows).sum();
        Some((self.targets(target).next()?.cols(), rows))
    }

    /// The matrices of the tensor `target`: several where the file fuses them, none where it is no weight.
    fn targets<'a>(&'a self, target: &'a str) -> impl Iterator<Item = &'a Linear> {
        let weights = self.weights();
        let output = (target == OUTPUT).then_some(&weights.output);
        let layers = weights.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down]);
        layers.filter(move |l| l.name() == target).chain(output)
    }
}
