//! Prefill: panels of quantised rows times many tokens.
//!
//! A panel holds [`Panel::ROWS`](crate::isa::Panel) rows unpacked to u8, in the order in which the tiles walk it:
//!
//! ```text
//! [class 0..4][block of the class] of  [8][ROWS][4] u8 weights, four values of k together,
//!                                      [SCALES][ROWS] f32, [MINS][ROWS] f32
//! ```
//!
//! It is unpacked once and stays in the thread's L2 cache (32 rows × 4096 columns are 144 KiB) while all
//! tokens pass, a tile of [`Panel::TOKENS`](crate::isa::Panel) at a time. Lanes are rows, and the chains of
//! the canonical order (see `matvec`) are followed class by class, so the bits are those of `matvec`.
use crate::acts::{ACT_WORDS, Acts};
use crate::format::{Group, Quantised, as_blocks, as_blocks_mut, with_quantised};
use crate::isa::{Isa, Op, Simd};
use crate::linear::{Matrix, Out};
use crate::team::Scratch;
use std::array::from_fn;
use std::marker::PhantomData;
use std::ops::Range;

/// Computes `rows` of `w`, from a multiple of the panel's rows on, times all tokens of `acts`.
pub(crate) fn matmul(
    isa: Isa,
    w: &Matrix,
    rows: Range<usize>,
    acts: &Acts,
    out: &Out,
    scratch: &mut Scratch,
) {
    with_quantised!(w.ty(), Q => isa.dispatch(Panels::<Q>::new(w, rows, acts, out, scratch)), else => unreachable!());
}

/// The products of `rows` of `w` with all tokens of `acts`. `rows` starts at a multiple of the panel's rows.
pub(crate) struct Panels<'a, Q> {
    w: &'a Matrix<'a>,
    rows: Range<usize>,
    acts: &'a Acts,
    out: &'a Out<'a>,
    scratch: &'a mut Scratch,
    _format: PhantomData<Q>,
}

impl<'a, Q: Quantised> Panels<'a, Q> {
    pub fn new(
        w: &'a Matrix<'a>,
        rows: Range<usize>,
        acts: &'a Acts,
        out: &'a Out<'a>,
        scratch: &'a mut Scratch,
    ) -> Self {
        Panels { w, rows, acts, out, scratch, _format: PhantomData }
    }
}

impl<Q: Quantised> Op for Panels<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let blocks = self.acts.blocks();
        let panel_bytes = blocks * block_bytes::<S, Q>();
        let init_bytes = (self.acts.tokens() * blocks * Q::SCALES * 4).next_multiple_of(64);
        let sum_bytes = S::TOKENS * S::ROWS * 2 * 4;
        let scratch = self.scratch.get::<u8>(panel_bytes + init_bytes + sum_bytes);
        let (panel, rest) = scratch.split_at_mut(panel_bytes);
        let (init, sums) = rest.split_at_mut(init_bytes);
        let (init, sums) = (crate::buffer::cast_mut::<i32>(init), crate::buffer::cast_mut::<f32>(sums));
        self.acts.packed_init(Q::BIAS - simd.offset(Q::MAX), Q::SCALES, init);

        let w = as_blocks::<Q>(self.w.data());
        let row_blocks = self.w.cols() / Q::BLOCK_LEN;
        for first in self.rows.clone().step_by(S::ROWS) {
            let rows = S::ROWS.min(self.rows.end - first);
            // Rows beyond the last repeat it; their results are dropped.
            let row = |i: usize| {
                let r = first + i.min(rows - 1);
                &w[r * row_blocks..(r + 1) * row_blocks]
            };
            unpack::<S, Q>(simd, row, panel);
            for tokens in self.acts.tiles() {
                let words = blocks * ACT_WORDS;
                let tile = Tile {
                    blocks,
                    panel,
                    acts: &self.acts.packed()[tokens.start * words..tokens.end * words],
                    init: &init[tokens.start * blocks * Q::SCALES..tokens.end * blocks * Q::SCALES],
                    sums,
                };
                multiply::<S, Q>(simd, tile, tokens.len());
                for (i, t) in tokens.enumerate() {
                    // SAFETY: this thread owns the rows it was given.
                    unsafe { self.out.put(t, first, &sums[i * S::ROWS..i * S::ROWS + rows]) };
                }
            }
        }
    }
}

