//! Products of float weights (f32, f16, bf16) with f32 activations. Weights are converted as they are loaded, for more than
//! one token once a block.
//!
//! A product w·x has 16 chains of fused multiply-adds, lane k mod 16 in ascending k, that are added in the tree of
//! [`Floats::sum`](crate::isa::Floats::sum). One token or many, in whatever tiles: the chains are the same.
use crate::ahead::{Ahead, Stream};
use crate::format::TensorType;
use crate::isa::{Floats, Isa, Op, Simd};
use crate::matrix::Matrix;
use crate::out::Out;
use crate::team::Scratch;
use std::array::from_fn;
use std::marker::PhantomData;
use std::ops::Range;

/// Most weight rows of a block whose chains are kept while activations pass: with 6 tokens, 32 · 6 chains of 64 bytes
/// are 12 KiB of the L1 cache.
const BLOCK_ROWS: usize = 32;
/// Bytes of converted weights that stay in the L2 cache while activations pass.
const BLOCK_BYTES: usize = 256 << 10;
/// Vectors of 16 values between visits of the chains: 6 tokens and 4 rows of 512 f32 are 20 KiB.
const SLICE: usize = 32;

/// A float type as stored in files: little-endian, of any alignment.
trait Weight {
    /// The bytes of 16 values.
    type Chunk: Copy + AsRef<[u8]>;
    fn chunks(row: &[u8]) -> (&[Self::Chunk], &[u8]);
    /// 16 values from fewer bytes, the rest zeros.
    fn padded(bytes: &[u8]) -> Self::Chunk;
    fn load<S: Floats>(s: S, chunk: &Self::Chunk) -> S::F;
}

macro_rules! weight {
    ($name:ident, $bytes:literal, $load:ident) => {
        enum $name {}

        impl Weight for $name {
            type Chunk = [u8; 16 * $bytes];

            #[inline(always)]
            fn chunks(row: &[u8]) -> (&[Self::Chunk], &[u8]) {
                row.as_chunks()
            }

            #[inline(always)]
            fn padded(bytes: &[u8]) -> Self::Chunk {
                let mut chunk = [0; 16 * $bytes];
                chunk[..bytes.len()].copy_from_slice(bytes);
                chunk
            }

            #[inline(always)]
            fn load<S: Floats>(s: S, chunk: &Self::Chunk) -> S::F {
                s.$load(chunk)
            }
        }
    };
}
weight!(F32, 4, load_le);
weight!(F16, 2, load_f16_le);
weight!(Bf16, 2, load_bf16_le);

/// Computes `rows` of `w` for the rows `tokens` of `x`, `[n][w.cols()]`; the calling thread owns these of `out`.
///
/// # Panics
/// When the weights are quantised.
pub(crate) fn float_rows(
    isa: Isa,
    w: &Matrix,
    rows: Range<usize>,
    (x, tokens): (&[f32], Range<usize>),
    out: &Out,
    scratch: &mut Scratch,
    ahead: Ahead,
) {
    match w.ty() {
        TensorType::F32 => {
            isa.dispatch_floats(Rows::<F32> { w, rows, x, tokens, out, scratch, ahead, of: PhantomData })
        }
        TensorType::F16 => {
            isa.dispatch_floats(Rows::<F16> { w, rows, x, tokens, out, scratch, ahead, of: PhantomData })
        }
        TensorType::Bf16 => {
            isa.dispatch_floats(Rows::<Bf16> { w, rows, x, tokens, out, scratch, ahead, of: PhantomData })
        }
        ty => panic!("{ty} is not a float type"),
    }
}

struct Rows<'a, W> {
    w: &'a Matrix<'a>,
    rows: Range<usize>,
    x: &'a [f32],
    tokens: Range<usize>,
    out: &'a Out<'a>,
    scratch: &'a mut Scratch,
    ahead: Ahead<'a>,
    of: PhantomData<W>,
}

impl<W: Weight> Op for Rows<'_, W> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        if self.w.cols() == 0 {
            return;
        }
        if self.x.len() == self.w.cols() {
            self.one_token(s);
        } else if const { S::ACCUMULATORS >= 24 } {
            self.tokens::<S, 4, 6>(s);
        } else if const { S::ACCUMULATORS >= 6 } {
            self.tokens::<S, 2, 3>(s);
        } else {
            self.tokens::<S, 1, 1>(s);
        }
    }
}

