//! Activations, quantised to 8 bits in blocks of 32.
use crate::ahead::{READ, prefetch};
use crate::buffer::{Buffer, cast_mut, split};
use crate::isa::{Isa, Op, Simd, eight};
use crate::norm::{self, rms_norm};
use crate::outlier::{self, Outlier};
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
/// Likewise as [`Acts::packed_pairs`] lays it out: twice 8, what is subtracted of products, and the scale.
pub(crate) const PAIR_WORDS: usize = 18;
/// Blocks whose largest value is below this count as zero, since 127 / max would not be finite.
const TINY: f32 = 1e-30;

/// Rows of activations in the form that quantised products of more than one token read: i8 quants with one f32 scale
/// d = max |x| / 127 per 32 values, and their sums. Of normed rows an outlier is left out.
///
/// Tokens come in tiles, as a panel takes them. A tile lies where its tokens would with rows of the greatest length, so
/// that the thread which writes it has written there before: to take memory over from another core costs more than to
/// quantise what goes there.
pub struct Acts {
    n: usize,
    cols: usize,
    /// Blocks of a padded row.
    blocks: usize,
    max_tokens: usize,
    max_cols: usize,
    /// `[n][cols]` normed values, if they were normed.
    normed: Buffer<f32>,
    /// Most tokens of a tile.
    tile: usize,
    /// Of each tile of T tokens `[class 0..4][block of the class][ACT_WORDS][T]` words, of which the last is the bits of
    /// a scale.
    packed: Buffer<i32>,
    /// Likewise `[class 0..4][block of the class][2][T]` sums of the quants, of the first 16 of a block and the others.
    sums: Buffer<i32>,
    /// What the quants leave out, in the order of channels.
    outliers: Vec<Outlier>,
}

/// Blocks of a row of `cols` values, padded to whole groups.
fn padded_blocks(cols: usize) -> usize {
    cols.next_multiple_of(GROUP) / BLOCK
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
    /// What the quants leave out.
    pub outlier: Option<Outlier>,
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
        let blocks = padded_blocks(cols);
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
        let find = norm.is_some();
        let outlier = isa.dispatch(QuantiseRow { x, find, q, d, sums, scaled });
        (x, Row { t: 0, q, d, sums, scaled, outlier })
    }
}

/// Quantises a row into the parts of a [`Row`].
struct QuantiseRow<'a> {
    x: &'a [f32],
    /// Leave out an outlier.
    find: bool,
    q: &'a mut [i8],
    d: &'a mut [f32],
    sums: &'a mut [i32],
    scaled: &'a mut [f32],
}

impl Op for QuantiseRow<'_> {
    type Output = Option<Outlier>;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> Option<Outlier> {
        let QuantiseRow { x, find, q, d, sums, scaled } = self;
        let outlier = if find { outlier::find(simd, x, 0) } else { None };
        let blocks = d.len();
        for (g, (q, d)) in q.as_chunks_mut().0.iter_mut().zip(d.as_chunks_mut().0).enumerate() {
            let [lo, hi] = quantise_group(simd, x, g, outlier, q, d);
            let d = simd.f4_load(d);
            for (i, sum) in [lo, hi, simd.i4_add(lo, hi)].into_iter().enumerate() {
                let at = i * blocks + 4 * g..i * blocks + 4 * g + 4;
                sums[at.clone()].copy_from_slice(&simd.i4_array(sum));
                scaled[at].copy_from_slice(&simd.f4_array(simd.f4_mul(simd.i4_float(sum), d)));
            }
        }
        outlier
    }
}