/// Bytes of a panel per block of 32 columns.
const fn block_bytes<S: Simd, Q: Quantised>() -> usize {
    S::ROWS * (32 + 4 * (Q::SCALES + Q::MINS))
}

/// Unpacks the rows `row(0..ROWS)` into `panel`.
#[inline(always)]
fn unpack<'a, S: Simd, Q: Quantised>(simd: S, row: impl Fn(usize) -> &'a [Q], panel: &mut [u8]) {
    let per_class = panel.len() / block_bytes::<S, Q>() / 4;
    let mut rows = Eight::zeros();
    for set in (0..S::ROWS).step_by(8) {
        for g in 0..per_class {
            let (unit, half) = (g / Q::HALVES * Q::UNIT, g % Q::HALVES);
            for i in 0..8 {
                let row = &row(set + i)[unit..];
                let group = match row.get(..Q::UNIT) {
                    Some(blocks) => Q::unpack128(simd, blocks, half),
                    None => unpack_rest(simd, row),
                };
                rows.set::<S, Q>(simd, i, group);
            }
            for class in 0..4 {
                let stride = block_bytes::<S, Q>();
                let block = &mut panel[(class * per_class + g) * stride..][..stride];
                rows.store::<S, Q>(simd, class, set, block);
            }
        }
    }
}

/// Unpacks fewer blocks than a unit. The missing ones are zero bytes, whose scale is 0, as are the
/// activations they meet.
#[inline(always)]
pub(crate) fn unpack_rest<S: Simd, Q: Quantised>(simd: S, rest: &[Q]) -> Group<S> {
    // Only formats of 32 values a block have units of more than one block; the largest is Q8_0.
    let mut bytes = [0; 4 * 34];
    let padded = as_blocks_mut::<Q>(&mut bytes);
    padded[..rest.len()].copy_from_slice(rest);
    Q::unpack128(simd, &padded[..Q::UNIT], 0)
}

/// One group of eight rows on its way into a panel.
struct Eight {
    /// [class][row]
    q: [[[u8; 32]; 8]; 4],
    /// [class][scales, then mins][row]
    factors: [[[f32; 8]; 4]; 4],
}

impl Eight {
    fn zeros() -> Self {
        Eight { q: [[[0; 32]; 8]; 4], factors: [[[0.0; 8]; 4]; 4] }
    }

    #[inline(always)]
    fn set<S: Simd, Q: Quantised>(&mut self, simd: S, row: usize, group: Group<S>) {
        for class in 0..4 {
            simd.b_store(group.q[class], &mut self.q[class][row]);
        }
        let factors = group.d[..Q::SCALES].iter().chain(&group.m[..Q::MINS]);
        for (i, &factor) in factors.enumerate() {
            for (class, x) in simd.f4_array(factor).into_iter().enumerate() {
                self.factors[class][i][row] = x;
            }
        }
    }

    /// Stores the block of `class` as rows `set..set + 8` of a panel's block.
    #[inline(always)]
    fn store<S: Simd, Q: Quantised>(&self, simd: S, class: usize, set: usize, block: &mut [u8]) {
        let (weights, factors) = block.split_at_mut(32 * S::ROWS);
        let columns = simd.b_transpose(from_fn(|i| simd.b_load(&self.q[class][i])));
        for (step, column) in weights.chunks_exact_mut(4 * S::ROWS).zip(columns) {
            simd.b_store(column, step[4 * set..].first_chunk_mut().expect("eight rows"));
        }
        for (out, rows) in factors.chunks_exact_mut(4 * S::ROWS).zip(&self.factors[class]) {
            for (out, x) in out[4 * set..].as_chunks_mut::<4>().0.iter_mut().zip(rows) {
                *out = x.to_le_bytes();
            }
        }
    }
}

