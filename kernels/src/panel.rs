//! Prefill: panels of quantised rows times many tokens.
//!
//! A panel is [`Panel::ROWS`](crate::isa::Panel) rows unpacked to u8, and a stack is up to [`STACK`] panels, in
//! the order in which the tiles walk it:
//!
//! ```text
//! [class 0..4][panel][block of the class] of  [8][ROWS][4] weights, four values of k together: u8, or i8
//!                                             less 128 where the instruction set has no products of larger u8;
//!                                             or words and what to subtract, see `Panel::p_pairs`;
//!                                             [scales][ROWS] f32, or as words with [ROWS] f32 that they share,
//!                                             [mins][ROWS] f32
//! ```
//!
//! A stack is unpacked once. Then, class by class, all tokens pass it, a tile of
//! [`Panel::TOKENS`](crate::isa::Panel) at a time: the class of a stack (of 128 rows × 4096 columns: 144 KiB)
//! stays in the thread's L2 cache, and a tile's activations are fetched into it once for all panels of the
//! stack. Of a stack that is small enough, tiles pass all classes at once, and their sums stay in the L1 cache.
//! Lanes are rows, and the chains of the canonical order (see `matvec`) are followed class by class,
//! so the bits are those of `matvec`.
mod tile;

use crate::acts::{ACT_WORDS, Acts, BLOCK, PAIR_WORDS};
use crate::ahead::{READ, prefetch};
use crate::buffer::{cast_mut, split};
use crate::format::{Group, Narrow, Quantised, as_blocks, as_blocks_mut, with_quantised};
use crate::isa::{Isa, Levels, Op, Simd, eight, eight_rows, four};
use crate::matrix::Matrix;
use crate::out::Out;
use crate::team::Scratch;
use std::marker::PhantomData;
use std::ops::Range;
use tile::{Tile, multiply};

/// Computes `rows` of `w`, from a multiple of the panel's rows on, times some tokens of the activations: whole tiles.
pub(crate) fn matmul(
    isa: Isa,
    w: &Matrix,
    rows: Range<usize>,
    acts: (&Acts, Range<usize>),
    out: &Out,
    scratch: &mut Scratch,
) {
    with_quantised!(w.ty(), Q => isa.dispatch(Panels::<Q>::new(w, rows, acts, out, scratch)), else => unreachable!());
}

/// The products of `rows` of `w` with `tokens` of `acts`. `rows` starts at a multiple of the panel's rows.
pub(crate) struct Panels<'a, Q> {
    w: &'a Matrix<'a>,
    rows: Range<usize>,
    acts: &'a Acts,
    tokens: Range<usize>,
    out: &'a Out<'a>,
    scratch: &'a mut Scratch,
    _format: PhantomData<Q>,
}

impl<'a, Q: Quantised> Panels<'a, Q> {
    pub fn new(
        w: &'a Matrix<'a>,
        rows: Range<usize>,
        (acts, tokens): (&'a Acts, Range<usize>),
        out: &'a Out<'a>,
        scratch: &'a mut Scratch,
    ) -> Self {
        Panels { w, rows, acts, tokens, out, scratch, _format: PhantomData }
    }
}

impl<Q: Quantised> Op for Panels<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        match Known::<S, Q>::LEVEL {
            0 => match const { matches!(S::LEVELS, Levels::In16) } {
                // They take longer to unpack, which two tiles do not make up for.
                true if simd.prefers_pairs() && self.acts.tokens() > 2 * S::TOKENS => {
                    self.multiply::<S, PAIRS>(simd)
                }
                _ => self.multiply::<S, 0>(simd),
            },
            1 => self.multiply::<S, 1>(simd),
            2 => self.multiply::<S, 2>(simd),
            4 => self.multiply::<S, 4>(simd),
            WORDS => self.multiply::<S, WORDS>(simd),
            _ => self.multiply::<S, 8>(simd),
        }
    }
}