impl Acts {
    /// Room for `max_tokens` rows of up to `max_cols` values.
    pub fn new(max_tokens: usize, max_cols: usize) -> Acts {
        let blocks = padded_blocks(max_cols);
        Acts {
            n: 0,
            cols: 0,
            blocks: 0,
            max_tokens,
            max_cols,
            normed: Buffer::default(),
            tile: 0,
            packed: Buffer::zeros(max_tokens * blocks * ACT_WORDS),
            sums: Buffer::zeros(max_tokens * blocks * 2),
            outliers: Vec::new(),
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
        let Some((weight, eps)) = source.norm else { return self.quantise(team, source.x, n, cols, false) };
        let mut normed = std::mem::take(&mut self.normed);
        normed.grow(n * cols);
        rms_norm(team, source.x, cols, Some(weight), eps, &mut normed[..n * cols]);
        self.quantise(team, &normed[..n * cols], n, cols, true);
        self.normed = normed;
    }

    /// The values that were quantised, given the source.
    pub(crate) fn values<'v>(&'v self, source: Source<'v>) -> &'v [f32] {
        match source.norm {
            None => source.x,
            Some(_) => &self.normed[..source.x.len()],
        }
    }

    /// Without outliers, when it is to `find` them.
    fn quantise(&mut self, team: &Team, x: &[f32], n: usize, cols: usize, find: bool) {
        self.n = n;
        self.cols = cols;
        self.blocks = padded_blocks(cols);
        let blocks = self.blocks;
        self.tile = team.isa().dispatch(TileTokens);
        let tile = self.tile;
        let room = self.room();
        let (packed, sums) = (SharedMut::new(&mut self.packed), SharedMut::new(&mut self.sums));
        let mut outliers = vec![None; n];
        let found = SharedMut::new(&mut outliers);
        let quantise = |tokens: Range<usize>| {
            let part = |unit: usize| {
                (tokens.start * room * unit)..(tokens.start * room + tokens.len() * blocks) * unit
            };
            // SAFETY: `blocks` is at most `room`, so that different tiles do not overlap, and one thread has this one.
            let (packed, sums) = unsafe { (packed.slice(part(ACT_WORDS)), sums.slice(part(2))) };
            // SAFETY: likewise.
            let found = unsafe { found.slice(tokens.clone()) };
            let x = &x[tokens.start * cols..];
            team.isa().dispatch(QuantiseTile { x, cols, find, first: tokens.start, found, packed, sums });
        };
        team.run(|w| w.share(n.div_ceil(tile)).for_each(|i| quantise(tile_tokens(n, tile, i))));
        self.outliers.clear();
        self.outliers.extend(outliers.iter().flatten());
        self.outliers.sort_unstable_by_key(|outlier| (outlier.channel, outlier.t));
    }

    /// Blocks of the longest row.
    fn room(&self) -> usize {
        padded_blocks(self.max_cols)
    }

    /// Blocks of a padded row, a multiple of 4.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// What the quants leave out, in the order of channels.
    pub(crate) fn outliers(&self) -> &[Outlier] {
        &self.outliers
    }

    /// The tokens of each tile.
    pub(crate) fn tiles(&self) -> impl Iterator<Item = Range<usize>> {
        (0..self.n.div_ceil(self.tile)).map(|i| tile_tokens(self.n, self.tile, i))
    }

    /// Of the T tokens of a tile `[class 0..4][block of the class][ACT_WORDS][T]` words, of which the last is the bits of
    /// an f32.
    pub(crate) fn packed(&self, tile: &Range<usize>) -> &[i32] {
        &self.packed[tile.start * self.room() * ACT_WORDS..][..tile.len() * self.blocks * ACT_WORDS]
    }

    /// −`bias` · Σ quants, tile after tile in their order: `[class 0..4][block of the class][scales][T]`, the sums being
    /// those of each half of a block with two scales.
    pub(crate) fn packed_init(&self, bias: i32, scales: usize, out: &mut [i32]) {
        self.gather(scales, out, |sum, _| -bias * sum);
    }

    /// Likewise with `parts` in the place of scales, as two words: of the first two quants of each four, and of the
    /// other two, both modulo 2¹⁶.
    pub(crate) fn packed_words(&self, bias: i32, parts: usize, out: &mut [i32]) {
        for tile in self.tiles() {
            let t = tile.len();
            let out = &mut out[tile.start * self.blocks * parts..tile.end * self.blocks * parts];
            for (out, words) in
                out.chunks_exact_mut(parts * t).zip(self.packed(&tile).chunks_exact(ACT_WORDS * t))
            {
                for (out, words) in out.chunks_exact_mut(t).zip(words.chunks_exact(8 / parts * t)) {
                    for (i, out) in out.iter_mut().enumerate() {
                        // As u8, each 128 more, whose sums in pairs do not reach from one word into the other.
                        let sums = words[i..].iter().step_by(t).fold(0, |sums, &word| {
                            let bytes = word as u32 ^ 0x8080_8080;
                            sums + (bytes & 0x00ff_00ff) + (bytes >> 8 & 0x00ff_00ff)
                        });
                        let word = |sum: u32| {
                            let sum = sum as i32 - 2 * 128 * (8 / parts as i32);
                            (-bias * sum) as u16 as u32
                        };
                        *out = (word(sums & 0xffff) | word(sums >> 16) << 16) as i32;
                    }
                }
            }
        }
    }

    /// The quants as [`Panel::p_pairs`](crate::isa::Panel::p_pairs) reads them, and the scales: tile after tile in their
    /// order `[class 0..4][block of the class][PAIR_WORDS][T]`.
    pub(crate) fn packed_pairs(&self, out: &mut [i32]) {
        for tile in self.tiles() {
            let t = tile.len();
            let out = &mut out[tile.start * self.blocks * PAIR_WORDS..tile.end * self.blocks * PAIR_WORDS];
            let blocks = self.packed(&tile).chunks_exact(ACT_WORDS * t);
            for (out, words) in out.chunks_exact_mut(PAIR_WORDS * t).zip(blocks) {
                let (quants, scales) = words.split_at(8 * t);
                let (pairs, rest) = out.split_at_mut(16 * t);
                let (less, rest) = rest.split_at_mut(t);
                rest.copy_from_slice(scales);
                less.fill(0);
                for (pairs, quants) in pairs.chunks_exact_mut(2 * t).zip(quants.chunks_exact(t)) {
                    let (to_even, to_odd) = pairs.split_at_mut(t);
                    for i in 0..t {
                        let [a0, a1, a2, a3] = quants[i].to_le_bytes().map(|a| i32::from(a as i8));
                        to_even[i] = a1 & 0xffff | a3 << 16;
                        to_odd[i] = a0 & 0xffff | a2 << 16;
                        less[i] -= a0 * a1 + a2 * a3;
                    }
                }
            }
        }
    }

    /// The bits of scale · Σ quants in the same order, with `mins` in the place of scales.
    pub(crate) fn packed_scaled(&self, mins: usize, out: &mut [i32]) {
        self.gather(mins, out, |sum, scale| (sum as f32 * f32::from_bits(scale as u32)).to_bits() as i32);
    }

    /// Of each block and token f(Σ quants, bits of the scale): of each half when `count` is 2, else of the whole.
    fn gather(&self, count: usize, out: &mut [i32], f: impl Fn(i32, i32) -> i32) {
        for tile in self.tiles() {
            let t = tile.len();
            let out = &mut out[tile.start * self.blocks * count..tile.end * self.blocks * count];
            let sums = self.sums[tile.start * self.room() * 2..].chunks_exact(2 * t);
            let words = self.packed(&tile).chunks_exact(ACT_WORDS * t);
            for ((out, sums), words) in out.chunks_exact_mut(count * t).zip(sums).zip(words) {
                let ((first, second), scales) = (sums.split_at(t), &words[8 * t..]);
                for i in 0..t {
                    if count == 2 {
                        (out[i], out[t + i]) = (f(first[i], scales[i]), f(second[i], scales[i]));
                    } else {
                        out[i] = f(first[i] + second[i], scales[i]);
                    }
                }
            }
        }
    }

    /// Quants and scales of token `t`.
    #[cfg(test)]
    pub(crate) fn row(&self, t: usize) -> (Vec<i8>, Vec<f32>) {
        let tile = self.tiles().find(|tile| tile.contains(&t)).expect("a token");
        let word = |block: usize, word: usize| {
            let place = block % 4 * (self.blocks / 4) + block / 4;
            self.packed(&tile)[(place * ACT_WORDS + word) * tile.len() + t - tile.start]
        };
        let quants = (0..self.blocks).flat_map(|b| (0..8).flat_map(move |i| word(b, i).to_le_bytes()));
        let scales = (0..self.blocks).map(|b| f32::from_bits(word(b, 8) as u32));
        (quants.map(|byte| byte as i8).collect(), scales.collect())
    }
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

/// Quantises as many rows as `found` has, at most 8, as one tile.
struct QuantiseTile<'a> {
    /// Those rows and the following.
    x: &'a [f32],
    cols: usize,
    /// Leave out outliers.
    find: bool,
    /// Number of the first row.
    first: usize,
    found: &'a mut [Option<Outlier>],
    packed: &'a mut [i32],
    sums: &'a mut [i32],
}

/// Groups of 128 values that [`QuantiseTile`] asks for ahead: another core may have written them.
const AHEAD: usize = 2;

impl Op for QuantiseTile<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let QuantiseTile { x, cols, find, first, found, packed, sums: packed_sums } = self;
        let (count, groups) = (found.len(), cols.div_ceil(GROUP));
        if find {
            for t in 0..count {
                found[t] = outlier::find(simd, &x[t * cols..(t + 1) * cols], first + t);
            }
        }
        let (mut q, mut d, mut sums) = ([[0; GROUP]; 8], [[0.0; 4]; 8], [[[0; 4]; 2]; 8]);
        for g in 0..groups {
            for t in 0..count {
                // Behind a row comes that of the next tile.
                let (row, group) =
                    if g + AHEAD < groups { (t, g + AHEAD) } else { (t + count, g + AHEAD - groups) };
                prefetch::<READ>(x.as_ptr().wrapping_add(row * cols + group * GROUP).cast(), 4 * GROUP);
                let row = &x[t * cols..(t + 1) * cols];
                let [lo, hi] = quantise_group(simd, row, g, found[t], &mut q[t], &mut d[t]);
                sums[t] = [simd.i4_array(lo), simd.i4_array(hi)];
            }
            for b in 0..4 {
                let at = (b * groups + g) * count;
                pack(simd, &q, b, count, &mut packed[at * ACT_WORDS..][..8 * count]);
                let scales = &mut packed[at * ACT_WORDS + 8 * count..][..count];
                let (first, second) = packed_sums[2 * at..][..2 * count].split_at_mut(count);
                for t in 0..count {
                    scales[t] = d[t][b].to_bits() as i32;
                    first[t] = sums[t][0][b];
                    second[t] = sums[t][1][b];
                }
            }
        }
    }
}

