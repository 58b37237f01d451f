//! Activations, quantised to 8 bits in blocks of 32.
use crate::buffer::{Buffer, cast_mut, split};
use crate::isa::{Isa, Op, Simd};
use crate::norm::{self, rms_norm};
use crate::team::{Scratch, SharedMut, Team};
use std::ops::Range;

/// Values that share one scale.
pub(crate) const BLOCK: usize = 32;
/// Rows are padded with zeros to a multiple of this many values.
pub(crate) const GROUP: usize = 128;
/// Up to this many tokens products read the rows token by token (`matvec`), beyond it panel by panel.
pub(crate) const MATVEC_TOKENS: usize = 1;
/// Words of 32 bits that a token's block takes in the packed form: 8 of quants and the scale.
pub(crate) const ACT_WORDS: usize = 9;
/// Blocks whose largest value is below this count as zero, since 127 / max would not be finite.
const TINY: f32 = 1e-30;

/// Rows of activations in the form that quantised products of more than one token read: i8 quants with one f32 scale
/// d = max |x| / 127 per 32 values, and their sums.
pub struct Acts {
    n: usize,
    cols: usize,
    /// Blocks of a padded row.
    blocks: usize,
    max_tokens: usize,
    max_cols: usize,
    /// `[n][cols]` normed values, if they were normed.
    normed: Buffer<f32>,
    /// `[n][32 · blocks]` quants.
    q: Buffer<i8>,
    /// `[n][blocks]` scales.
    d: Buffer<f32>,
    /// `[n][3][blocks]` sums of the quants: of the first 16 of a block, of the other 16, of all.
    sums: Buffer<i32>,
    /// `[n][3][blocks]` the same sums times the scale.
    scaled: Buffer<f32>,
    /// Most tokens of a tile.
    tile: usize,
    /// The same activations as the tiles of a panel read them, tile after tile, each of T tokens:
    /// `[class 0..4][block of the class][ACT_WORDS][T]`.
    packed: Buffer<i32>,
    /// Likewise `[class 0..4][block of the class][3][T]` sums of the quants.
    packed_sums: Buffer<i32>,
    /// Likewise the sums times the scale.
    packed_scaled: Buffer<f32>,
}

/// One token's activations.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    /// Which token.
    pub t: usize,
    /// `[blocks][32]` quants.
    pub q: &'a [i8],
    /// [blocks] scales.
    pub d: &'a [f32],
    /// `[3][blocks]` sums of the quants of the first half, the second half and the whole of each block.
    pub sums: &'a [i32],
    /// `[3][blocks]` the sums times the scale.
    pub scaled: &'a [f32],
}

/// The argument of products.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// `[n][cols]`
    pub x: &'a [f32],
    /// Values of a row.
    pub cols: usize,
    /// What each row is normed with before, if it is: the weight, `[cols]`, and ε of a
    /// [root-mean-square norm](crate::norm::rms_norm).
    pub norm: Option<(&'a [f32], f32)>,
}

impl<'a> Source<'a> {
    /// Rows of `cols` values as they are.
    pub fn new(x: &'a [f32], cols: usize) -> Self {
        Source { x, cols, norm: None }
    }

    /// Rows of as many values as `weight` has, normed.
    pub fn normed(x: &'a [f32], weight: &'a [f32], eps: f32) -> Self {
        Source { x, cols: weight.len(), norm: Some((weight, eps)) }
    }

    /// Rows.
    ///
    /// # Panics
    /// When `x` is not whole rows.
    pub(crate) fn tokens(&self) -> usize {
        assert!(self.cols > 0 && self.x.len().is_multiple_of(self.cols), "whole rows of {}", self.cols);
        self.x.len() / self.cols
    }