/// What can be known of a tile when the program is compiled. Matching on a constant keeps the compiler from
/// generating the other arms.
struct Known<S, Q, const T: usize>(PhantomData<(S, Q)>);

impl<S: Simd, Q: Quantised, const T: usize> Known<S, Q, T> {
    const FITS: bool = T <= S::TOKENS;
    const LEVEL: usize = S::LEVELS.of(Q::MAX);
}

/// Runs the tile in the form that fits the number of tokens and the format.
#[inline(always)]
fn multiply<S: Simd, Q: Quantised>(simd: S, tile: Tile, tokens: usize) {
    match tokens {
        1 => with_tokens::<S, Q, 1>(simd, tile),
        2 => with_tokens::<S, Q, 2>(simd, tile),
        3 => with_tokens::<S, Q, 3>(simd, tile),
        4 => with_tokens::<S, Q, 4>(simd, tile),
        5 => with_tokens::<S, Q, 5>(simd, tile),
        6 => with_tokens::<S, Q, 6>(simd, tile),
        7 => with_tokens::<S, Q, 7>(simd, tile),
        8 => with_tokens::<S, Q, 8>(simd, tile),
        _ => unreachable!("a tile has 1 to {} tokens", S::TOKENS),
    }
}

#[inline(always)]
fn with_tokens<S: Simd, Q: Quantised, const T: usize>(simd: S, tile: Tile) {
    match Known::<S, Q, T>::FITS {
        true => with_level::<S, Q, T>(simd, tile),
        false => unreachable!("a tile has 1 to {} tokens", S::TOKENS),
    }
}

#[inline(always)]
fn with_level<S: Simd, Q: Quantised, const T: usize>(simd: S, tile: Tile) {
    match Known::<S, Q, T>::LEVEL {
        0 => with_kind::<S, Q, T, 0>(simd, tile),
        1 => with_kind::<S, Q, T, 1>(simd, tile),
        2 => with_kind::<S, Q, T, 2>(simd, tile),
        4 => with_kind::<S, Q, T, 4>(simd, tile),
        _ => with_kind::<S, Q, T, 8>(simd, tile),
    }
}

/// Calls a function of its own for each kind, which formats share.
#[inline(always)]
fn with_kind<S: Simd, Q: Quantised, const T: usize, const LEVEL: usize>(simd: S, tile: Tile) {
    match Q::SCALES {
        1 => match Q::MINS {
            0 => simd.run(TileOp::<T, LEVEL, 1, 0>(tile)),
            1 => simd.run(TileOp::<T, LEVEL, 1, 1>(tile)),
            _ => simd.run(TileOp::<T, LEVEL, 1, 2>(tile)),
        },
        _ => simd.run(TileOp::<T, LEVEL, 2, 0>(tile)),
    }
}

/// One panel and the activations of T tokens.
struct Tile<'a> {
    /// Blocks of 32 columns, a multiple of 4.
    blocks: usize,
    panel: &'a [u8],
    /// [blocks][ACT_WORDS][T]
    acts: &'a [i32],
    /// [blocks][SCALES][T] what the integer sums start with.
    init: &'a [i32],
    /// [T][ROWS] results, and as many more for sums on the way.
    sums: &'a mut [f32],
}

struct TileOp<'a, const T: usize, const LEVEL: usize, const SCALES: usize, const MINS: usize>(Tile<'a>);

