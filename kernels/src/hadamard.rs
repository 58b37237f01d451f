//! The Hadamard transform of heads.
//!
//! It is orthogonal, so products of a query and a key that are both transformed are those of the plain ones; but a few
//! large values of a key become many of middling size, and bytes that share a scale then round the others less. The
//! idea is that of QuaRot (Ashkboos et al., 2024, arXiv:2404.00456).
use crate::isa::{Op, Simd};
use crate::team::{SharedMut, Team};

/// Fewer values than this are cheaper done by the leader than shared: a job costs about a microsecond.
const ALONE: usize = 8192;

/// Values of a vector: runs that are shorter stay as they are.
const LANES: usize = 16;

/// Transforms in place the heads of `x`, `[n][dim]`, each in runs of the largest power of two that divides `dim`; that
/// of fewer than 16 is none. Doing it twice gives `x` again, but for roundings.
///
/// Sums are rounded one by one, so bits are the same on every instruction set.
///
/// # Panics
/// If `x` does not consist of heads.
pub fn hadamard(team: &Team, x: &mut [f32], dim: usize) {
    assert!(dim > 0 && x.len().is_multiple_of(dim), "{} values in heads of {dim}", x.len());
    let run = 1 << dim.trailing_zeros();
    if run < LANES {
        return;
    }
    let transform = |x: &mut [f32]| team.isa().dispatch_floats(Transform { x, run });
    if x.len() < ALONE {
        return transform(x);
    }
    let heads = x.len() / dim;
    let x = SharedMut::new(x);
    team.run(|worker| {
        let share = worker.share(heads);
        // SAFETY: the shares of the workers are disjoint ranges of heads.
        transform(unsafe { x.slice(share.start * dim..share.end * dim) });
    });
}

struct Transform<'a> {
    x: &'a mut [f32],
    run: usize,
}

impl Op for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let scale = s.splat(1.0 / (self.run as f32).sqrt());
        for run in self.x.chunks_exact_mut(self.run) {
            let (vectors, _) = run.as_chunks_mut::<LANES>();
            for x in vectors.iter_mut() {
                let y = lanes::<8>(lanes::<4>(lanes::<2>(lanes::<1>(*x))));
                s.store(s.mul(s.load(&y), scale), x);
            }
            let mut half = 1;
            while half < vectors.len() {
                for pair in vectors.chunks_exact_mut(2 * half) {
                    let (a, b) = pair.split_at_mut(half);
                    for i in 0..half {
                        let (x, y) = (s.load(&a[i]), s.load(&b[i]));
                        s.store(s.add(x, y), &mut a[i]);
                        s.store(s.sub(x, y), &mut b[i]);
                    }
                }
                half *= 2;
            }
        }
    }
}

/// Sums and differences of lanes that are H apart. A plain loop: the compiler makes vectors of it.
#[inline(always)]
fn lanes<const H: usize>(x: [f32; LANES]) -> [f32; LANES] {
    let mut y = [0.0; LANES];
    for i in 0..LANES {
        y[i] = if i & H == 0 { x[i] + x[i ^ H] } else { x[i ^ H] - x[i] };
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, teams};

    /// From its definition: entry (i, j) is −1 to the number of bits that i and j share.
    fn reference(x: &[f32]) -> Vec<f64> {
        let entry = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        let sum = |i| x.iter().enumerate().map(|(j, &x)| entry(i, j) * f64::from(x)).sum::<f64>();
        (0..x.len()).map(|i| sum(i) / (x.len() as f64).sqrt()).collect()
    }

    #[test]
    fn matches_its_definition_and_is_its_own_inverse() {
        let mut random = Random::new(3);
        for (dim, run) in [(16, 16), (64, 64), (80, 16), (96, 32), (128, 128), (256, 256), (100, 1), (1, 1)] {
            let x = random.normals(dim * (ALONE / dim + 3), 1.0);
            let mut first: Option<Vec<f32>> = None;
            for team in teams() {
                for x in [&x[..], &x[..2 * dim]] {
                    let mut y = x.to_vec();
                    hadamard(&team, &mut y, dim);
                    for (x, y) in x.chunks(run).zip(y.chunks(run)) {
                        for (&y, want) in y.iter().zip(reference(x)) {
                            assert!((f64::from(y) - want).abs() < 2e-6, "{dim}: {y} for {want}");
                        }
                    }
                    let whole = first.get_or_insert_with(|| y.clone());
                    assert_eq!(y, whole[..y.len()], "bits differ on {}", team.isa());
                    hadamard(&team, &mut y, dim);
                    assert!(
                        x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 2e-6),
                        "{dim}: not its own inverse"
                    );
                }
            }
        }
    }
}
