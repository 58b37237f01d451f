//! Activations, quantised to 8 bits in blocks of 32.
use crate::buffer::Buffer;
use crate::isa::{Op, Simd};
use crate::team::{SharedMut, Team};
use std::ops::Range;

/// Values that share one scale.
pub(crate) const BLOCK: usize = 32;
/// Rows are padded with zeros to a multiple of this many values.
pub(crate) const GROUP: usize = 128;
/// Up to this many tokens products read the rows token by token (`matvec`), beyond it panel by panel.
pub(crate) const MATVEC_TOKENS: usize = 1;
/// Words of 32 bits that a token's block takes in the packed form: 8 of quants, the scale, the three sums
/// times the scale.
pub(crate) const ACT_WORDS: usize = 12;
/// Blocks whose largest value is below this count as zero, since 127 / max would not be finite.
const TINY: f32 = 1e-30;

/// Rows of activations in the form that quantised products read: i8 quants with one f32 scale
/// d = max |x| / 127 per 32 values, and their sums.
pub struct Acts {
    n: usize,
    cols: usize,
    /// Blocks of a padded row.
    blocks: usize,
    max_tokens: usize,
    max_cols: usize,
    /// [n][32 · blocks] quants.
    q: Buffer<i8>,
    /// [n][blocks] scales.
    d: Buffer<f32>,
    /// [n][3][blocks] sums of the quants: of the first 16 of a block, of the other 16, of all.
    sums: Buffer<i32>,
    /// [n][3][blocks] the same sums times the scale.
    scaled: Buffer<f32>,
    /// Most tokens of a tile, 0 when nothing is packed.
    tile: usize,
    /// The same activations as the tiles of a panel read them, tile after tile, each of T tokens:
    /// [class 0..4][block of the class][ACT_WORDS][T].
    packed: Buffer<i32>,
    /// Tile after tile [class 0..4][block of the class][3][T] sums of the quants.
    packed_sums: Buffer<i32>,
}

