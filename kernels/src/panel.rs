//! Prefill: panels of quantised rows times many tokens.
//!
//! A panel is [`Panel::ROWS`](crate::isa::Panel) rows unpacked to u8, and a stack is up to [`STACK`] panels, in
//! the order in which the tiles walk it:
//!
//! ```text
//! [class 0..4][panel][block of the class] of  [8][ROWS][4] weights, four values of k together: u8, or i8
//!                                             less 128 where the instruction set has no products of larger u8,
//!                                             [scales][ROWS] f32, or as words with [ROWS] f32 that they share,
//!                                             [mins][ROWS] f32
//! ```
//!
//! A stack is unpacked once. Then, class by class, all tokens pass it, a tile of
//! [`Panel::TOKENS`](crate::isa::Panel) at a time: the class of a stack (of 128 rows × 4096 columns: 144 KiB)
//! stays in the thread's L2 cache, and a tile's activations are fetched into it once for all panels of the
//! stack. Lanes are rows, and the chains of the canonical order (see `matvec`) are followed class by class,
//! so the bits are those of `matvec`.
use crate::acts::{ACT_WORDS, Acts};
use crate::ahead::{READ, prefetch};
use crate::buffer::{cast_mut, split};
use crate::format::{Group, Narrow, Quantised, as_blocks, as_blocks_mut, with_quantised};
use crate::isa::{Isa, Levels, Op, Simd, eight, four, two};
use crate::matrix::Matrix;
use crate::out::Out;
use crate::team::Scratch;
use std::marker::PhantomData;
use std::ops::Range;

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
        let Panels { w, acts, tokens: of, out, .. } = self;
        let (n, blocks) = (acts.tokens(), acts.blocks());
        let sizes = [
            n * blocks * Known::<S, Q>::AUX * 4,
            STACK * blocks * block_bytes::<S, Q>(),
            STACK * n * 2 * S::ROWS * 4,
        ];
        let size = sizes.iter().map(|s| s.next_multiple_of(64)).sum();
        let (memory, fresh) = self.scratch.lay_out(w.ty(), size);
        let [aux, stack, sums] = split(memory, sizes);
        let (aux, sums) = (cast_mut::<i32>(aux), cast_mut::<f32>(sums));
        let Form { bias, max, scales, mins, .. } = Known::<S, Q>::FORM;
        if fresh && mins > 0 {
            acts.packed_scaled(mins, aux);
        } else if fresh && Known::<S, Q>::LEVEL == WORDS {
            acts.packed_words(bias, scales, aux);
        } else if fresh {
            acts.packed_init(bias - simd.offset(max), scales, aux);
        }

        let weights = as_blocks::<Q>(w.data());
        let row_blocks = w.cols() / Q::BLOCK_LEN;
        for first in self.rows.clone().step_by(STACK * S::ROWS) {
            let rows = (STACK * S::ROWS).min(self.rows.end - first);
            let panels = rows.div_ceil(S::ROWS);
            let stack = &mut stack[..panels * blocks * block_bytes::<S, Q>()];
            // Rows beyond the last repeat it; their results are dropped.
            let row = |i: usize| {
                let r = first + i.min(rows - 1);
                &weights[r * row_blocks..(r + 1) * row_blocks]
            };
            unpack::<S, Q>(simd, panels, row, stack);
            for class in 0..4 {
                let stack = &stack[class * stack.len() / 4..(class + 1) * stack.len() / 4];
                let class_of = |tile: &Range<usize>| {
                    let words = blocks / 4 * tile.len() * ACT_WORDS;
                    &acts.packed(tile)[class * words..(class + 1) * words]
                };
                let mut tiles =
                    acts.tiles().filter(|tile| of.start <= tile.start && tile.end <= of.end).peekable();
                while let Some(tokens) = tiles.next() {
                    if class == 3 {
                        tokens.clone().for_each(|t| out.ask(t, first..first + rows));
                    }
                    let aux_words = blocks / 4 * tokens.len() * Known::<S, Q>::AUX;
                    let aux =
                        &aux[tokens.start * blocks * Known::<S, Q>::AUX + class * aux_words..][..aux_words];
                    let acts = class_of(&tokens);
                    let next = tiles.peek().map_or(acts, class_of);
                    for (panel, weights) in stack.chunks_exact(stack.len() / panels).enumerate() {
                        let sums = &mut sums[(panel * n + tokens.start) * 2 * S::ROWS..]
                            [..tokens.len() * 2 * S::ROWS];
                        let tile = Tile { class, weights, acts, next, aux, sums: &mut *sums };
                        multiply::<S, Q>(simd, tile, tokens.len());
                        if class == 3 {
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

/// Panels of a stack. Four let a tile's activations be fetched from beyond the L2 cache a quarter as often,
/// and one class of them leaves most of a cache of 1 MiB to what passes by.
const STACK: usize = 4;

/// Bytes of a panel per block of 32 columns.
const fn block_bytes<S: Simd, Q: Quantised>() -> usize {
    S::ROWS * (32 + 4 * Known::<S, Q>::FORM.factors())
}

/// Unpacks the rows `row(0..panels · ROWS)` into `stack`.
#[inline(always)]
fn unpack<'a, S: Simd, Q: Quantised>(
    simd: S,
    panels: usize,
    row: impl Fn(usize) -> &'a [Q],
    stack: &mut [u8],
) {
    let stride = block_bytes::<S, Q>();
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
            rows.store::<S, Q>(simd, set, start, stack);
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
    fn store<S: Simd, Q: Quantised>(&self, simd: S, set: usize, start: [usize; 4], stack: &mut [u8]) {
        let factors = Known::<S, Q>::FORM.factors();
        for (q, start) in self.q.iter().zip(start) {
            let weights = &mut stack[start..][..32 * S::ROWS];
            for (k, column) in simd.b_transpose(q.each_ref()).into_iter().enumerate() {
                simd.b_store(
                    column,
                    weights[4 * (k * S::ROWS + set)..].first_chunk_mut().expect("eight rows"),
                );
            }
        }
        for (pair, rows) in self.factors[..factors.div_ceil(2)].iter().enumerate() {
            // Of the first factor classes 0 to 3, then of the second.
            for (i, column) in simd.b_transpose(rows.each_ref()).into_iter().enumerate() {
                let factor = 2 * pair + i / 4;
                if factor < factors {
                    let at = start[i % 4] + 4 * ((8 + factor) * S::ROWS + set);
                    simd.b_store(column, stack[at..].first_chunk_mut().expect("eight rows"));
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
        let Form { bias, max, scales, shared, .. } = Self::FORM;
        // Less the bias: half a block of as many values, or a quarter with two scales.
        let most = if max as i32 - bias > bias { max as i32 - bias } else { bias };
        let level = match S::LEVELS {
            Levels::In16 if 127 * most * (16 / scales as i32) <= i16::MAX as i32 => WORDS,
            levels => levels.of(max),
        };
        assert!(level == WORDS || !shared);
        level
    };
    /// Words per block and token that the kinds of formats need besides the activations: the scaled sums of
    /// activations to multiply with mins, or what the integer sums start with. None needs both.
    const AUX: usize = {
        let Form { bias, max, scales, mins, .. } = Self::FORM;
        assert!(mins == 0 || bias == 0 && max <= S::NARROW_MAX);
        if mins > 0 { mins } else { scales }
    };
}

/// In the place of a level: sums of 16 bits as [`Panel::p_words`](crate::isa::Panel::p_words) computes them. They start
/// with what makes up for the bias, so that they need only hold what the true weights give.
const WORDS: usize = 16;

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
    match const { T <= S::TOKENS } {
        true => with_level::<S, Q, T>(simd, tile),
        false => unreachable!("a tile has 1 to {} tokens", S::TOKENS),
    }
}

#[inline(always)]
fn with_level<S: Simd, Q: Quantised, const T: usize>(simd: S, tile: Tile) {
    match Known::<S, Q>::LEVEL {
        0 => with_kind::<S, Q, T, 0>(simd, tile),
        1 => with_kind::<S, Q, T, 1>(simd, tile),
        2 => with_kind::<S, Q, T, 2>(simd, tile),
        4 => with_kind::<S, Q, T, 4>(simd, tile),
        WORDS => with_kind::<S, Q, T, WORDS>(simd, tile),
        _ => with_kind::<S, Q, T, 8>(simd, tile),
    }
}

/// Calls a function of its own for each kind, which formats share.
#[inline(always)]
fn with_kind<S: Simd, Q: Quantised, const T: usize, const LEVEL: usize>(simd: S, tile: Tile) {
    match Known::<S, Q>::FORM {
        Form { scales: 1, mins: 0, .. } => simd.run(TileOp::<T, LEVEL, 1, 0, false>(tile)),
        Form { scales: 1, mins: 1, .. } => simd.run(TileOp::<T, LEVEL, 1, 1, false>(tile)),
        Form { scales: 1, .. } => simd.run(TileOp::<T, LEVEL, 1, 2, false>(tile)),
        Form { shared: false, .. } => simd.run(TileOp::<T, LEVEL, 2, 0, false>(tile)),
        Form { mins: 0, .. } => simd.run(TileOp::<T, LEVEL, 2, 0, true>(tile)),
        _ => simd.run(TileOp::<T, LEVEL, 2, 2, true>(tile)),
    }
}

/// One class of a panel and of the activations of T tokens.
struct Tile<'a> {
    class: usize,
    /// One class of a panel.
    weights: &'a [u8],
    /// `[blocks][ACT_WORDS][T]`
    acts: &'a [i32],
    /// What the next tile has in the place of `acts`; behind the last those themselves.
    next: &'a [i32],
    /// `[blocks][MINS or else SCALES][T]`: scaled sums of activations, or what the integer sums start with.
    aux: &'a [i32],
    /// `[2][T][ROWS]`: the sum of the first two classes, which becomes the result, and of the other two.
    sums: &'a mut [f32],
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
        let Tile { class, weights, acts, next, aux, sums } = self.0;
        let stride = S::ROWS * (32 + 4 * (SCALES + SHARED as usize + MINS));
        let aux_stride = T * if MINS > 0 { MINS } else { SCALES };
        let blocks = weights.len() / stride;
        assert!(acts.len() == blocks * ACT_WORDS * T && aux.len() == blocks * aux_stride);
        assert_eq!(sums.len(), 2 * T * S::ROWS);
        let mut weights = weights.as_ptr();
        let mut acts = acts.as_ptr();
        let mut aux = aux.as_ptr();
        let mut acc = [simd.pf_splat(0.0); T];
        let (near, next) = (blocks.saturating_sub(PREFETCH), next.as_ptr());
        for i in 0..blocks {
            // SAFETY: the pointers walk over `blocks` blocks of the sizes asserted above; a panel starts at 64
            // bytes and its steps are multiples of that.
            unsafe {
                let ahead = if i < near {
                    acts.wrapping_add(PREFETCH * ACT_WORDS * T)
                } else {
                    next.wrapping_add((i - near) * ACT_WORDS * T)
                };
                for line in 0..(ACT_WORDS * T).div_ceil(16) {
                    simd.prefetch(ahead.wrapping_add(16 * line));
                }
                acc = block::<S, T, LEVEL, SCALES, MINS, SHARED>(simd, acc, weights, acts, aux);
                weights = weights.add(stride);
                acts = acts.add(ACT_WORDS * T);
                aux = aux.add(aux_stride);
            }
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

/// Blocks that activations are asked for ahead of their use.
const PREFETCH: usize = 12;

/// Adds the products of one block of 32 columns to the chains.
///
/// # Safety
/// `weights` points to a block of a panel, aligned to 64 bytes, `acts` to `[ACT_WORDS][T]` and `aux` to
/// `[MINS or else SCALES][T]` words.
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
        let factors = weights.add(S::ROWS * 32);
        let factor = |i: usize| simd.pf_load(factors.add(S::ROWS * 4 * i).cast());
        let zero = [simd.p_splat(0); T];
        let (sum, d) = if SHARED {
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
        let scale = acts.add(8 * T).cast::<f32>();
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
