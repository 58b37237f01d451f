//! Products with a cache of bytes, which share scales: integers times integers.
//!
//! Making floats of the bytes takes longer than multiplying them. So queries and the weights of positions become
//! integers, too, of 16 bits: those of a query with a scale for each [`SCALED`] dimensions, and of the weights, times
//! the scales of the values, with one for each block. That rounds by 2⁻¹⁶ of the largest where the cache itself is
//! rounded by 2⁻⁸; sums of products are exact.
#![allow(clippy::needless_range_loop)]
use super::kernel::{Block, Products, VECTORS, prefetch};
use crate::isa::Simd;
use crate::kv::{BLOCK, SCALED};
use bytemuck::{cast, cast_mut};
use std::ops::Range;

/// The largest integer that queries and weights become.
const MOST: f32 = 32767.0;

/// The numbers of a packed query for [`SCALED`] dimensions: as many words in pairs, and their scale.
const GROUP: usize = SCALED / 2 + 1;

impl Products for i8 {
    fn packed_len(dim: usize) -> usize {
        dim.div_ceil(SCALED) * GROUP
    }

    /// Packed queries are `[groups][GROUP][count]`.
    #[inline(always)]
    fn pack<S: Simd>(s: S, q: &[f32], scale: f32, r: usize, count: usize, packed: &mut [f32]) {
        for (q, packed) in q.chunks(SCALED).zip(packed.chunks_exact_mut(GROUP * count)) {
            let (first, second) = q.split_at(q.len().min(16));
            let x = [first, second].map(|q| s.mul(s.load_part(q), s.splat(scale)));
            let (step, inverse) = steps(s.max_lane(s.max(s.abs(x[0]), s.abs(x[1]))));
            let mut words = [[0; 16]; 2];
            for i in 0..2 {
                s.store_i16(s.mul(x[i], s.splat(inverse)), &mut words[i]);
            }
            let words: [u32; SCALED / 2] = cast(words);
            for i in 0..SCALED / 2 {
                packed[i * count + r] = f32::from_bits(words[i]);
            }
            packed[SCALED / 2 * count + r] = step;
        }
    }

    #[inline(always)]
    fn scores<S: Simd, const R: usize, const V: usize>(
        block: &Block<'_, i8>,
        s: S,
        q: &[f32],
        first: usize,
        p: &mut [[f32; BLOCK]; R],
    ) {
        let q = q.as_chunks::<R>().0.as_chunks::<GROUP>().0;
        let [k, ahead] =
            [block.cell.k, block.ahead.k].map(|k| k.as_chunks::<16>().0.as_chunks::<VECTORS>().0);
        let scales = block.cell.k_scales.as_chunks::<16>().0.as_chunks::<VECTORS>().0;
        for (g, (q, scales)) in q.iter().zip(scales).enumerate() {
            let dims = g * SCALED..k.len().min((g + 1) * SCALED);
            let (pairs, last) = k[dims.clone()].as_chunks::<2>();
            let (pairs_ahead, _) = ahead[dims].as_chunks::<2>();
            let mut sums = [[s.i_zero(); V]; R];
            for ((q, [a, b]), [a_ahead, b_ahead]) in q.iter().zip(pairs).zip(pairs_ahead) {
                prefetch::<i8, V>(&a_ahead[first..first + V]);
                prefetch::<i8, V>(&b_ahead[first..first + V]);
                add(s, &mut sums, q.map(|q| q.to_bits() as i32), &a[first..first + V], &b[first..first + V]);
            }
            if let [last] = last {
                // Its partner is multiplied with 0.
                let k = &last[first..first + V];
                add(s, &mut sums, q[pairs.len()].map(|q| q.to_bits() as i32), k, k);
            }
            for i in 0..V {
                let scale = s.load_f16(&scales[first + i]);
                for r in 0..R {
                    let p = &mut p[r].as_chunks_mut::<16>().0[first + i];
                    let sum = s.mul(s.i_float(sums[r][i]), s.splat(q[GROUP - 1][r]));
                    s.store(s.fma(sum, scale, s.load(p)), p);
                }
            }
        }
    }

    #[inline(always)]
    fn weigh<S: Simd, const R: usize>(
        block: &Block<'_, i8>,
        s: S,
        p: &[[f32; BLOCK]; R],
        shrink: &[f32; 16],
        positions: Range<usize>,
        acc: &mut [f32],
    ) {
        let columns = block.v_stride / 16;
        let pairs = positions.start / 2..positions.end.div_ceil(2);
        let mut column = 0;
        if const { S::ACCUMULATORS / R >= 4 } {
            while column + 4 <= columns {
                let weights = Weights::<R, 2>::new(s, p, block, column / 2);
                weights.weigh::<S, 4>(block, s, pairs.clone(), column, shrink, acc);
                column += 4;
            }
        }
        while column < columns {
            let weights = Weights::<R, 1>::new(s, p, block, column / 2);
            if const { S::ACCUMULATORS / R >= 2 } && column + 2 <= columns {
                weights.weigh::<S, 2>(block, s, pairs.clone(), column, shrink, acc);
            } else {
                for column in column..columns.min(column + 2) {
                    weights.weigh::<S, 1>(block, s, pairs.clone(), column, shrink, acc);
                }
            }
            column += 2;
        }
    }
}

