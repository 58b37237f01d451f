//! The inner loops of attention: R rows (queries) against one block of 64 positions.
//!
//! A result is a chain in a fixed order, or an exact sum, so tile sizes are free to follow the registers of an
//! instruction set without touching bits.
//!
//! Registers are arrays of constant size that are indexed by counted loops, without iterators or closures: those
//! keep the compiler from inlining the instructions or from holding the array in registers.
#![allow(clippy::needless_range_loop)]
use crate::ahead::{READ_L2, prefetch_line};
use crate::isa::Simd;
use crate::kv::{BLOCK, Cell, Elem};
use crate::math;
use std::ops::Range;

/// Most rows the inner loops take at once. With 4 vectors a row that is 24 accumulators, which with the 4 vectors
/// of keys and a broadcast fit into 32 registers.
pub(super) const MAX_ROWS: usize = 6;

/// Vectors of 16 positions in a block.
pub(super) const VECTORS: usize = BLOCK / 16;

/// Rows the inner loops take at once on `S`.
pub(super) const fn rows_at_once<S: Simd>() -> usize {
    if S::ACCUMULATORS < MAX_ROWS { S::ACCUMULATORS } else { MAX_ROWS }
}

/// How the numbers of a cache are multiplied with queries and with the weights of positions.
pub(super) trait Products: Elem {
    /// Values that a packed query takes.
    fn packed_len(dim: usize) -> usize;

    /// Packs a query, times `scale`, as number `r` of `count`.
    fn pack<S: Simd>(s: S, q: &[f32], scale: f32, r: usize, count: usize, packed: &mut [f32]);

    /// Scores of R packed queries with V vectors of positions from vector `first` on, into `p`, which is 0:
    /// `p[r][j] = Σ_d q[d][r] · k[d][j]`.
    fn scores<S: Simd, const R: usize, const V: usize>(
        block: &Block<'_, Self>,
        s: S,
        q: &[f32],
        first: usize,
        p: &mut [[f32; BLOCK]; R],
    );

    /// Shrinks the accumulators `acc`, `[R][v_stride]`, and adds the values of `positions` with the weights `p`, which
    /// are 0 where a row does not see a position.
    fn weigh<S: Simd, const R: usize>(
        block: &Block<'_, Self>,
        s: S,
        p: &[[f32; BLOCK]; R],
        shrink: &[f32; 16],
        positions: Range<usize>,
        acc: &mut [f32],
    );
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

impl<E: Products> Block<'_, E> {
    /// Adds the block to the running softmax. `q` are packed queries; row r sees the positions `seen[r]`.
    #[inline(always)]
    pub fn attend<S: Simd, const R: usize>(&self, s: S, q: &[f32], seen: &[Range<usize>; R], rows: Rows<'_>) {
        let mut p = [[0f32; BLOCK]; R];
        if const { S::ACCUMULATORS / R >= 4 } {
            E::scores::<S, R, 4>(self, s, q, 0, &mut p);
        } else if const { S::ACCUMULATORS / R >= 2 } {
            E::scores::<S, R, 2>(self, s, q, 0, &mut p);
            E::scores::<S, R, 2>(self, s, q, 2, &mut p);
        } else {
            for vector in 0..VECTORS {
                E::scores::<S, R, 1>(self, s, q, vector, &mut p);
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
        E::weigh(self, s, &p, &shrink, first..last, rows.acc);
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
}

/// Asks for the cache lines of V vectors.
#[inline(always)]
pub(super) fn prefetch<E, const V: usize>(x: &[[E; 16]]) {
    let per_line = 64 / size_of::<[E; 16]>();
    for i in (0..V).step_by(per_line) {
        prefetch_line::<READ_L2>(x[i].as_ptr().cast());
    }
}

const LANES: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
