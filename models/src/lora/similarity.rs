//! How alike adapters are: inner products of their deltas, from the factors alone.
use super::names::is_rotary_projection;
use super::{Adapter, Delta};
use crate::model::Model;

/// Σ over tensors of ⟨s₁B₁A₁, s₂B₂A₂⟩, the inner product of two adapters as one long vector of weights each. DoRA
/// magnitudes are left out.
///
/// `None` when it is not known how the rows of one relate to those of the other: a GGUF and a PEFT adapter both
/// change a rotary projection, and no `base` is given.
pub fn inner_product(one: &Adapter, other: &Adapter, base: Option<&Model>) -> Option<f64> {
    let mut sum = 0.0;
    for (target, d1) in &one.deltas {
        let Some(d2) = other.deltas.get(target) else { continue };
        if d1.inputs(target) != d2.inputs(target) || d1.outputs() != d2.outputs() {
            continue;
        }
        let b = |d: &Delta| base.map_or_else(|| d.b.to_f32(), |base| d.b_in_base_order(target, base));
        if base.is_none() && d1.rows != d2.rows && is_rotary_projection(target) {
            return None;
        }
        // ⟨B₁A₁, B₂A₂⟩ = ⟨B₁ᵀB₂, A₁A₂ᵀ⟩, which are [r₁][r₂] only.
        let bb = gram(&b(d1), &b(d2), d1.rank, d2.rank);
        let a = |d: &Delta| {
            if Delta::is_embedding(target) { d.a.clone() } else { d.a.clone().transposed() }.to_f32()
        };
        let aa = gram(&a(d1), &a(d2), d1.rank, d2.rank);
        let dot: f64 = bb.iter().zip(&aa).map(|(b, a)| b * a).sum();
        sum += dot * f64::from(d1.scale) * f64::from(d2.scale);
    }
    Some(sum)
}

/// XᵀY of X `[n][r1]` and Y `[n][r2]`: `[r1][r2]`.
fn gram(x: &[f32], y: &[f32], r1: usize, r2: usize) -> Vec<f64> {
    let mut out = vec![0.0; r1 * r2];
    for (x, y) in x.chunks_exact(r1).zip(y.chunks_exact(r2)) {
        for (out, x) in out.chunks_exact_mut(r2).zip(x) {
            out.iter_mut().zip(y).for_each(|(out, y)| *out += f64::from(*x) * f64::from(*y));
        }
    }
    out
}

/// The cosine of the angle between two adapters: 1 the same direction, 0 nothing in common. `None` as for
/// [`inner_product`], or when one of them changes nothing.
pub fn cosine(one: &Adapter, other: &Adapter, base: Option<&Model>) -> Option<f64> {
    let dot = |a, b| inner_product(a, b, base);
    let lengths = (dot(one, one)? * dot(other, other)?).sqrt();
    let cosine = dot(one, other)? / lengths;
    cosine.is_finite().then_some(cosine)
}

#[cfg(test)]
mod tests {
    use super::gram;

    #[test]
    fn gram_matrices_are_products_of_columns() {
        // X = [[1, 2], [3, 4]], Y = [[5], [6]]: XᵀY = [23, 34].
        assert_eq!(gram(&[1., 2., 3., 4.], &[5., 6.], 2, 1), [23.0, 34.0]);
    }
}