/// The scale of integers for numbers of which `largest` is the largest, and its inverse.
#[inline(always)]
fn steps(largest: f32) -> (f32, f32) {
    let step = largest / MOST;
    (step, if step < f32::MIN_POSITIVE { 0.0 } else { 1.0 / step })
}

/// The weights of a block's positions for G groups of dimensions, two vectors each.
struct Weights<const R: usize, const G: usize> {
    /// In pairs.
    words: [[[[i32; 8]; VECTORS]; R]; G],
    /// The scales of the words.
    steps: [[f32; R]; G],
}

impl<const R: usize, const G: usize> Weights<R, G> {
    /// Those of the groups from `first` on.
    #[inline(always)]
    fn new<S: Simd>(s: S, p: &[[f32; BLOCK]; R], block: &Block<'_, i8>, first: usize) -> Self {
        let mut weights = Weights { words: [[[[0; 8]; VECTORS]; R]; G], steps: [[0.0; R]; G] };
        let scales = block.cell.v_scales.as_chunks::<16>().0.as_chunks::<VECTORS>().0;
        let scales = scales[first..].first_chunk::<G>().expect("scales of all groups");
        for g in 0..G {
            for r in 0..R {
                let p: &[[f32; 16]] = p[r].as_chunks().0;
                let mut x = [s.splat(0.0); VECTORS];
                for i in 0..VECTORS {
                    x[i] = s.mul(s.load(&p[i]), s.load_f16(&scales[g][i]));
                }
                let most = s.max_lane(s.max(s.max(x[0], x[1]), s.max(x[2], x[3])));
                let (step, inverse) = steps(most);
                for i in 0..VECTORS {
                    s.store_i16(s.mul(x[i], s.splat(inverse)), cast_mut(&mut weights.words[g][r][i]));
                }
                weights.steps[g][r] = step;
            }
        }
        weights
    }

    /// Shrinks V vectors of the accumulators from `column` on and adds the weighted values of pairs of positions.
    #[inline(always)]
    fn weigh<S: Simd, const V: usize>(
        &self,
        block: &Block<'_, i8>,
        s: S,
        pairs: Range<usize>,
        column: usize,
        shrink: &[f32; 16],
        acc: &mut [f32],
    ) {
        let columns = block.v_stride / 16;
        let acc: &mut [[f32; 16]] = acc.as_chunks_mut().0;
        let of_pairs = 2 * columns * pairs.start..2 * columns * pairs.end;
        let [values, ahead] = [block.cell.v, block.ahead.v]
            .map(|v| v.as_chunks::<16>().0[of_pairs.clone()].chunks_exact(2 * columns));
        let mut sums = [[s.i_zero(); V]; R];
        for ((v, ahead), pair) in values.zip(ahead).zip(pairs) {
            prefetch::<i8, V>(&ahead[column..column + V]);
            prefetch::<i8, V>(&ahead[columns + column..columns + column + V]);
            let (a, b) = (&v[column..column + V], &v[columns + column..columns + column + V]);
            for i in 0..V {
                let w = s.w_pairs(&a[i], &b[i]);
                for r in 0..R {
                    let p = self.words[i / 2][r].as_flattened()[pair];
                    sums[r][i] = s.w_dot(sums[r][i], w, p);
                }
            }
        }
        for r in 0..R {
            for i in 0..V {
                let step = self.steps[i / 2][r];
                let acc = &mut acc[r * columns + column + i];
                let shrunk = s.mul(s.load(acc), s.splat(shrink[r]));
                s.store(s.fma(s.i_float(sums[r][i]), s.splat(step), shrunk), acc);
            }
        }
    }
}

/// Adds to the sums of R rows the products of pairs of words with V vectors of pairs of bytes.
#[inline(always)]
fn add<S: Simd, const R: usize, const V: usize>(
    s: S,
    sums: &mut [[S::I; V]; R],
    q: [i32; R],
    a: &[[i8; 16]],
    b: &[[i8; 16]],
) {
    for i in 0..V {
        let w = s.w_pairs(&a[i], &b[i]);
        for r in 0..R {
            sums[r][i] = s.w_dot(sums[r][i], w, q[r]);
        }
    }
}