impl<W: Weight> Rows<'_, W> {
    /// One token: rows stream past, four at a time so that chains of different rows overlap.
    #[inline(always)]
    fn one_token<S: Simd>(self, s: S) {
        let mut row = self.rows.start;
        while row + 4 <= self.rows.end {
            let w = from_fn(|r| self.w.row(row + r));
            let ahead =
                self.ahead.after::<S>((row - self.rows.start) * self.w.row_bytes(), 3 * self.w.row_bytes());
            let y = products::<S, W, 4>(s, w, self.x, Some(ahead));
            // SAFETY: the caller owns these rows.
            unsafe { self.out.put(s, 0, row, &y) };
            row += 4;
        }
        for row in row..self.rows.end {
            let y = products::<S, W, 1>(s, [self.w.row(row)], self.x, None);
            // SAFETY: as above.
            unsafe { self.out.put(s, 0, row, &y) };
        }
    }

    /// Many tokens, T at a time, by blocks of rows, R at a time. A block is converted once, into rows that do not lie a
    /// power of two apart.
    #[inline(always)]
    fn tokens<S: Simd, const R: usize, const T: usize>(self, s: S) {
        let cols = self.w.cols();
        let stride = cols.div_ceil(16) | 1;
        let block = (BLOCK_BYTES / (64 * stride)).clamp(1, BLOCK_ROWS);
        self.scratch.laid = None;
        let memory = self.scratch.get::<f32>((block * stride + BLOCK_ROWS * T) * 16).as_chunks_mut::<16>().0;
        let (converted, chains) = memory.split_at_mut(block * stride);
        for first in self.rows.clone().step_by(block) {
            let rows = first..self.rows.end.min(first + block);
            for (row, out) in rows.clone().zip(converted.chunks_exact_mut(stride)) {
                convert::<S, W>(s, self.w.row(row), out);
            }
            let mut token = self.tokens.start;
            while token < self.tokens.end {
                let x = &self.x[token * cols..];
                let mut tile =
                    Tile { w: converted, stride, cols, rows: rows.clone(), x, token, chains, out: self.out };
                token += match self.tokens.end - token {
                    left if left >= T => tile.run::<S, R, T>(s),
                    1 => tile.run::<S, R, 1>(s),
                    _ => tile.run::<S, R, 2>(s),
                };
            }
        }
    }
}

/// The values of a row, 16 together, zeros behind them.
#[inline(always)]
fn convert<S: Simd, W: Weight>(s: S, row: &[u8], out: &mut [[f32; 16]]) {
    let (chunks, rest) = W::chunks(row);
    for (chunk, out) in chunks.iter().zip(&mut *out) {
        s.store(W::load(s, chunk), out);
    }
    if !rest.is_empty() {
        s.store(W::load(s, &W::padded(rest)), &mut out[chunks.len()]);
    }
}

/// A block of rows times a few tokens.
struct Tile<'a> {
    /// `[rows][stride]`
    w: &'a [[f32; 16]],
    stride: usize,
    cols: usize,
    rows: Range<usize>,
    /// `[T or more][cols]`
    x: &'a [f32],
    /// Index of the first token.
    token: usize,
    /// `[rows][T]`
    chains: &'a mut [[f32; 16]],
    out: &'a Out<'a>,
}

impl Tile<'_> {
    /// Computes the products with T tokens and returns T.
    #[inline(always)]
    fn run<S: Simd, const R: usize, const T: usize>(&mut self, s: S) -> usize {
        self.chains[..self.rows.len() * T].fill([0.0; 16]);
        let slice = SLICE * 16;
        for k in (0..self.cols).step_by(slice) {
            let k = k..self.cols.min(k + slice);
            let x: [&[f32]; T] = from_fn(|t| &self.x[t * self.cols..][k.clone()]);
            let mut row = 0;
            while row + R <= self.rows.len() {
                self.step::<S, R, T>(s, row, k.start / 16, x);
                row += R;
            }
            for row in row..self.rows.len() {
                self.step::<S, 1, T>(s, row, k.start / 16, x);
            }
        }
        for (i, row) in self.rows.clone().enumerate() {
            for t in 0..T {
                let y = s.sum(s.load(&self.chains[i * T + t]));
                // SAFETY: the caller of `float_rows` owns these rows.
                unsafe { self.out.put(s, self.token + t, row, &[y]) };
            }
        }
        T
    }

    /// Continues the chains of R rows from `row` on over the columns of `x`, the first of which are the sixteen `at`.
    #[inline(always)]
    fn step<S: Simd, const R: usize, const T: usize>(&mut self, s: S, row: usize, at: usize, x: [&[f32]; T]) {
        let w: [&[[f32; 16]]; R] = from_fn(|r| &self.w[(row + r) * self.stride + at..]);
        let kept = self.chains[row * T..(row + R) * T].as_chunks_mut::<T>().0;
        let mut chains = [[s.splat(0.0); T]; R];
        for r in 0..R {
            for t in 0..T {
                chains[r][t] = s.load(&kept[r][t]);
            }
        }
        let count = x[0].len() / 16;
        let w_chunks: [&[[f32; 16]]; R] = from_fn(|r| &w[r][..count]);
        let x_chunks: [&[[f32; 16]]; T] = from_fn(|t| &x[t].as_chunks().0[..count]);
        for i in 0..count {
            // Loaded once for each part, of which the rest is not used and so not loaded.
            for part in 0..S::PARTS {
                let mut w = [s.splat(0.0); R];
                for r in 0..R {
                    w[r] = s.load(&w_chunks[r][i]);
                }
                for t in 0..T {
                    let x = s.load(&x_chunks[t][i]);
                    for r in 0..R {
                        chains[r][t] = s.fma_part(part, w[r], x, chains[r][t]);
                    }
                }
                s.in_turn();
            }
        }
        if !x[0].len().is_multiple_of(16) {
            for r in 0..R {
                let w = s.load(&w[r][count]);
                for t in 0..T {
                    chains[r][t] = s.fma(w, s.load_part(&x[t][16 * count..]), chains[r][t]);
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                s.store(chains[r][t], &mut kept[r][t]);
            }
        }
    }
}

