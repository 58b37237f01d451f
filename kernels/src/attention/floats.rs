//! Products with a cache of floats.
//!
//! Every result is one chain of fused multiply-adds: scores in ascending order of dimensions, weighted values in that
//! of positions.
#![allow(clippy::needless_range_loop)]
use super::kernel::{Block, Products, VECTORS, prefetch};
use crate::isa::{Floats, Simd};
use crate::kv::{BLOCK, Elem};
use half::f16;
use std::ops::Range;

/// A float that a cache stores.
pub(super) trait Float: Elem {
    /// 16 values as f32.
    fn load<S: Floats>(s: S, x: &[Self; 16]) -> S::F;
}

impl Float for f32 {
    #[inline(always)]
    fn load<S: Floats>(s: S, x: &[f32; 16]) -> S::F {
        s.load(x)
    }
}

impl Float for f16 {
    #[inline(always)]
    fn load<S: Floats>(s: S, x: &[f16; 16]) -> S::F {
        s.load_f16(x)
    }
}

impl<E: Float> Products for E {
    fn packed_len(dim: usize) -> usize {
        dim
    }

    /// Packed queries are `[dim][count]`.
    #[inline(always)]
    fn pack<S: Simd>(_s: S, q: &[f32], scale: f32, r: usize, count: usize, packed: &mut [f32]) {
        for (packed, q) in packed[r..].iter_mut().step_by(count).zip(q) {
            *packed = q * scale;
        }
    }

    #[inline(always)]
    fn scores<S: Simd, const R: usize, const V: usize>(
        block: &Block<'_, E>,
        s: S,
        q: &[f32],
        first: usize,
        p: &mut [[f32; BLOCK]; R],
    ) {
        let q = q.as_chunks::<R>().0;
        let [k, ahead] =
            [block.cell.k, block.ahead.k].map(|k| k.as_chunks::<16>().0.as_chunks::<VECTORS>().0);
        let mut sums = [[s.splat(0.0); V]; R];
        for ((q, k), ahead) in q.iter().zip(k).zip(ahead) {
            prefetch::<E, V>(&ahead[first..first + V]);
            let k = load::<S, E, V>(s, &k[first..first + V]);
            for r in 0..R {
                let q = s.splat(q[r]);
                for i in 0..V {
                    sums[r][i] = s.fma(q, k[i], sums[r][i]);
                }
            }
        }
        for r in 0..R {
            let p: &mut [[f32; 16]] = p[r].as_chunks_mut().0;
            for i in 0..V {
                s.store(sums[r][i], &mut p[first + i]);
            }
        }
    }

    #[inline(always)]
    fn weigh<S: Simd, const R: usize>(
        block: &Block<'_, E>,
        s: S,
        p: &[[f32; BLOCK]; R],
        shrink: &[f32; 16],
        positions: Range<usize>,
        acc: &mut [f32],
    ) {
        let columns = block.v_stride / 16;
        let mut column = 0;
        if const { S::ACCUMULATORS / R >= 4 } {
            while column + 4 <= columns {
                weigh::<S, E, R, 4>(block, s, p, shrink, positions.clone(), column, acc);
                column += 4;
            }
        } else if const { S::ACCUMULATORS / R >= 2 } {
            while column + 2 <= columns {
                weigh::<S, E, R, 2>(block, s, p, shrink, positions.clone(), column, acc);
                column += 2;
            }
        }
        while column < columns {
            weigh::<S, E, R, 1>(block, s, p, shrink, positions.clone(), column, acc);
            column += 1;
        }
    }
}

/// Shrinks V vectors of the accumulators from `column` on and adds the weighted values of `positions`.
#[inline(always)]
fn weigh<S: Simd, E: Float, const R: usize, const V: usize>(
    block: &Block<'_, E>,
    s: S,
    p: &[[f32; BLOCK]; R],
    shrink: &[f32; 16],
    positions: Range<usize>,
    column: usize,
    acc: &mut [f32],
) {
    let columns = block.v_stride / 16;
    let acc: &mut [[f32; 16]] = acc.as_chunks_mut().0;
    let (values, ahead) = (block.cell.v.as_chunks::<16>().0, block.ahead.v.as_chunks::<16>().0);
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
            let p = s.splat(p[r][j]);
            for i in 0..V {
                sums[r][i] = s.fma(p, v[i], sums[r][i]);
            }
        }
    }
    for r in 0..R {
        for i in 0..V {
            s.store(sums[r][i], &mut acc[r * columns + column + i]);
        }
    }
}

/// V vectors from `x`, `[V][16]`.
#[inline(always)]
fn load<S: Simd, E: Float, const V: usize>(s: S, x: &[[E; 16]]) -> [S::F; V] {
    let mut vectors = [s.splat(0.0); V];
    for i in 0..V {
        vectors[i] = E::load(s, &x[i]);
    }
    vectors
}
