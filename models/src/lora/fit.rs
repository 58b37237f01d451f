//! Fitting an adapter to an open model.
use lapwing_kernels::TensorType;
use lapwing_kernels::team::Team;

use super::{Adapter, Base, Delta, Fitted};
use crate::error::{Error, Result};
use crate::linear::Linear;
use crate::model::Model;

/// The name under which adapters change the output product, also where it shares the embedding's tensor.
pub(crate) const OUTPUT: &str = "output.weight";

/// Rows of a fused tensor must start at a multiple of this for a delta to be cut there.
const ROW_UNIT: usize = 32;

impl Model {
    /// Packs `adapter` for this model, its factors kept as `ty`.
    ///
    /// # Errors
    /// The adapter was made for another model: an unknown target, another shape or architecture.
    pub fn fit(&self, adapter: Adapter, ty: TensorType, team: &Team) -> Result<Fitted> {
        let spec = self.spec();
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
        let base = Base {
            architecture: spec.architecture,
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            permuted: spec.architecture == "llama",
            shape: &|target| self.target_shape(target),
        };
        Fitted::new(adapter, &base, ty, team, |target| {
            self.gguf()
                .tensor(target)
                .and_then(|t| lapwing_kernels::linear::Matrix::new(t.ty, t.rows(), t.cols(), t.data).ok())
        })
    }

    /// (inputs, outputs) of a tensor that adapters can change.
    fn target_shape(&self, target: &str) -> Option<(usize, usize)> {
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