    /// Norms and quantises a single row into memory of the calling thread: its values, and their quants.
    pub(crate) fn one<'m>(&self, isa: Isa, memory: &'m mut Scratch) -> (&'m [f32], Row<'m>)
    where
        'a: 'm,
    {
        let Source { x, cols, norm } = *self;
        assert_eq!(x.len(), cols, "a single row");
        let blocks = cols.next_multiple_of(GROUP) / BLOCK;
        let sizes =
            [if norm.is_some() { 4 * cols } else { 0 }, blocks * BLOCK, blocks * 4, blocks * 12, blocks * 12];
        let memory = memory.get(sizes.iter().map(|size| size.next_multiple_of(64)).sum());
        let [normed, q, d, sums, scaled] = split(memory, sizes);
        let x = match norm {
            None => x,
            Some((weight, eps)) => {
                let normed = cast_mut(normed);
                norm::row(isa, x, Some(weight), eps, normed);
                normed
            }
        };
        let (q, d, sums, scaled) = (cast_mut(q), cast_mut(d), cast_mut(sums), cast_mut(scaled));
        isa.dispatch(QuantiseRow { x, rows: Rows { blocks, q, d, sums, scaled } });
        (x, Row { t: 0, q, d, sums, scaled })
    }
}

struct QuantiseRow<'a> {
    x: &'a [f32],
    rows: Rows<'a>,
}

impl Op for QuantiseRow<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, simd: S) {
        self.rows.quantise(simd, 0, self.x);
    }
}

impl Acts {
    /// Room for `max_tokens` rows of up to `max_cols` values.
    pub fn new(max_tokens: usize, max_cols: usize) -> Acts {
        let blocks = max_cols.next_multiple_of(GROUP) / BLOCK;
        Acts {
            n: 0,
            cols: 0,
            blocks: 0,
            max_tokens,
            max_cols,
            normed: Buffer::default(),
            q: Buffer::zeros(max_tokens * blocks * BLOCK),
            d: Buffer::zeros(max_tokens * blocks),
            sums: Buffer::zeros(max_tokens * blocks * 3),
            scaled: Buffer::zeros(max_tokens * blocks * 3),
            tile: 0,
            packed: Buffer::zeros(max_tokens * blocks * ACT_WORDS),
            packed_sums: Buffer::zeros(max_tokens * blocks * 3),
            packed_scaled: Buffer::zeros(max_tokens * blocks * 3),
        }
    }

    /// Tokens held now.
    pub fn tokens(&self) -> usize {
        self.n
    }

    /// Values of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Norms and quantises `source`.
    ///
    /// # Panics
    /// When the room given to [`Acts::new`] is exceeded.
    pub(crate) fn set(&mut self, team: &Team, source: Source) {
        let (n, cols) = (source.tokens(), source.cols);
        assert!(n <= self.max_tokens && cols <= self.max_cols, "activations exceed their room");
        let Some((weight, eps)) = source.norm else { return self.quantise(team, source.x, n, cols) };
        let mut normed = std::mem::take(&mut self.normed);
        normed.grow(n * cols);
        rms_norm(team, source.x, cols, Some(weight), eps, &mut normed[..n * cols]);
        self.quantise(team, &normed[..n * cols], n, cols);
        self.normed = normed;
    }

    /// The values that were quantised, given the source.
    pub(crate) fn values<'v>(&'v self, source: Source<'v>) -> &'v [f32] {
        match source.norm {
            None => source.x,
            Some(_) => &self.normed[..source.x.len()],
        }
    }

    fn quantise(&mut self, team: &Team, x: &[f32], n: usize, cols: usize) {
        self.n = n;
        self.cols = cols;
        self.blocks = cols.next_multiple_of(GROUP) / BLOCK;
        let blocks = self.blocks;
        self.tile = team.isa().dispatch(TileTokens);
        let tile = self.tile;
        let out = Out {
            q: SharedMut::new(&mut self.q),
            d: SharedMut::new(&mut self.d),
            sums: SharedMut::new(&mut self.sums),
            scaled: SharedMut::new(&mut self.scaled),
            packed: SharedMut::new(&mut self.packed),
            packed_sums: SharedMut::new(&mut self.packed_sums),
            packed_scaled: SharedMut::new(&mut self.packed_scaled),
        };
        let quantise = |tokens: Range<usize>| {
            team.isa().dispatch(Quantise { x, cols, blocks, tokens, out: &out });
        };
        team.run(|w| w.share(n.div_ceil(tile)).for_each(|i| quantise(tile_tokens(n, tile, i))));
    }