/// The products of R weight rows with one token. As many bytes as the rows have, from `ahead` on, will be needed later.
#[inline(always)]
fn products<S: Simd, W: Weight, const R: usize>(
    s: S,
    w: [&[u8]; R],
    x: &[f32],
    ahead: Option<Stream>,
) -> [f32; R] {
    let mut chains = [s.splat(0.0); R];
    let (x, x_rest) = x.as_chunks();
    let count = x.len();
    let chunks: [&[W::Chunk]; R] = from_fn(|r| &W::chunks(w[r]).0[..count]);
    for i in 0..count {
        if let Some(ahead) = ahead {
            let bytes = R * size_of::<W::Chunk>();
            ahead.ask(i * bytes, bytes);
        }
        // As above.
        for part in 0..S::PARTS {
            let mut w = [s.splat(0.0); R];
            for r in 0..R {
                w[r] = W::load(s, &chunks[r][i]);
            }
            let x = s.load(&x[i]);
            for r in 0..R {
                chains[r] = s.fma_part(part, w[r], x, chains[r]);
            }
            s.in_turn();
        }
    }
    if !x_rest.is_empty() {
        let x = s.load_part(x_rest);
        for r in 0..R {
            chains[r] = s.fma(W::load(s, &W::padded(W::chunks(w[r]).1)), x, chains[r]);
        }
    }
    chains.map(|chain| s.sum(chain))
}

#[cfg(test)]
mod tests {
    use crate::acts::{Acts, Source};
    use crate::format::{TensorType, decode_row, encode_row};
    use crate::isa::Isa;
    use crate::linear::{Product, linear};
    use crate::matrix::Matrix;
    use crate::team::Team;
    use crate::testing::Random;

    const TYPES: [TensorType; 3] = [TensorType::F32, TensorType::F16, TensorType::Bf16];

    fn product(team: &Team, w: Matrix, x: &[f32], n: usize) -> Vec<f32> {
        let mut acts = Acts::new(n, w.cols());
        let mut out = vec![f32::NAN; n * w.rows()];
        let out_stride = w.rows();
        linear(
            team,
            &mut acts,
            Source::new(x, w.cols()),
            &mut [Product { weights: w.into(), out: &mut out, out_stride, add: false }],
            &[],
        );
        out
    }

    #[test]
    fn float_weights_match_f64_and_bits_do_not_depend_on_batches_or_threads() {
        let mut random = Random::new(11);
        for (rows, cols, n) in
            [(1, 1, 2), (7, 5, 13), (70, 64, 6), (33, 1100, 11), (130, 1536, 3), (5, 515, 1)]
        {
            for ty in TYPES {
                // An odd offset: weights in a mapped file need not be aligned.
                let mut bytes = vec![0; 1 + rows * ty.row_bytes(cols).unwrap()];
                encode_row(ty, &random.normals(rows * cols, 1.0), &mut bytes[1..]).unwrap();
                let mut weights = vec![0.0; rows * cols];
                decode_row(ty, &bytes[1..], &mut weights);
                let w = Matrix::new(ty, rows, cols, &bytes[1..]).unwrap();
                let x = random.normals(n * cols, 1.0);
                for isa in Isa::available() {
                    let whole = product(&Team::new(1, isa).unwrap(), w, &x, n);
                    for (t, x) in x.chunks(cols).enumerate() {
                        for (r, w) in weights.chunks(cols).enumerate() {
                            let terms = || w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                            let (want, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                            let off = (f64::from(whole[t * rows + r]) - want).abs();
                            assert!(off <= 2e-6 * size, "{isa} {ty} {rows}x{cols}: {off:e} of {size:e}");
                        }
                    }
                    let team = Team::new(3, isa).unwrap();
                    assert_eq!(whole, product(&team, w, &x, n), "{isa} {ty}: threads");
                    for (x, whole) in x.chunks(cols).zip(whole.chunks(rows)) {
                        assert_eq!(whole, product(&team, w, x, 1), "{isa} {ty} {rows}x{cols}: one token");
                    }
                }
            }
        }
    }
}
