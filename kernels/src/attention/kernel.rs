//! The inner loops of attention: R rows (queries) against one block of 64 positions.
//!
//! Every result is one chain of fused multiply-adds in a fixed order (scores: ascending dimension; weighted values:
//! ascending position), so tile sizes are free to follow the registers of an instruction set without touching bits.
use crate::isa::{Floats, Simd};
use crate::kv::{BLOCK, Elem};
use crate::math;
use half::f16;
use std::array::from_fn;
use std::ops::Range;

/// Most rows the inner loops take at once. With 4 vectors a row that is 24 accumulators, which with the 4 vectors
/// of keys and a broadcast fit into 32 registers.
pub(super) const MAX_ROWS: usize = 6;

/// Vectors of 16 positions in a block.
const VECTORS: usize = BLOCK / 16;

/// Rows the inner loops take at once on `S`.
pub(super) const fn rows_at_once<S: Simd>() -> usize {
    if S::ACCUMULATORS < MAX_ROWS { S::ACCUMULATORS } else { MAX_ROWS }
}

/// Reads cache elements as f32 lanes.
pub(super) trait Load: Elem {
    fn load<S: Floats>(s: S, x: &[Self; 16]) -> S::F;
}

impl Load for f32 {
    #[inline(always)]
    fn load<S: Floats>(s: S, x: &[f32; 16]) -> S::F {
        s.load(x)
    }
}

impl Load for f16 {
    #[inline(always)]
    fn load<S: Floats>(s: S, x: &[f16; 16]) -> S::F {
        s.load_f16(x)
    }
}

/// The running softmax of R rows.
pub(super) struct Rows<'a> {
    /// Largest score so far, −∞ before the first, `[R]`.
    pub max: &'a mut [f32],
    /// Sums of exp(score − max), in 16 lanes (position mod 16), `[R]`.
    pub sum: &'a mut [[f32; 16]],
    /// Sums of exp(score − max) · value, `[R][v_stride]`.
    pub acc: &'a mut [f32],
}

/// One block of keys and values for R rows.
pub(super) struct Block<'a, E> {
    /// `[dim][64]`
    pub k: &'a [E],
    /// `[64][v_stride]`
    pub v: &'a [E],
    pub v_stride: usize,
    pub soft_cap: Option<f32>,
}