    /// Blocks of a padded row, a multiple of 4.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// The tokens of each tile.
    pub(crate) fn tiles(&self) -> impl Iterator<Item = Range<usize>> {
        (0..self.n.div_ceil(self.tile)).map(|i| tile_tokens(self.n, self.tile, i))
    }

    /// Tile after tile of T tokens: `[class 0..4][block of the class][ACT_WORDS][T]` words, of which the last
    /// is the bits of an f32.
    pub(crate) fn packed(&self) -> &[i32] {
        &self.packed[..self.n * self.blocks * ACT_WORDS]
    }

    /// −`bias` · Σ quants in the order of the tiles: `[class 0..4][block of the class][scales][T]`, the sums
    /// being those of each half of a block with two scales.
    pub(crate) fn packed_init(&self, bias: i32, scales: usize, out: &mut [i32]) {
        self.gather(&self.packed_sums, scales, out, |sum| -bias * sum);
    }

    /// The bits of scale · Σ quants in the same order, with `mins` in the place of scales.
    pub(crate) fn packed_scaled(&self, mins: usize, out: &mut [i32]) {
        self.gather(&self.packed_scaled, mins, out, |sum| sum.to_bits() as i32);
    }

    /// Of each block's three sums the last, or the first two when `count` is 2.
    fn gather<T: Copy>(&self, sums: &[T], count: usize, out: &mut [i32], f: impl Fn(T) -> i32) {
        for tokens in self.tiles() {
            let part = |unit: usize| tokens.start * self.blocks * unit..tokens.end * self.blocks * unit;
            let t = tokens.len();
            for (out, sums) in
                out[part(count)].chunks_exact_mut(count * t).zip(sums[part(3)].chunks_exact(3 * t))
            {
                let sums = if count == 2 { &sums[..2 * t] } else { &sums[2 * t..] };
                for (out, &sum) in out.iter_mut().zip(sums) {
                    *out = f(sum);
                }
            }
        }
    }

    /// The activations of token `t`.
    #[cfg(test)]
    pub(crate) fn row(&self, t: usize) -> Row<'_> {
        assert!(t < self.n);
        let b = self.blocks;
        Row {
            t,
            q: &self.q[t * b * BLOCK..(t + 1) * b * BLOCK],
            d: &self.d[t * b..(t + 1) * b],
            sums: &self.sums[t * b * 3..(t + 1) * b * 3],
            scaled: &self.scaled[t * b * 3..(t + 1) * b * 3],
        }
    }
}

/// Where the threads write; each only the rows of its tokens.
struct Out<'a> {
    q: SharedMut<'a, i8>,
    d: SharedMut<'a, f32>,
    sums: SharedMut<'a, i32>,
    scaled: SharedMut<'a, f32>,
    packed: SharedMut<'a, i32>,
    packed_sums: SharedMut<'a, i32>,
    packed_scaled: SharedMut<'a, f32>,
}

/// The tokens of tile `i` when `n` are cut into as few tiles of at most `tile` as possible, all of nearly the
/// same size.
fn tile_tokens(n: usize, tile: usize, i: usize) -> Range<usize> {
    let count = n.div_ceil(tile);
    n * i / count..n * (i + 1) / count
}

/// The most tokens of a tile.
struct TileTokens;

impl Op for TileTokens {
    type Output = usize;

    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) -> usize {
        S::TOKENS
    }
}