/// One token's activations.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    /// [blocks][32] quants.
    pub q: &'a [i8],
    /// [blocks] scales.
    pub d: &'a [f32],
    /// [3][blocks] sums of the quants of the first half, the second half and the whole of each block.
    pub sums: &'a [i32],
    /// [3][blocks] the sums times the scale.
    pub scaled: &'a [f32],
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
            q: Buffer::zeros(max_tokens * blocks * BLOCK),
            d: Buffer::zeros(max_tokens * blocks),
            sums: Buffer::zeros(max_tokens * blocks * 3),
            scaled: Buffer::zeros(max_tokens * blocks * 3),
            tile: 0,
            packed: Buffer::default(),
            packed_sums: Buffer::default(),
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

    /// Quantises `x`, which holds `n` rows of `cols` values.
    ///
    /// # Panics
    /// When `x` has another length, or the room given to [`Acts::new`] is exceeded.
    pub fn set(&mut self, team: &Team, x: &[f32], n: usize, cols: usize) {
        assert!(n <= self.max_tokens && cols <= self.max_cols, "activations exceed their room");
        assert_eq!(x.len(), n * cols, "activations of {n} rows of {cols}");
        self.n = n;
        self.cols = cols;
        self.blocks = cols.next_multiple_of(GROUP) / BLOCK;
        let blocks = self.blocks;
        self.tile = if n > MATVEC_TOKENS { team.isa().dispatch(TileTokens) } else { 0 };
        if self.tile > 0 {
            self.packed.grow(self.max_tokens * blocks * ACT_WORDS);
            self.packed_sums.grow(self.max_tokens * blocks * 3);
        }
        let tile = self.tile;
        let out = Out {
            q: SharedMut::new(&mut self.q),
            d: SharedMut::new(&mut self.d),
            sums: SharedMut::new(&mut self.sums),
            scaled: SharedMut::new(&mut self.scaled),
            packed: SharedMut::new(&mut self.packed),
            packed_sums: SharedMut::new(&mut self.packed_sums),
        };
        let quantise = |tokens: Range<usize>| {
            team.isa().dispatch(Quantise { x, cols, blocks, tokens, out: &out });
        };
        if tile == 0 {
            // So few rows are quantised sooner than a job starts.
            quantise(0..n);
        } else {
            team.run(|w| {
                for i in w.share(n.div_ceil(tile)) {
                    let tokens = tile_tokens(n, tile, i);
                    quantise(tokens.clone());
                    pack(&out, blocks, tokens);
                }
            });
        }
    }

    /// Blocks of a padded row, a multiple of 4.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// The tokens of each tile.
    pub(crate) fn tiles(&self) -> impl Iterator<Item = Range<usize>> {
        (0..self.n.div_ceil(self.tile)).map(|i| tile_tokens(self.n, self.tile, i))
    }

    /// Tile after tile of T tokens: [class 0..4][block of the class][ACT_WORDS][T] words, of which the last
    /// four are the bits of f32.
    pub(crate) fn packed(&self) -> &[i32] {
        &self.packed[..self.n * self.blocks * ACT_WORDS]
    }

    /// −`bias` · Σ quants in the order of the tiles: [class 0..4][block of the class][scales][T], the sums
    /// being those of each half of a block with two scales.
    pub(crate) fn packed_init(&self, bias: i32, scales: usize, out: &mut [i32]) {
        for tokens in self.tiles() {
            let t = tokens.len();
            let sums = &self.packed_sums[tokens.start * self.blocks * 3..tokens.end * self.blocks * 3];
            let out = &mut out[tokens.start * self.blocks * scales..tokens.end * self.blocks * scales];
            for (out, sums) in out.chunks_exact_mut(scales * t).zip(sums.chunks_exact(3 * t)) {
                let sums = if scales == 2 { &sums[..2 * t] } else { &sums[2 * t..] };
                for (out, &sum) in out.iter_mut().zip(sums) {
                    *out = -bias * sum;
                }
            }
        }
    }

    /// The activations of token `t`.
    pub(crate) fn row(&self, t: usize) -> Row<'_> {
        assert!(t < self.n);
        let b = self.blocks;
        Row {
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

/// Copies the quantised rows of one tile into its packed form.
fn pack(out: &Out, blocks: usize, tokens: Range<usize>) {
    let count = tokens.len();
    let part = |unit: usize| tokens.start * blocks * unit..tokens.end * blocks * unit;
    // SAFETY: one thread has this tile; what it reads it has written itself before.
    let (packed, packed_sums, q, d, sums, scaled) = unsafe {
        (
            out.packed.slice(part(ACT_WORDS)),
            out.packed_sums.slice(part(3)),
            out.q.slice(part(BLOCK)),
            out.d.slice(part(1)),
            out.sums.slice(part(3)),
            out.scaled.slice(part(3)),
        )
    };
    let order = (0..4).flat_map(|class| (class..blocks).step_by(4));
    let packed = packed.chunks_exact_mut(ACT_WORDS * count);
    let packed_sums = packed_sums.chunks_exact_mut(3 * count);
    for ((packed, packed_sums), b) in packed.zip(packed_sums).zip(order) {
        for t in 0..count {
            let (words, _) = q[(t * blocks + b) * BLOCK..][..BLOCK].as_chunks::<4>();
            for (k, word) in words.iter().enumerate() {
                packed[k * count + t] = i32::from_le_bytes(word.map(|q| q as u8));
            }
            packed[8 * count + t] = d[t * blocks + b].to_bits() as i32;
            for i in 0..3 {
                let at = (t * 3 + i) * blocks + b;
                packed[(9 + i) * count + t] = scaled[at].to_bits() as i32;
                packed_sums[i * count + t] = sums[at];
            }
        }
    }
}

struct Quantise<'a> {
    x: &'a [f32],
    cols: usize,
    blocks: usize,
    tokens: Range<usize>,
    out: &'a Out<'a>,
}

impl Op for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let blocks = self.blocks;
        for t in self.tokens {
            let part = |unit: usize| t * blocks * unit..(t + 1) * blocks * unit;
            // SAFETY: the parts of different tokens do not overlap, and one thread has token `t`.
            let (q, d, sums, scaled) = unsafe {
                (
                    self.out.q.slice(part(BLOCK)),
                    self.out.d.slice(part(1)),
                    self.out.sums.slice(part(3)),
                    self.out.scaled.slice(part(3)),
                )
            };
            let x = &self.x[t * self.cols..(t + 1) * self.cols];
            for (b, q) in q.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
                let x = x.get(b * BLOCK..).unwrap_or(&[]);
                d[b] = quantise_block(simd, x, q);
                let (lo, hi) = q.split_at(BLOCK / 2);
                let sum = |q: &[i8]| q.iter().map(|&q| i32::from(q)).sum::<i32>();
                let (lo, hi) = (sum(lo), sum(hi));
                for (i, sum) in [lo, hi, lo + hi].into_iter().enumerate() {
                    sums[i * blocks + b] = sum;
                    scaled[i * blocks + b] = d[b] * sum as f32;
                }
            }
        }
    }
}

/// Quantises the first 32 values of `x` (zeros beyond its end) and returns their scale.
#[inline(always)]
fn quantise_block<S: Simd>(simd: S, x: &[f32], q: &mut [i8; BLOCK]) -> f32 {
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
            acts.set(&team, &values(4 * 512), 4, 512);
            acts.set(&team, &x, n, cols);
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
        acts.set(&team, &[1e-38; 32], 1, 32);
        assert_eq!((acts.row(0).d[0], acts.row(0).q[0]), (0.0, 0));
    }
}
