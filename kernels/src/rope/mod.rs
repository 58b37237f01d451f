//! Rotary position embeddings.
mod table;

pub use table::{RopeParams, RopeTable, Yarn};

use crate::isa::{Op, Simd};
use crate::team::{SharedMut, Team};

/// Fewer rotated values than this are cheaper done by the leader than shared: a job costs about a microsecond.
const ALONE: usize = 8192;

/// Which dimensions of a head make pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeKind {
    /// 2i and 2i + 1: llama in GGUF files.
    Norm,
    /// i and i + n_rot/2: qwen, gemma, phi.
    Neox,
}

/// Rotates in place the heads of `x`, `[n][stride]`, whose rows hold positions `pos0 ..` and begin with `heads`
/// heads of `dim` values. Of each head the first `n_rot` values turn, the rest stays.
///
/// Products and sums are rounded one by one, so bits are the same on every instruction set.
///
/// # Panics
/// If the sizes do not fit, or the table does not cover the positions.
#[allow(clippy::too_many_arguments)]
pub fn rope(
    team: &Team,
    x: &mut [f32],
    heads: usize,
    dim: usize,
    stride: usize,
    table: &RopeTable,
    pos0: usize,
    kind: RopeKind,
) {
    assert!(dim > 0 && heads * dim <= stride, "{heads} heads of {dim} in rows of {stride}");
    assert!(x.len().is_multiple_of(stride), "{} values in rows of {stride}", x.len());
    assert!(table.n_rot() <= dim, "{} rotated of {dim} dimensions", table.n_rot());
    let n = x.len() / stride;
    let rows = |first: usize, x: &mut [f32]| {
        team.isa().dispatch_floats(Rotate { x, heads, dim, stride, table, pos0: pos0 + first, kind });
    };
    if n * heads * dim < ALONE {
        return rows(0, x);
    }
    let x = SharedMut::new(x);
    team.run(|worker| {
        let share = worker.share(n);
        // SAFETY: the shares of the workers are disjoint ranges of rows.
        rows(share.start, unsafe { x.slice(share.start * stride..share.end * stride) });
    });
}

struct Rotate<'a> {
    x: &'a mut [f32],
    heads: usize,
    dim: usize,
    stride: usize,
    table: &'a RopeTable,
    pos0: usize,
    kind: RopeKind,
}

impl Op for Rotate<'_> {
    type Output = ();

    // Plain loops: the compiler makes vectors of them within the instruction set's context.
    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let n_rot = self.table.n_rot();
        for (i, row) in self.x.chunks_exact_mut(self.stride).enumerate() {
            let (cos, sin) = self.table.row(self.pos0 + i);
            for head in row[..self.heads * self.dim].chunks_exact_mut(self.dim) {
                let head = &mut head[..n_rot];
                match self.kind {
                    RopeKind::Norm => {
                        for ((pair, &cos), &sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                            let [a, b] = *pair;
                            *pair = [a * cos - b * sin, a * sin + b * cos];
                        }
                    }
                    RopeKind::Neox => {
                        let (low, high) = head.split_at_mut(n_rot / 2);
                        for (((a, b), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, teams};

    /// The rotation in f64, straight from its definition.
    fn reference(x: &[f32], n_rot: usize, pos: usize, kind: RopeKind) -> Vec<f64> {
        let mut y: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        for i in 0..n_rot / 2 {
            let angle = pos as f64 * 10_000f64.powf(-2.0 * i as f64 / n_rot as f64);
            let (a, b) = match kind {
                RopeKind::Norm => (2 * i, 2 * i + 1),
                RopeKind::Neox => (i, i + n_rot / 2),
            };
            let (xa, xb) = (f64::from(x[a]), f64::from(x[b]));
            y[a] = xa * angle.cos() - xb * angle.sin();
            y[b] = xa * angle.sin() + xb * angle.cos();
        }
        y
    }

    #[test]
    fn both_kinds_match_f64_and_leave_the_rest() {
        let mut random = Random::new(5);
        let (n, heads, stride, pos0) = (37, 3, 300, 1500);
        for (dim, n_rot) in [(64, 64), (80, 80), (96, 24), (100, 50), (2, 2)] {
            let x = random.normals(n * stride, 1.0);
            let mut table = RopeTable::new(&RopeParams::new(n_rot, 10_000.0));
            table.cover(pos0, n);
            for kind in [RopeKind::Norm, RopeKind::Neox] {
                let mut first: Option<Vec<f32>> = None;
                for team in teams() {
                    let mut y = x.clone();
                    rope(&team, &mut y, heads, dim, stride, &table, pos0, kind);
                    for (i, (x, y)) in x.chunks(stride).zip(y.chunks(stride)).enumerate() {
                        for (x, y) in x.chunks(dim).zip(y.chunks(dim)).take(heads) {
                            let want = reference(x, n_rot, pos0 + i, kind);
                            for (&y, want) in y.iter().zip(want) {
                                assert!(
                                    (f64::from(y) - want).abs() < 1e-6,
                                    "{kind:?} {dim}/{n_rot}: {y} for {want}"
                                );
                            }
                            assert_eq!(x[n_rot..], y[n_rot..]);
                        }
                        assert_eq!(x[heads * dim..], y[heads * dim..]);
                    }
                    assert_eq!(&y, first.get_or_insert_with(|| y.clone()), "bits differ on {}", team.isa());
                }
            }
        }
    }
}