/// Quantises the rows of `tokens`, and packs them as one tile.
struct Quantise<'a> {
    x: &'a [f32],
    cols: usize,
    blocks: usize,
    tokens: Range<usize>,
    out: &'a Out<'a>,
}

/// What [`Out`] holds of some tokens.
struct Rows<'a> {
    blocks: usize,
    q: &'a mut [i8],
    d: &'a mut [f32],
    sums: &'a mut [i32],
    scaled: &'a mut [f32],
}

impl Op for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Quantise { x, cols, blocks, tokens, out, .. } = self;
        let part = |unit: usize| tokens.start * blocks * unit..tokens.end * blocks * unit;
        // SAFETY: the parts of different tokens do not overlap, and one thread has these.
        let mut rows = unsafe {
            Rows {
                blocks,
                q: out.q.slice(part(BLOCK)),
                d: out.d.slice(part(1)),
                sums: out.sums.slice(part(3)),
                scaled: out.scaled.slice(part(3)),
            }
        };
        for (t, x) in x[tokens.start * cols..tokens.end * cols].chunks_exact(cols).enumerate() {
            rows.quantise(simd, t, x);
        }
        // SAFETY: likewise; nothing is packed beyond the tiles.
        let (words, sums, scaled) = unsafe {
            (
                out.packed.slice(part(ACT_WORDS)),
                out.packed_sums.slice(part(3)),
                out.packed_scaled.slice(part(3)),
            )
        };
        rows.pack(simd, tokens.len(), words, sums, scaled);
    }
}

impl Rows<'_> {
    /// Quantises the row `x` of token `t`.
    #[inline(always)]
    fn quantise<S: Simd>(&mut self, simd: S, t: usize, x: &[f32]) {
        let blocks = self.blocks;
        let (q, _) = self.q[t * blocks * BLOCK..][..blocks * BLOCK].as_chunks_mut::<GROUP>();
        let (d, _) = self.d[t * blocks..][..blocks].as_chunks_mut::<4>();
        let sums = &mut self.sums[t * blocks * 3..][..blocks * 3];
        let scaled = &mut self.scaled[t * blocks * 3..][..blocks * 3];
        for (g, (q, d)) in q.iter_mut().zip(d).enumerate() {
            for (b, (q, d)) in q.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&mut *d).enumerate() {
                *d = quantise_block(simd, x.get(g * GROUP + b * BLOCK..).unwrap_or(&[]), q);
            }
            let [lo, hi] = simd.dots(1, [simd.b_splat(1); 4], q);
            let d = simd.f4_load(d);
            for (i, sum) in [lo, hi, simd.i4_add(lo, hi)].into_iter().enumerate() {
                let at = i * blocks + 4 * g..i * blocks + 4 * g + 4;
                sums[at.clone()].copy_from_slice(&simd.i4_array(sum));
                scaled[at].copy_from_slice(&simd.f4_array(simd.f4_mul(simd.i4_float(sum), d)));
            }
        }
    }

    /// Packs the rows of a tile of `count` tokens, at most 8.
    #[inline(always)]
    fn pack<S: Simd>(&self, simd: S, count: usize, words: &mut [i32], sums: &mut [i32], scaled: &mut [f32]) {
        let blocks = self.blocks;
        let words = words.chunks_exact_mut(ACT_WORDS * count);
        let sums = sums.chunks_exact_mut(3 * count);
        let scaled = scaled.chunks_exact_mut(3 * count);
        for (i, ((words, sums), scaled)) in words.zip(sums).zip(scaled).enumerate() {
            let b = i % (blocks / 4) * 4 + i / (blocks / 4);
            let mut rows = [simd.b_splat(0); 8];
            for (t, row) in rows[..count].iter_mut().enumerate() {
                let q: &[i8; BLOCK] = self.q[(t * blocks + b) * BLOCK..].first_chunk().expect("a block");
                *row = simd.b_load(&q.map(|q| q as u8));
            }
            // Word k of all tokens together.
            for (column, words) in simd.b_transpose(rows).into_iter().zip(words.chunks_exact_mut(count)) {
                let mut bytes = [0; 32];
                simd.b_store(column, &mut bytes);
                for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                    *word = i32::from_le_bytes(*bytes);
                }
            }
            for t in 0..count {
                words[8 * count + t] = self.d[t * blocks + b].to_bits() as i32;
                for i in 0..3 {
                    sums[i * count + t] = self.sums[(t * 3 + i) * blocks + b];
                    scaled[i * count + t] = self.scaled[(t * 3 + i) * blocks + b];
                }
            }
        }
    }
}

