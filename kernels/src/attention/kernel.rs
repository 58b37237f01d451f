//! The inner loops of attention: R rows (queries) against one block of 64 positions.
//!
//! Every result is one chain of fused multiply-adds in a fixed order (scores: ascending dimension; weighted values:
//! ascending position), so tile sizes are free to follow the registers of an instruction set without touching bits.
//!
//! Registers are arrays of constant size that are indexed by counted loops, without iterators or closures: those
//! keep the compiler from inlining the instructions or from holding the array in registers.
#![allow(clippy::needless_range_loop)]
use crate::ahead::{READ_L2, prefetch_line};
use crate::isa::Simd;
use crate::kv::{BLOCK, Cell, Elem, SCALED};
use crate::math;
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
    pub cell: Cell<'a, E>,
    /// Numbers of the same shapes that will be needed next: asked of memory while these are at work.
    pub ahead: Cell<'a, E>,
    pub v_stride: usize,
    pub soft_cap: Option<f32>,
}

impl<'a, E: Elem> Block<'a, E> {
    /// Adds the block to the running softmax. `q` is `[dim][R]`, scaled; row r sees the positions `seen[r]`.
    #[inline(always)]
    pub fn attend<S: Simd, const R: usize>(&self, s: S, q: &[f32], seen: &[Range<usize>; R], rows: Rows<'_>) {
        let mut p = [[0f32; BLOCK]; R];
        let q = q.as_chunks::<R>().0;
        if const { S::ACCUMULATORS / R >= 4 } {
            self.scores::<S, R, 4>(s, q, 0, &mut p);
        } else if const { S::ACCUMULATORS / R >= 2 } {
            self.scores::<S, R, 2>(s, q, 0, &mut p);
            self.scores::<S, R, 2>(s, q, 2, &mut p);
        } else {
            for vector in 0..VECTORS {
                self.scores::<S, R, 1>(s, q, vector, &mut p);
            }
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
            let p: &[[f32; 16]] = p[r].as_chunks().0;
            let block = s.add(s.add(s.load(&p[0]), s.load(&p[1])), s.add(s.load(&p[2]), s.load(&p[3])));
            let sum = s.fma(s.load(&rows.sum[r]), s.splat(shrink[r]), block);
            s.store(sum, &mut rows.sum[r]);
        }

        // Positions that no row sees are left out; those that some rows do not see have weight 0 there.
        let first = seen.iter().map(|seen| seen.start).min().unwrap_or(0);
        let last = seen.iter().map(|seen| seen.end).max().unwrap_or(0).min(BLOCK);
        let columns = self.v_stride / 16;
        let mut column = 0;
        if const { S::ACCUMULATORS / R >= 4 } {
            while column + 4 <= columns {
                self.weigh::<S, R, 4>(s, &p, &shrink, first..last, column, rows.acc);
                column += 4;
            }
        } else if const { S::ACCUMULATORS / R >= 2 } {
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
        let columns = self.v_stride / 16;
        let acc: &mut [[f32; 16]] = acc.as_chunks_mut().0;
        let (values, ahead) = (self.cell.v.as_chunks::<16>().0, self.ahead.v.as_chunks::<16>().0);
        // Weights times the scales of the one or two groups that these columns belong to.
        let mut scaled = [[[0f32; BLOCK]; R]; 2];
        if E::SCALES {
            let scales = self.cell.v_scales.as_chunks::<16>().0.as_chunks::<VECTORS>().0;
            for (g, scales) in scales[column / 2..(column + V).div_ceil(2)].iter().enumerate() {
                for r in 0..R {
                    let (p, scaled) = (p[r].as_chunks::<16>().0, scaled[g][r].as_chunks_mut::<16>().0);
                    for i in 0..VECTORS {
                        s.store(s.mul(s.load(&p[i]), s.load_f16(&scales[i])), &mut scaled[i]);
                    }
                }
            }
        }
        let mut sums = [[s.splat(0.0); V]; R];
        for r in 0..R {
            for i in 0..V {
                sums[r][i] = s.mul(s.load(&acc[r * columns + column + i]), s.splat(shrink[r]));
            }
        }
        for j in positions {
            let at = j * columns + column..j * columns + column + V;
            prefetch::<E, V>(&ahead[at.clone()]);
            let v = load::<S, E, V>(s, &values[at]);
            for r in 0..R {
                let weights = match E::SCALES {
                    true => [s.splat(scaled[0][r][j]), s.splat(scaled[1][r][j])],
                    false => [s.splat(p[r][j]); 2],
                };
                for i in 0..V {
                    sums[r][i] = s.fma(weights[i / 2], v[i], sums[r][i]);
                }
            }
        }
        for r in 0..R {
            for i in 0..V {
                s.store(sums[r][i], &mut acc[r * columns + column + i]);
            }
        }
    }

    /// Scores of R rows with V vectors of positions from vector `first` on: `p[r][j] = Σ_d q[d][r] · k[d][j]`.
    #[inline(always)]
    fn scores<S: Simd, const R: usize, const V: usize>(
        &self,
        s: S,
        q: &[[f32; R]],
        first: usize,
        p: &mut [[f32; BLOCK]; R],
    ) {
        let keys = |k: &'a [E]| k.as_chunks::<16>().0.as_chunks::<VECTORS>().0;
        let (k, ahead) = (keys(self.cell.k), keys(self.ahead.k));
        // All dimensions, or those that share a scale.
        let step = if E::SCALES { SCALED } else { k.len().max(1) };
        for (g, q) in q.chunks(step).enumerate() {
            let mut sums = [[s.splat(0.0); V]; R];
            for ((q, k), ahead) in q.iter().zip(&k[g * step..]).zip(&ahead[g * step..]) {
                prefetch::<E, V>(&ahead[first..first + V]);
                let k = load::<S, E, V>(s, &k[first..first + V]);
                for r in 0..R {
                    let q = s.splat(q[r]);
                    for i in 0..V {
                        sums[r][i] = s.fma(q, k[i], sums[r][i]);
                    }
                }
            }
            let scales = self.cell.k_scales.as_chunks::<16>().0;
            for r in 0..R {
                let p: &mut [[f32; 16]] = p[r].as_chunks_mut().0;
                for i in 0..V {
                    let p = &mut p[first + i];
                    let sum = match E::SCALES {
                        true => s.fma(sums[r][i], s.load_f16(&scales[g * VECTORS + first + i]), s.load(p)),
                        false => sums[r][i],
                    };
                    s.store(sum, p);
                }
            }
        }
    }
}

/// V vectors from `x`, `[V][16]`.
#[inline(always)]
fn load<S: Simd, E: Elem, const V: usize>(s: S, x: &[[E; 16]]) -> [S::F; V] {
    let mut vectors = [s.splat(0.0); V];
    for i in 0..V {
        vectors[i] = E::load(s, &x[i]);
    }
    vectors
}

/// Asks for the cache lines of V vectors.
#[inline(always)]
fn prefetch<E: Elem, const V: usize>(x: &[[E; 16]]) {
    let per_line = 64 / size_of::<[E; 16]>();
    for i in (0..V).step_by(per_line) {
        prefetch_line::<READ_L2>(x[i].as_ptr().cast());
    }
}

const LANES: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