impl<const T: usize, const LEVEL: usize, const SCALES: usize, const MINS: usize> Op
    for TileOp<'_, T, LEVEL, SCALES, MINS>
{
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Tile { blocks, panel, acts, init, sums } = self.0;
        let stride = S::ROWS * (32 + 4 * (SCALES + MINS));
        assert_eq!(panel.len(), blocks * stride);
        assert_eq!(acts.len(), blocks * ACT_WORDS * T);
        assert_eq!(init.len(), blocks * SCALES * T);
        assert!(sums.len() >= 2 * T * S::ROWS);
        let mut panel = panel.as_ptr();
        let mut acts = acts.as_ptr();
        let mut init = init.as_ptr();
        for class in 0..4 {
            let mut acc = [simd.pf_splat(0.0); T];
            for _ in 0..blocks / 4 {
                // SAFETY: the pointers walk over `blocks` blocks of the sizes asserted above; a panel starts
                // at 64 bytes and its steps are multiples of that.
                unsafe {
                    acc = block::<S, T, LEVEL, SCALES, MINS>(simd, acc, panel, acts, init);
                    panel = panel.add(stride);
                    acts = acts.add(ACT_WORDS * T);
                    init = init.add(SCALES * T);
                }
            }
            for (t, acc) in acc.into_iter().enumerate() {
                let (first, second) = (t * S::ROWS, (T + t) * S::ROWS);
                // SAFETY: both are `ROWS` values within `sums`, whose length was asserted above.
                unsafe {
                    let (first, second) = (sums.as_mut_ptr().add(first), sums.as_mut_ptr().add(second));
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

/// Adds the products of one block of 32 columns to the chains.
///
/// # Safety
/// `panel` points to a block of a panel, aligned to 64 bytes, `acts` to \[ACT_WORDS\]\[T\] and `init` to
/// \[SCALES\]\[T\] words.
#[inline(always)]
unsafe fn block<S: Simd, const T: usize, const LEVEL: usize, const SCALES: usize, const MINS: usize>(
    simd: S,
    mut acc: [S::PF; T],
    panel: *const u8,
    acts: *const i32,
    init: *const i32,
) -> [S::PF; T] {
    // SAFETY: all reads are within the blocks that the caller gives.
    unsafe {
        let factor = |i: usize| simd.pf_load(panel.add(S::ROWS * (32 + 4 * i)).cast());
        let act = |i: usize, t: usize| simd.pf_splat(acts.add((8 + i) * T + t).cast::<f32>().read());
        let (sum, d) = (half::<S, T, LEVEL, SCALES>(simd, 0, panel, acts, init), factor(0));
        let mut value: [S::PF; T] = from_fn(|t| simd.pf_mul(simd.p_float(sum[t]), d));
        if SCALES == 2 {
            let (sum, d) = (half::<S, T, LEVEL, SCALES>(simd, 1, panel, acts, init), factor(1));
            value = from_fn(|t| simd.pf_fma(simd.p_float(sum[t]), d, value[t]));
        }
        acc = from_fn(|t| simd.pf_fma(value[t], act(0, t), acc[t]));
        if MINS == 1 {
            let m = factor(SCALES);
            acc = from_fn(|t| simd.pf_fma(m, act(3, t), acc[t]));
        } else if MINS == 2 {
            let m = factor(SCALES);
            acc = from_fn(|t| simd.pf_fma(m, act(1, t), acc[t]));
            let m = factor(SCALES + 1);
            acc = from_fn(|t| simd.pf_fma(m, act(2, t), acc[t]));
        }
        acc
    }
}

/// The integer sums of part `h` of a block: all of it, or one half with two scales.
///
/// # Safety
/// As for [`block`].
#[inline(always)]
unsafe fn half<S: Simd, const T: usize, const LEVEL: usize, const SCALES: usize>(
    simd: S,
    h: usize,
    panel: *const u8,
    acts: *const i32,
    init: *const i32,
) -> [S::P; T] {
    // SAFETY: part `h` lies within the blocks that the caller gives.
    unsafe {
        let start = from_fn(|t| simd.p_splat(init.add(h * T + t).read()));
        simd.p_dots::<T, LEVEL>(start, panel.add(h * 16 * S::ROWS), acts.add(h * 4 * T), 8 / SCALES)
    }
}