/// Packs block `b` of the first `count` rows as `[8][count]` words: word k of all tokens together.
#[inline(always)]
fn pack<S: Simd>(simd: S, q: &[[i8; GROUP]; 8], b: usize, count: usize, words: &mut [i32]) {
    let rows: [[u8; BLOCK]; 8] = eight!(t => {
        let q: &[i8; BLOCK] = &q[t].as_chunks().0[b];
        q.map(|q| q as u8)
    });
    // Each column overwrites what the one before it has too much.
    let mut bytes = [0; 32 * 8];
    for (k, column) in simd.b_transpose(rows.each_ref()).into_iter().enumerate() {
        simd.b_store(column, bytes[4 * k * count..].first_chunk_mut().expect("room for eight words"));
    }
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = i32::from_le_bytes(*bytes);
    }
}

/// Quantises group `g` of the row `x` (zeros beyond its end, and in the place of an outlier), with the scales of its
/// blocks. Gives the sums of the first and the second halves of the blocks.
#[inline(always)]
fn quantise_group<S: Simd>(
    simd: S,
    x: &[f32],
    g: usize,
    outlier: Option<Outlier>,
    q: &mut [i8; GROUP],
    d: &mut [f32; 4],
) -> [S::I4; 2] {
    let mut x = x.get(g * GROUP..).unwrap_or(&[]);
    let mut without = [0.0; GROUP];
    if let Some(Outlier { channel, .. }) = outlier
        && channel / GROUP == g
    {
        let without = &mut without[..x.len().min(GROUP)];
        without.copy_from_slice(&x[..without.len()]);
        without[channel % GROUP] = 0.0;
        x = without;
    }
    let (blocks, _) = q.as_chunks_mut::<BLOCK>();
    for b in 0..4 {
        d[b] = quantise_block(simd, x.get(b * BLOCK..).unwrap_or(&[]), &mut blocks[b]);
    }
    simd.dots(1, [simd.b_splat(1); 4], q)
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
            acts.quantise(&team, &values(4 * 512), 4, 512, false);
            acts.quantise(&team, &x, n, cols, false);
            let (mut halves, mut wholes) = (vec![0; 2 * n * 8], vec![0; n * 8]);
            acts.packed_init(-1, 2, &mut halves);
            acts.packed_scaled(1, &mut wholes);
            for t in 0..n {
                let x = &x[t * cols..(t + 1) * cols];
                let mut memory = Scratch::default();
                let (_, row) = Source::new(x, cols).one(isa, &mut memory);
                assert_eq!(acts.row(t), (row.q.to_vec(), row.d.to_vec()), "{isa}");
                assert_eq!(row.q.len(), 256);
                // A block's place in the words of its tile.
                let tile = acts.tiles().find(|tile| tile.contains(&t)).unwrap();
                let at = |b: usize, count: usize, i: usize| {
                    (tile.start * 8 + (b % 4 * 2 + b / 4) * tile.len()) * count + i * tile.len() + t
                        - tile.start
                };
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
                        match i {
                            2 => {
                                assert_eq!(f32::from_bits(wholes[at(b, 1, 0)] as u32), row.d[b] * sum as f32)
                            }
                            _ => assert_eq!(halves[at(b, 2, i)], sum, "{isa}"),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn tiny_blocks_are_zero() {
        let team = Team::new(1, Isa::best()).unwrap();
        let mut acts = Acts::new(1, 32);
        acts.quantise(&team, &[1e-38; 32], 1, 32, false);
        let (quants, scales) = acts.row(0);
        assert_eq!((scales[0], quants[0]), (0.0, 0));
    }
}