impl<E: Load> Block<'_, E> {
    /// Adds the block to the running softmax. `q` is `[dim][R]`, scaled; row r sees the positions `seen[r]`.
    #[inline(always)]
    pub fn attend<S: Simd, const R: usize>(&self, s: S, q: &[f32], seen: &[Range<usize>; R], rows: Rows<'_>) {
        let mut p = [[0f32; BLOCK]; R];
        let q = q.as_chunks::<R>().0;
        let k = self.k.as_chunks::<16>().0.as_chunks::<VECTORS>().0;
        if const { S::ACCUMULATORS / R >= 4 } {
            scores::<S, E, R, 4>(s, q, k, 0, &mut p);
        } else if const { S::ACCUMULATORS / R >= 2 } {
            (0..2).for_each(|i| scores::<S, E, R, 2>(s, q, k, 2 * i, &mut p));
        } else {
            (0..4).for_each(|i| scores::<S, E, R, 1>(s, q, k, i, &mut p));
        }

        let mut shrink = [0f32; 16];
        for r in 0..R {
            let max = self.mask(s, &mut p[r], &seen[r]).max(rows.max[r]);
            // A row that has seen nothing yet keeps zeros: exp(−∞ − 0).
            let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
            shrink[r] = rows.max[r] - base;
            rows.max[r] = max;
            for p in p[r].as_chunks_mut::<16>().0 {
                let x = s.sub(s.load(p), s.splat(base));
                s.store(math::exp_neg(s, x), p);
            }
        }
        let shrunk = math::exp_neg(s, s.load(&shrink));
        s.store(shrunk, &mut shrink);
        for r in 0..R {
            let p: [S::F; VECTORS] = from_fn(|i| s.load(&p[r].as_chunks::<16>().0[i]));
            let block = s.add(s.add(p[0], p[1]), s.add(p[2], p[3]));
            let sum = s.fma(s.load(&rows.sum[r]), s.splat(shrink[r]), block);
            s.store(sum, &mut rows.sum[r]);
        }

        // Positions that no row sees are left out; those that some rows do not see have weight 0 there.
        let first = seen.iter().map(|seen| seen.start).min().unwrap_or(0);
        let last = seen.iter().map(|seen| seen.end).max().unwrap_or(0).min(BLOCK);
        let columns = self.v_stride / 16;
        let mut column = 0;
        if const { S::ACCUMULATORS / R >= 8 } {
            while column + 8 <= columns {
                self.weigh::<S, R, 8>(s, &p, &shrink, first..last, column, rows.acc);
                column += 8;
            }
        }
        if const { S::ACCUMULATORS / R >= 4 } {
            while column + 4 <= columns {
                self.weigh::<S, R, 4>(s, &p, &shrink, first..last, column, rows.acc);
                column += 4;
            }
        }
        if const { S::ACCUMULATORS / R >= 2 } {
            while column + 2 <= columns {
                self.weigh::<S, R, 2>(s, &p, &shrink, first..last, column, rows.acc);
                column += 2;
            }
        }
        while column < columns {
            self.weigh::<S, R, 1>(s, &p, &shrink, first..last, column, rows.acc);
            column += 1;
        }
    }

    /// Caps the scores of a row, makes those it does not see −∞ and returns the largest.
    #[inline(always)]
    fn mask<S: Simd>(&self, s: S, p: &mut [f32; BLOCK], seen: &Range<usize>) -> f32 {
        let hidden = s.splat(f32::NEG_INFINITY);
        let mut max = hidden;
        let whole = seen.start == 0 && seen.end >= BLOCK;
        for (i, p) in p.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let mut x = s.load(p);
            if let Some(cap) = self.soft_cap {
                x = math::soft_cap(s, x, cap);
                s.store(x, p);
            }
            if !whole {
                let at = s.add(s.load(&LANES), s.splat((16 * i) as f32));
                x = s.select_lt(at, s.splat(seen.start as f32), hidden, x);
                x = s.select_lt(at, s.splat(seen.end as f32), x, hidden);
                s.store(x, p);
            }
            max = s.max(max, x);
        }
        s.max_lane(max)
    }

    /// Shrinks V vectors of the accumulators from `column` on and adds the weighted values of `positions`.
    #[inline(always)]
    fn weigh<S: Simd, const R: usize, const V: usize>(
        &self,
        s: S,
        p: &[[f32; BLOCK]; R],
        shrink: &[f32; 16],
        positions: Range<usize>,
        column: usize,
        acc: &mut [f32],
    ) {
        let mut sums = [[s.splat(0.0); V]; R];
        for (r, (sums, acc)) in sums.iter_mut().zip(acc.chunks_exact(self.v_stride)).enumerate() {
            let acc = acc[16 * column..].as_chunks::<16>().0;
            for (sum, acc) in sums.iter_mut().zip(acc) {
                *sum = s.mul(s.load(acc), s.splat(shrink[r]));
            }
        }
        for j in positions {
            let v = self.v[j * self.v_stride + 16 * column..][..16 * V].as_chunks::<16>().0;
            let v: [S::F; V] = from_fn(|i| E::load(s, &v[i]));
            for r in 0..R {
                let weight = s.splat(p[r][j]);
                for (sum, v) in sums[r].iter_mut().zip(v) {
                    *sum = s.fma(weight, v, *sum);
                }
            }
        }
        for (sums, acc) in sums.iter().zip(acc.chunks_exact_mut(self.v_stride)) {
            let acc = acc[16 * column..].as_chunks_mut::<16>().0;
            for (sum, acc) in sums.iter().zip(acc) {
                s.store(*sum, acc);
            }
        }
    }
}

const LANES: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];

/// Scores of R rows with V vectors of positions from vector `first` on: `p[r][j] = Σ_d q[d][r] · k[d][j]`.
#[inline(always)]
fn scores<S: Simd, E: Load, const R: usize, const V: usize>(
    s: S,
    q: &[[f32; R]],
    k: &[[[E; 16]; VECTORS]],
    first: usize,
    p: &mut [[f32; BLOCK]; R],
) {
    let mut sums = [[s.splat(0.0); V]; R];
    for (q, k) in q.iter().zip(k) {
        let k: [S::F; V] = from_fn(|i| E::load(s, &k[first + i]));
        for r in 0..R {
            let q = s.splat(q[r]);
            for (sum, k) in sums[r].iter_mut().zip(k) {
                *sum = s.fma(q, k, *sum);
            }
        }
    }
    for (sums, p) in sums.iter().zip(p) {
        for (i, sum) in sums.iter().enumerate() {
            s.store(*sum, &mut p.as_chunks_mut::<16>().0[first + i]);
        }
    }
}
