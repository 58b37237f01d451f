//! A tile: one panel times a few tokens.
use super::{Form, Known, PAIRS, WORDS, act_words, aux_words, weight_bytes};
use crate::ahead::{READ, prefetch};
use crate::format::Quantised;
use crate::isa::{Op, Simd, two};
use std::ops::Range;

/// Runs the tile in the form that fits the number of tokens and the format.
#[inline(always)]
pub(super) fn multiply<S: Simd, Q: Quantised, const LEVEL: usize>(simd: S, tile: Tile, tokens: usize) {
    match tokens {
        1 => with_tokens::<S, Q, LEVEL, 1>(simd, tile),
        2 => with_tokens::<S, Q, LEVEL, 2>(simd, tile),
        3 => with_tokens::<S, Q, LEVEL, 3>(simd, tile),
        4 => with_tokens::<S, Q, LEVEL, 4>(simd, tile),
        5 => with_tokens::<S, Q, LEVEL, 5>(simd, tile),
        6 => with_tokens::<S, Q, LEVEL, 6>(simd, tile),
        7 => with_tokens::<S, Q, LEVEL, 7>(simd, tile),
        8 => with_tokens::<S, Q, LEVEL, 8>(simd, tile),
        _ => unreachable!("a tile has 1 to {} tokens", S::TOKENS),
    }
}

#[inline(always)]
fn with_tokens<S: Simd, Q: Quantised, const LEVEL: usize, const T: usize>(simd: S, tile: Tile) {
    match const { T <= S::TOKENS } {
        true => with_kind::<S, Q, LEVEL, T>(simd, tile),
        false => unreachable!("a tile has 1 to {} tokens", S::TOKENS),
    }
}

/// Calls a function of its own for each kind, which formats share.
#[inline(always)]
fn with_kind<S: Simd, Q: Quantised, const LEVEL: usize, const T: usize>(simd: S, tile: Tile) {
    match Known::<S, Q>::FORM {
        Form { scales: 1, mins: 0, .. } => simd.run(TileOp::<T, LEVEL, 1, 0, false>(tile)),
        Form { scales: 1, mins: 1, .. } => simd.run(TileOp::<T, LEVEL, 1, 1, false>(tile)),
        Form { scales: 1, .. } => simd.run(TileOp::<T, LEVEL, 1, 2, false>(tile)),
        Form { shared: false, .. } => simd.run(TileOp::<T, LEVEL, 2, 0, false>(tile)),
        Form { mins: 0, .. } => simd.run(TileOp::<T, LEVEL, 2, 0, true>(tile)),
        _ => simd.run(TileOp::<T, LEVEL, 2, 2, true>(tile)),
    }
}

/// Classes of a panel and of the activations of T tokens.
pub(super) struct Tile<'a> {
    /// All, or one.
    pub classes: Range<usize>,
    /// Blocks of all four classes, without padding.
    pub blocks: usize,
    /// The first class of a panel, with what follows it.
    pub weights: &'a [u8],
    /// Bytes from one class to the next.
    pub weight_stride: usize,
    /// `[classes][blocks of a class, with padding][act_words][T]`
    pub acts: &'a [i32],
    /// What the next tile has in the place of `acts`; behind the last those themselves.
    pub next: &'a [i32],
    /// `[classes][blocks of a class, with padding][aux_words][T]`: scaled sums of activations, or what the integer sums
    /// start with.
    pub aux: &'a [i32],
    /// `[2][T][ROWS]`: the sum of the first two classes, which becomes the result, and of the other two.
    pub sums: &'a mut [f32],
}

struct TileOp<
    'a,
    const T: usize,
    const LEVEL: usize,
    const SCALES: usize,
    const MINS: usize,
    const SHARED: bool,
>(Tile<'a>);

impl<const T: usize, const LEVEL: usize, const SCALES: usize, const MINS: usize, const SHARED: bool> Op
    for TileOp<'_, T, LEVEL, SCALES, MINS, SHARED>
{
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Tile { classes, blocks, weights, weight_stride, acts, next, aux, sums } = self.0;
        let stride = S::ROWS * (weight_bytes(LEVEL) + 4 * (SCALES + SHARED as usize + MINS));
        let (act_stride, aux_stride) = (T * act_words(LEVEL), T * aux_words(LEVEL, SCALES, MINS));
        let (count, padded) = (classes.len(), blocks.div_ceil(4));
        assert!(weights.len() >= (count - 1) * weight_stride + padded * stride);
        assert!(acts.len() == count * padded * act_stride && aux.len() == count * padded * aux_stride);
        assert_eq!(sums.len(), 2 * T * S::ROWS);
        let near = (count * padded).saturating_sub(PREFETCH);
        for (i, class) in classes.enumerate() {
            let mut acc = [simd.pf_splat(0.0); T];
            for b in 0..(blocks + 3 - class) / 4 {
                let at = i * padded + b;
                if S::PREFETCH {
                    let ahead = match at.checked_sub(near) {
                        None => acts.as_ptr().wrapping_add((at + PREFETCH) * act_stride),
                        Some(at) => next.as_ptr().wrapping_add(at * act_stride),
                    };
                    prefetch::<READ>(ahead.cast(), 4 * act_stride);
                }
                // SAFETY: `padded` blocks of each class are within the sizes asserted above; a panel starts at 64 bytes
                // and its steps are multiples of that.
                acc = unsafe {
                    let weights = weights.as_ptr().add(i * weight_stride + b * stride);
                    let (acts, aux) = (acts.as_ptr().add(at * act_stride), aux.as_ptr().add(at * aux_stride));
                    block::<S, T, LEVEL, SCALES, MINS, SHARED>(simd, acc, weights, acts, aux)
                };
            }
            for (t, acc) in acc.into_iter().enumerate() {
                // SAFETY: both are `ROWS` values within `sums`, whose length was asserted above.
                unsafe {
                    let first = sums.as_mut_ptr().add(t * S::ROWS);
                    let second = sums.as_mut_ptr().add((T + t) * S::ROWS);
                    match class {
                        0 => simd.pf_store(acc, first),
                        1 => simd.pf_store(simd.pf_add(simd.pf_load(first), acc), first),
                        2 => simd.pf_store(acc, second),
                        _ => {
                            let upper = simd.pf_add(simd.pf_load(second), acc);
                            simd.pf_store(simd.pf_add(simd.pf_load(first), upper), first);
                        }
                    }
                }
            }
        }
    }
}