/// Quantises the first 32 values of `x` (zeros beyond its end) and returns their scale.
#[inline(always)]
fn quantise_block<S: Simd>(simd: S, x: &[f32], q: &mut [i8; BLOCK]) -> f32 {
    if x.is_empty() {
        *q = [0; BLOCK];
        return 0.0;
    }
    let (lo, hi) = match x.first_chunk::<BLOCK>() {
        Some(x) => {
            let (halves, _) = x.as_chunks::<16>();
            (simd.load(&halves[0]), simd.load(&halves[1]))
        }
        None => (simd.load_part(x), simd.load_part(x.get(16..).unwrap_or(&[]))),
    };
    let amax = simd.max_lane(simd.max(simd.abs(lo), simd.abs(hi)));
    let (d, inverse) = if amax < TINY { (0.0, 0.0) } else { (amax / 127.0, 127.0 / amax) };
    let inverse = simd.splat(inverse);
    let (halves, _) = q.as_chunks_mut::<16>();
    simd.store_i8(simd.mul(lo, inverse), &mut halves[0]);
    simd.store_i8(simd.mul(hi, inverse), &mut halves[1]);
    d
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    /// Values of many magnitudes with both signs.
    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1013) as f32 - 506.0) * 10f32.powi((i / 32 % 9) as i32 - 4)).collect()
    }

    #[test]
    fn every_isa_quantises_to_the_nearest_quants() {
        let (n, cols) = (3, 160 + 7);
        let x = values(n * cols);
        for isa in Isa::available() {
            let team = Team::new(2, isa).unwrap();
            let mut acts = Acts::new(4, 512);
            // Leftovers of a larger use must not show in the padding.
            acts.quantise(&team, &values(4 * 512), 4, 512);
            acts.quantise(&team, &x, n, cols);
            for t in 0..n {
                let row = acts.row(t);
                assert_eq!(row.q.len(), 256);
                let x = &x[t * cols..(t + 1) * cols];
                for b in 0..8 {
                    let block: [f32; 32] = std::array::from_fn(|i| x.get(b * 32 + i).copied().unwrap_or(0.0));
                    let amax = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    assert_eq!(row.d[b], amax / 127.0, "{isa}");
                    let inverse = if amax > 0.0 { 127.0 / amax } else { 0.0 };
                    let q = block.map(|v| (v * inverse).round_ties_even() as i8);
                    assert_eq!(row.q[b * 32..b * 32 + 32], q, "{isa}");
                    let sum = |q: &[i8]| q.iter().map(|&q| i32::from(q)).sum::<i32>();
                    for (i, sum) in [sum(&q[..16]), sum(&q[16..]), sum(&q)].into_iter().enumerate() {
                        assert_eq!(row.sums[i * 8 + b], sum);
                        assert_eq!(row.scaled[i * 8 + b], row.d[b] * sum as f32);
                    }
                }
            }
        }
    }

    #[test]
    fn tiny_blocks_are_zero() {
        let team = Team::new(1, Isa::best()).unwrap();
        let mut acts = Acts::new(1, 32);
        acts.quantise(&team, &[1e-38; 32], 1, 32);
        assert_eq!((acts.row(0).d[0], acts.row(0).q[0]), (0.0, 0));
    }
}
