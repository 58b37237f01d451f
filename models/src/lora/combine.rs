//! Several adapters on one model as one change of each tensor, for writing them out or into the weights.
use std::collections::BTreeMap;

use lapwing_kernels::team::Team;

use super::dora::Dora;
use super::{Adapter, Delta};
use crate::error::{Class, Error, Result};
use crate::model::Model;

/// A stack of adapters seen as one, on the model that they fit.
pub struct Combined<'a> {
    model: &'a Model,
    /// In the order in which deltas are summed.
    parts: Vec<&'a (Adapter, f32)>,
    /// Rank of the sum on each target.
    ranks: BTreeMap<&'a str, usize>,
}

/// What a stack makes of one tensor `[rows][cols]`: W′ = g ∘ (W + L₀·R₀) + L₁·R₁, where L₀ and R₀ are the first
/// `inside` columns and rows, those of a DoRA adapter.
///
/// Of a linear layer L is B with all scales in it, and R is A; of the embedding L is A, and R is B transposed.
#[derive(Debug)]
pub struct Change {
    /// Sum of the ranks.
    pub rank: usize,
    /// L, `[rows][rank]`, in the row order of the model.
    pub left: Vec<f32>,
    /// R, `[rank][cols]`.
    pub right: Vec<f32>,
    /// DoRA magnitudes, `[rows]`.
    pub magnitude: Option<Vec<f32>>,
    /// g, `[rows]`.
    gain: Option<Vec<f32>>,
    /// Ranks that g applies to.
    inside: usize,
}

impl Change {
    /// Makes row `row` of W, `[cols]`, into that of W′. Sums are in f32.
    pub fn apply(&self, row: usize, values: &mut [f32]) {
        let left = &self.left[row * self.rank..][..self.rank];
        for (j, (l, right)) in left.iter().zip(self.right.chunks_exact(values.len())).enumerate() {
            if j == self.inside {
                self.scale(row, values);
            }
            values.iter_mut().zip(right).for_each(|(v, r)| *v += l * r);
        }
        if self.inside == self.rank {
            self.scale(row, values);
        }
    }

    fn scale(&self, row: usize, values: &mut [f32]) {
        if let Some(gain) = &self.gain {
            values.iter_mut().for_each(|v| *v *= gain[row]);
        }
    }
}

impl Model {
    /// Sees these adapters, each with the user's scale, as one; those of scale 0 are left out.
    ///
    /// # Errors
    /// One does not fit the model, or two carry DoRA magnitudes.
    pub fn combine<'a>(&'a self, adapters: &'a [(Adapter, f32)]) -> Result<Combined<'a>> {
        let mut parts: Vec<_> = adapters.iter().filter(|(_, scale)| *scale != 0.0).collect();
        parts.sort_by_key(|(a, scale)| (!a.is_dora(), a.hash, scale.to_bits()));
        if let [(first, _), (second, _), ..] = parts[..]
            && first.is_dora()
            && second.is_dora()
        {
            return Err(Error::new(Class::Usage, "a stack can hold one DoRA adapter").in_file(&second.path));
        }
        let mut ranks = BTreeMap::new();
        for (adapter, _) in &parts {
            adapter.check_fits(self)?;
            for (target, delta) in &adapter.deltas {
                *ranks.entry(target.as_str()).or_default() += delta.rank;
            }
        }
        Ok(Combined { model: self, parts, ranks })
    }
}

impl Combined<'_> {
    /// The tensors that are changed, with the rank of the change.
    pub fn ranks(&self) -> &BTreeMap<&str, usize> {
        &self.ranks
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.model
    }

    /// The adapters that change anything, with their scales.
    pub fn parts(&self) -> &[&(Adapter, f32)] {
        &self.parts
    }

    /// The change of the tensor `target`, if there is one. The team measures the norms of DoRA.
    pub fn change(&self, team: &Team, target: &str) -> Option<Change> {
        let rank = *self.ranks.get(target)?;
        let base = self.model;
        let deltas: Vec<(&Delta, f32)> = self
            .parts
            .iter()
            .filter_map(|(a, scale)| a.deltas.get(target).map(|d| (d, d.scale * scale)))
            .collect();
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut change =
            Change { rank, left: Vec::new(), right: Vec::new(), magnitude: None, gain: None, inside: 0 };
        for (delta, scale) in deltas {
            let (l, r) = factors(delta, target, base);
            if let Some(magnitude) = delta.magnitude_in_base_order(target, base) {
                let w = self.model.target_matrix(target)?;
                change.gain = Some(Dora::new(team, w, &r, &l, magnitude.clone()).gain(scale));
                (change.magnitude, change.inside) = (Some(magnitude), delta.rank);
            }
            left.push((delta.rank, l, scale));
            right.extend(r);
        }
        let rows = left.first().map_or(0, |(rank, l, _)| l.len() / rank);
        change.left = Vec::with_capacity(rows * rank);
        for row in 0..rows {
            for (rank, l, scale) in &left {
                change.left.extend(l[row * rank..][..*rank].iter().map(|v| v * scale));
            }
        }
        change.right = right;
        Some(change)
    }
}

/// L `[rows][r]` and R `[r][cols]` of one delta, without scales.
fn factors(delta: &Delta, target: &str, base: &Model) -> (Vec<f32>, Vec<f32>) {
    let (a, b) = (delta.a.to_f32(), delta.b_in_base_order(target, base));
    if Delta::is_embedding(target) { (a, transposed(&b, delta.rank)) } else { (b, a) }
}

/// The transpose of a matrix of `cols` columns.
pub(super) fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|j| values.iter().skip(j).step_by(cols).copied()).collect()
}