/// Blocks that activations are asked for ahead of their use.
const PREFETCH: usize = 12;

/// Adds the products of one block of 32 columns to the chains.
///
/// # Safety
/// `weights` points to a block of a panel, aligned to 64 bytes, `acts` to `[act_words][T]` and `aux` to
/// `[aux_words][T]` words.
#[inline(always)]
unsafe fn block<
    S: Simd,
    const T: usize,
    const LEVEL: usize,
    const SCALES: usize,
    const MINS: usize,
    const SHARED: bool,
>(
    simd: S,
    mut acc: [S::PF; T],
    weights: *const u8,
    acts: *const i32,
    aux: *const i32,
) -> [S::PF; T] {
    // SAFETY: all reads are within the blocks that the caller gives.
    unsafe {
        let factors = weights.add(S::ROWS * weight_bytes(LEVEL));
        let factor = |i: usize| simd.pf_load(factors.add(S::ROWS * 4 * i).cast());
        let zero = [simd.p_splat(0); T];
        let (sum, d) = if LEVEL == PAIRS {
            (simd.p_pairs(weights, acts), factor(0))
        } else if SHARED {
            let [first, second] = two!(h => Some(factors.add(S::ROWS * 4 * h).cast()));
            let sum = part::<S, T, LEVEL, SCALES, MINS>(simd, zero, 0, weights, acts, aux, first);
            (part::<S, T, LEVEL, SCALES, MINS>(simd, sum, 1, weights, acts, aux, second), factor(2))
        } else {
            (part::<S, T, LEVEL, SCALES, MINS>(simd, zero, 0, weights, acts, aux, None), factor(0))
        };
        let mut value = [d; T];
        for t in 0..T {
            value[t] = simd.pf_mul(simd.p_float(sum[t]), d);
        }
        if SCALES == 2 && !SHARED {
            let sum = part::<S, T, LEVEL, SCALES, MINS>(simd, zero, 1, weights, acts, aux, None);
            let d = factor(1);
            for t in 0..T {
                value[t] = simd.pf_fma(simd.p_float(sum[t]), d, value[t]);
            }
        }
        let scale = acts.add((act_words(LEVEL) - 1) * T).cast::<f32>();
        for t in 0..T {
            acc[t] = simd.pf_fma(value[t], simd.pf_splat(scale.add(t).read()), acc[t]);
        }
        for i in 0..MINS {
            let (m, sums) = (factor(SCALES + SHARED as usize + i), aux.add(i * T).cast::<f32>());
            for t in 0..T {
                acc[t] = simd.pf_fma(m, simd.pf_splat(sums.add(t).read()), acc[t]);
            }
        }
        acc
    }
}

/// `acc` and the integer sums of part `h` of a block: all of it, or one half with two scales; multiplied with `scales`, if
/// there are any.
///
/// # Safety
/// As for [`block`].
#[inline(always)]
unsafe fn part<S: Simd, const T: usize, const LEVEL: usize, const SCALES: usize, const MINS: usize>(
    simd: S,
    acc: [S::P; T],
    h: usize,
    weights: *const u8,
    acts: *const i32,
    aux: *const i32,
    scales: Option<*const i32>,
) -> [S::P; T] {
    // SAFETY: part `h` lies within the blocks that the caller gives.
    unsafe {
        let mut start = [0; T];
        if MINS == 0 {
            for t in 0..T {
                start[t] = aux.add(h * T + t).read();
            }
        }
        let (weights, acts, steps) = (weights.add(h * 16 * S::ROWS), acts.add(h * 4 * T), 8 / SCALES);
        if LEVEL == WORDS {
            simd.p_words(acc, start, weights, acts, steps, scales)
        } else {
            simd.p_dots::<T, LEVEL>(start.map(|start| simd.p_splat(start)), weights, acts, steps)
        }
    }
}