impl<Q: Quantised> Panels<'_, Q> {
    /// With tiles of level `LEVEL`.
    #[inline(always)]
    fn multiply<S: Simd, const LEVEL: usize>(self, simd: S) {
        let Panels { w, acts, tokens: of, out, .. } = self;
        let (n, blocks) = (acts.tokens(), acts.blocks());
        let Form { bias, max, scales, mins, .. } = Known::<S, Q>::FORM;
        let aux_words = aux_words(LEVEL, scales, mins);
        let sizes = [
            if LEVEL == PAIRS { n * blocks * PAIR_WORDS * 4 } else { 0 },
            n * blocks * aux_words * 4,
            STACK * blocks * block_bytes::<S, Q, LEVEL>(),
            STACK * n * 2 * S::ROWS * 4,
        ];
        let size = sizes.iter().map(|s| s.next_multiple_of(64)).sum();
        let (memory, fresh) = self.scratch.lay_out(w.ty(), size);
        let [pairs, aux, stack, sums] = split(memory, sizes);
        let (pairs, aux, sums) = (cast_mut::<i32>(pairs), cast_mut::<i32>(aux), cast_mut::<f32>(sums));
        if fresh {
            match LEVEL {
                PAIRS => {
                    assert!(bias == simd.offset(max) && scales == 1 && mins == 0, "weights are signed bytes");
                    acts.packed_pairs(pairs);
                }
                WORDS if mins == 0 => acts.packed_words(bias, scales, aux),
                _ if mins == 0 => acts.packed_init(bias - simd.offset(max), scales, aux),
                _ => acts.packed_scaled(mins, aux),
            }
        }

        let weights = as_blocks::<Q>(w.data());
        let row_blocks = w.cols() / Q::BLOCK_LEN;
        for first in self.rows.clone().step_by(STACK * S::ROWS) {
            let rows = (STACK * S::ROWS).min(self.rows.end - first);
            let panels = rows.div_ceil(S::ROWS);
            let stack = &mut stack[..panels * blocks * block_bytes::<S, Q, LEVEL>()];
            // Rows beyond the last repeat it; their results are dropped.
            let row = |i: usize| {
                let r = first + i.min(rows - 1);
                &weights[r * row_blocks..(r + 1) * row_blocks]
            };
            unpack::<S, Q, LEVEL>(simd, panels, row, stack);
            let per_class = blocks / 4;
            // Bytes from one class of a stack to the next, and of a panel's class.
            let weight_stride = stack.len() / 4;
            let panel_bytes = weight_stride / panels;
            let together = if stack.len() <= TOGETHER { 4 } else { 1 };
            for classes in (0..4).step_by(together).map(|class| class..class + together) {
                let acts_of = |tile: &Range<usize>| {
                    let packed = match LEVEL {
                        PAIRS => &pairs[tile.start * blocks * PAIR_WORDS..],
                        _ => acts.packed(tile),
                    };
                    let words = per_class * tile.len() * act_words(LEVEL);
                    &packed[classes.start * words..classes.end * words]
                };
                let last = classes.end == 4;
                let mut tiles =
                    acts.tiles().filter(|tile| of.start <= tile.start && tile.end <= of.end).peekable();
                while let Some(tokens) = tiles.next() {
                    if last {
                        tokens.clone().for_each(|t| out.ask(t, first..first + rows));
                    }
                    let words = per_class * tokens.len() * aux_words;
                    let aux =
                        &aux[tokens.start * blocks * aux_words..][classes.start * words..classes.end * words];
                    let acts = acts_of(&tokens);
                    let next = tiles.peek().map_or(acts, acts_of);
                    for panel in 0..panels {
                        // A tile that has all classes needs its sums no more.
                        let place = if together == 4 { 0 } else { panel * n + tokens.start };
                        let sums = &mut sums[place * 2 * S::ROWS..][..tokens.len() * 2 * S::ROWS];
                        let tile = Tile {
                            classes: classes.clone(),
                            blocks: w.cols() / BLOCK,
                            weights: &stack[classes.start * weight_stride + panel * panel_bytes..],
                            weight_stride,
                            acts,
                            next,
                            aux,
                            sums: &mut *sums,
                        };
                        multiply::<S, Q, LEVEL>(simd, tile, tokens.len());
                        if last {
                            let rows = S::ROWS.min(rows - panel * S::ROWS);
                            for (t, y) in tokens.clone().zip(sums.chunks_exact(S::ROWS)) {
                                // SAFETY: this thread owns the rows it was given.
                                unsafe { out.put(simd, t, first + panel * S::ROWS, &y[..rows]) };
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Bytes of a stack of which a tile passes all classes before the next tile comes: half of a small L2 cache. On Zen 4
/// prefill of Qwen 0.5B became 4% faster, that of gemma 1 to 4%; a 7B, whose stacks are larger, gains or loses nothing.
const TOGETHER: usize = 256 << 10;

/// Panels of a stack. Four let a tile's activations be fetched from beyond the L2 cache a quarter as often,
/// and one class of them leaves most of a cache of 1 MiB to what passes by.
const STACK: usize = 4;

/// Bytes of a panel per block of 32 columns.
const fn block_bytes<S: Simd, Q: Quantised, const LEVEL: usize>() -> usize {
    S::ROWS * (weight_bytes(LEVEL) + 4 * Known::<S, Q>::FORM.factors())
}

/// Unpacks the rows `row(0..panels · ROWS)` into `stack`.
#[inline(always)]
fn unpack<'a, S: Simd, Q: Quantised, const LEVEL: usize>(
    simd: S,
    panels: usize,
    row: impl Fn(usize) -> &'a [Q],
    stack: &mut [u8],
) {
    let stride = block_bytes::<S, Q, LEVEL>();
    let per_class = stack.len() / stride / 4 / panels;
    let mut rows = Eight::zeros();
    for first in (0..panels * S::ROWS).step_by(8) {
        let (panel, set) = (first / S::ROWS, first % S::ROWS);
        let eight = eight!(i => row(first + i));
        for g in 0..per_class {
            let (unit, half) = (g / Q::HALVES * Q::UNIT, g % Q::HALVES);
            for i in 0..8 {
                if half == 0 {
                    // Eight rows side by side are no stream that the processor recognises.
                    let next = eight[i].as_ptr().wrapping_add(unit + 8 * eight[i].len());
                    prefetch::<READ>(next.cast(), size_of::<Q>() * Q::UNIT);
                }
                match eight[i].get(unit..unit + Q::UNIT) {
                    Some(blocks) if Known::<S, Q>::FORM.shared => {
                        rows.set_narrow::<S, Q>(simd, i, Q::unpack_narrow(simd, blocks, half));
                    }
                    Some(blocks) => rows.set_group::<S, Q>(simd, i, Q::unpack128(simd, blocks, half)),
                    None => rows.set_group::<S, Q>(simd, i, unpack_rest(simd, &eight[i][unit..])),
                }
            }
            let start = four!(class => ((class * panels + panel) * per_class + g) * stride);
            rows.store::<S, Q, LEVEL>(simd, set, start, stack);
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
    /// `[class][row]`
    q: [[[u8; 32]; 8]; 4],
    /// `[pair][row]`: f32 or words of the four classes, for two factors (scales, what they share, then mins).
    factors: [[[u8; 32]; 8]; 3],
}

impl Eight {
    fn zeros() -> Self {
        Eight { q: [[[0; 32]; 8]; 4], factors: [[[0; 32]; 8]; 3] }
    }

    #[inline(always)]
    fn set_group<S: Simd, Q: Quantised>(&mut self, simd: S, row: usize, group: Group<S>) {
        let form = Known::<S, Q>::FORM;
        // Weights that are multiplied as signed bytes become so here, once for all tokens.
        let q = match simd.offset(form.max) {
            0 => group.q,
            _ => four!(class => simd.b_xor(group.q[class], simd.b_splat(0x80))),
        };
        let ([d0, d1], [m0, m1]) = (group.d, group.m);
        let first = match (form.scales, form.mins) {
            (1, 0) => [d0, d0],
            (2, 0) => [d0, d1],
            (1, _) => [d0, m0],
            _ => unreachable!("only narrow groups have two scales and mins"),
        };
        let [first, second] = [first, [m1, m1]].map(|[a, b]| simd.b_floats(a, b));
        self.set::<S, Q>(simd, row, q, [first, second, second]);
    }

    #[inline(always)]
    fn set_narrow<S: Simd, Q: Quantised>(&mut self, simd: S, row: usize, group: Narrow<S>) {
        let Narrow { q, scales, d, m: [m0, m1] } = group;
        self.set::<S, Q>(simd, row, q, [scales, simd.b_floats(d, m0), simd.b_floats(m1, m1)]);
    }

    #[inline(always)]
    fn set<S: Simd, Q: Quantised>(&mut self, simd: S, row: usize, q: [S::B; 4], pairs: [S::B; 3]) {
        for (class, q) in q.into_iter().enumerate() {
            simd.b_store(q, &mut self.q[class][row]);
        }
        let count = Known::<S, Q>::FORM.factors().div_ceil(2);
        for (factors, pair) in self.factors[..count].iter_mut().zip(pairs) {
            simd.b_store(pair, &mut factors[row]);
        }
    }

    /// Stores rows `set..set + 8` of the four blocks of a panel that start at `start` in `stack`.
    #[inline(always)]
    fn store<S: Simd, Q: Quantised, const LEVEL: usize>(
        &self,
        simd: S,
        set: usize,
        start: [usize; 4],
        stack: &mut [u8],
    ) {
        let factors = Known::<S, Q>::FORM.factors();
        for (q, start) in self.q.iter().zip(start) {
            let weights = &mut stack[start..][..weight_bytes(LEVEL) * S::ROWS];
            let columns = simd.b_transpose(q.each_ref());
            if LEVEL == PAIRS {
                simd.p_store_pairs(columns, set, weights);
                continue;
            }
            for (k, column) in columns.into_iter().enumerate() {
                simd.b_store(column, eight_rows(weights, k * S::ROWS + set));
            }
        }
        for (pair, rows) in self.factors[..factors.div_ceil(2)].iter().enumerate() {
            // Of the first factor classes 0 to 3, then of the second.
            for (i, column) in simd.b_transpose(rows.each_ref()).into_iter().enumerate() {
                let factor = 2 * pair + i / 4;
                if factor < factors {
                    let first = (weight_bytes(LEVEL) / 4 + factor) * S::ROWS + set;
                    simd.b_store(column, eight_rows(&mut stack[start[i % 4]..], first));
                }
            }
        }
    }
}

/// What a panel holds of a format: u8, each `bias` too large, and how many scales and mins per 32 of them.
#[derive(Clone, Copy)]
struct Form {
    bias: i32,
    /// The largest u8.
    max: u8,
    scales: usize,
    mins: usize,
    /// Whether the scales are integers, which one more factor multiplies: see [`Quantised::unpack_narrow`].
    shared: bool,
}

impl Form {
    const fn factors(self) -> usize {
        self.scales + self.shared as usize + self.mins
    }
}

/// What can be known of the tiles of a format when the program is compiled. Matching on a constant keeps the compiler
/// from generating the other arms.
struct Known<S, Q>(PhantomData<(S, Q)>);

impl<S: Simd, Q: Quantised> Known<S, Q> {
    const FORM: Form = match (Q::NARROW, S::LEVELS) {
        // Only there do signed bytes, too large to be added up, take much longer.
        (Some((bias, max)), Levels::In16) => Form { bias, max, scales: 2, mins: Q::MINS, shared: true },
        _ => Form { bias: Q::BIAS, max: Q::MAX, scales: Q::SCALES, mins: Q::MINS, shared: false },
    };
    /// [`WORDS`] or the level of [`Panel::p_dots`](crate::isa::Panel::p_dots).
    const LEVEL: usize = {
        let Form { bias, max, scales, mins, shared } = Self::FORM;
        assert!(mins == 0 || bias == 0 && max <= S::NARROW_MAX);
        // Less the bias: half a block of as many values, or a quarter with two scales.
        let most = if max as i32 - bias > bias { max as i32 - bias } else { bias };
        let level = match S::LEVELS {
            Levels::In16 if 127 * most * (16 / scales as i32) <= i16::MAX as i32 => WORDS,
            levels => levels.of(max),
        };
        assert!(level == WORDS || !shared);
        level
    };
}

/// In the place of a level: sums of 16 bits as [`Panel::p_words`](crate::isa::Panel::p_words) computes them. They start
/// with what makes up for the bias, so that they need only hold what the true weights give.
const WORDS: usize = 16;

/// In the place of level 0: products of pairs as [`Panel::p_pairs`](crate::isa::Panel::p_pairs) computes them. Weights and
/// activations are laid out as it reads them.
const PAIRS: usize = 32;

/// Bytes of a panel per row and block, without factors.
const fn weight_bytes(level: usize) -> usize {
    if level == PAIRS { 2 * 32 + 4 } else { 32 }
}

/// Words of the activations per block and token.
const fn act_words(level: usize) -> usize {
    if level == PAIRS { PAIR_WORDS } else { ACT_WORDS }
}

/// Words per block and token that are needed besides the activations: the scaled sums of activations to multiply with
/// mins, or what the integer sums start with. No format needs both.
const fn aux_words(level: usize, scales: usize, mins: usize) -> usize {
    match (level, mins) {
        (PAIRS, _) => 0,
        (_, 0) => scales,
        _ => mins,
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
