//! Low-rank additions to matrix products: y = Wx + Σ sᵢ·Bᵢ·(Aᵢ·x), as LoRA adapters make them.
//!
//! A is a matrix of few rows and multiplied like any other. B is kept in blocks of 32 rows, each of them transposed:
//! its product with t = A·x is a chain of scaled vectors that lie one after the other, in the order in which memory
//! is read. It vectorises over outputs, and the chain order (rank after rank, adapter after adapter) is the same
//! for any number of tokens and threads.
use crate::format::{EncodeError, TensorType, as_blocks, encode_row};
use crate::isa::{Op, Simd, two};
use crate::matrix::Matrix;
use crate::out::lanes;
use std::sync::Arc;

/// Outputs are packed in whole blocks of this many.
const BLOCK: usize = 32;

/// The factors of one delta of rank r on a matrix of `rows` outputs and `cols` inputs, packed. Clones share the values;
/// all else lies beside the scale of a [`LowRank`], since each place in memory that must be looked up for it costs a
/// token as much time as some rows.
#[derive(Clone)]
pub struct Factors {
    ty: TensorType,
    rank: usize,
    rows: usize,
    cols: usize,
    /// A: `[rank][cols]`.
    a: Arc<[u8]>,
    /// B: `[block of rows][rank][BLOCK]`, zeros beyond the last row. Of q8_0 a block begins with the f16 scales of its
    /// ranks, and zeros up to a multiple of 16.
    b: Arc<[u8]>,
    /// Bytes of a block of B.
    b_block: usize,
}

impl Factors {
    /// Packs `a` `[rank][cols]` and `b` `[rows][rank]` as f32, f16, bf16 or q8_0. A width that q8_0 cannot
    /// hold falls back to f16.
    ///
    /// # Errors
    /// A type that cannot be written.
    ///
    /// # Panics
    /// When the lengths do not fit the shape.
    pub fn pack(
        ty: TensorType,
        rank: usize,
        cols: usize,
        rows: usize,
        a: &[f32],
        b: &[f32],
    ) -> Result<Self, EncodeError> {
        assert_eq!((a.len(), b.len()), (rank * cols, rows * rank), "factors have the shape that is stated");
        let ty = if cols.is_multiple_of(ty.block_len()) { ty } else { TensorType::F16 };
        let encode = |values: &[f32]| {
            let mut bytes = vec![0; values.len() / ty.block_len() * ty.block_bytes()];
            encode_row(ty, values, &mut bytes).map(|()| bytes)
        };
        let packed_a = encode(a)?;
        // Each block of rows transposed, `[rank][BLOCK]`.
        let mut columns = vec![0.0; rows.div_ceil(BLOCK) * rank * BLOCK];
        for (block, rows) in columns.chunks_exact_mut(rank * BLOCK).zip(b.chunks(BLOCK * rank)) {
            for (i, row) in rows.chunks_exact(rank).enumerate() {
                for (j, value) in row.iter().enumerate() {
                    block[j * BLOCK + i] = *value;
                }
            }
        }
        let mut packed_b = Vec::new();
        let encoded = encode(&columns)?;
        if ty == TensorType::Q8_0 {
            for block in encoded.chunks_exact(rank * ty.block_bytes()) {
                let ranks = || block.chunks_exact(ty.block_bytes()).map(|rank| rank.split_at(2));
                ranks().for_each(|(scale, _)| packed_b.extend_from_slice(scale));
                packed_b.resize(packed_b.len() + 2 * (rank.next_multiple_of(16) - rank), 0);
                ranks().for_each(|(_, quants)| packed_b.extend_from_slice(quants));
            }
        } else {
            packed_b = encoded;
        }
        let b_block = packed_b.len() / rows.div_ceil(BLOCK).max(1);
        Ok(Self { ty, rank, rows, cols, a: packed_a.into(), b: packed_b.into(), b_block })
    }

    /// Type of the packed values.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Rank r.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of both packed factors.
    pub fn bytes(&self) -> usize {
        self.a.len() + self.b.len()
    }

    /// A as a matrix `[rank][cols]`.
    pub(crate) fn a(&self) -> Matrix<'_> {
        Matrix::new(self.ty, self.rank, self.cols, &self.a).expect("packed with this shape")
    }

    /// The rows `row..row + rows` of B, from a multiple of `BLOCK` on: whole blocks of `[rank][BLOCK]`.
    pub(crate) fn b_rows(&self, row: usize, rows: usize) -> &[u8] {
        &self.b[row / BLOCK * self.b_block..][..rows.div_ceil(BLOCK) * self.b_block]
    }

    /// Values of t = A·x for each token: the rank, up to whole vectors.
    pub(crate) fn t_len(&self) -> usize {
        self.rank.next_multiple_of(16)
    }
}

/// One delta of a stack.
#[derive(Clone)]
pub struct LowRank {
    /// The packed factors.
    pub factors: Factors,
    /// s: the user's scale times the adapter's own.
    pub scale: f32,
    /// DoRA: g of each row of the delta; y becomes g ∘ (y + s·B·A·x). Such a delta must come first.
    pub gain: Option<Vec<f32>>,
}

/// The deltas on a matrix, in the order in which they are summed.
#[derive(Clone, Copy, Default)]
pub struct LowRankSum<'a> {
    /// None, or some.
    pub deltas: &'a [LowRank],
    /// Their row that belongs to row 0 of the matrix: a multiple of 32, not 0 where a file fuses matrices.
    pub first_row: usize,
}

/// Adds the deltas of a product to a tile of it.
pub(crate) struct Apply<'a, T> {
    /// The deltas.
    pub sum: LowRankSum<'a>,
    /// s·A·x of a delta by its index, `[tokens][t_len]`, with zeros behind the rank.
    pub t: T,
    /// First row of the tile in the product, a multiple of 32.
    pub row: usize,
    /// Rows of the tile.
    pub rows: usize,
    /// The tile: `[tokens][stride]`.
    pub tile: &'a mut [f32],
    /// Values from one token of the tile to the next, at least `rows` rounded up to 32.
    pub stride: usize,
}

impl<'a, T: Fn(usize) -> &'a [f32]> Op for Apply<'a, T> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, simd: S) {
        // Tokens share the loads of B; each of them takes two accumulators.
        if const { S::ACCUMULATORS >= 24 } {
            self.add::<S, 8>(simd);
        } else if const { S::ACCUMULATORS >= 6 } {
            self.add::<S, 3>(simd);
        } else {
            self.add::<S, 1>(simd);
        }
    }
}

impl<'a, T: Fn(usize) -> &'a [f32]> Apply<'a, T> {
    #[inline(always)]
    fn add<S: Simd, const N: usize>(&mut self, simd: S) {
        let tokens = self.tile.len() / self.stride;
        for at in (0..self.rows).step_by(BLOCK) {
            let mut token = 0;
            while token + N <= tokens {
                self.block::<S, N>(simd, token, at);
                token += N;
            }
            while token < tokens {
                self.block::<S, 1>(simd, token, at);
                token += 1;
            }
        }
    }

    /// Rows `at..at + BLOCK` of the tile, tokens `token..token + N`.
    #[inline(always)]
    fn block<S: Simd, const N: usize>(&mut self, simd: S, token: usize, at: usize) {
        let place = |i: usize, half: usize| (token + i) * self.stride + at + 16 * half;
        let mut acc = [[simd.splat(0.0); 2]; N];
        for i in 0..N {
            acc[i] = two!(half => simd.load(lanes(&self.tile[place(i, half)..])));
        }
        let row = self.sum.first_row + self.row + at;
        for (i, delta) in self.sum.deltas.iter().enumerate() {
            let factors = &delta.factors;
            let b = factors.b_rows(row, BLOCK);
            let t = &(self.t)(i)[token * factors.t_len()..][..N * factors.t_len()];
            acc = match factors.ty {
                TensorType::F32 => chains::<S, F32, N>(simd, b, t, factors.rank, acc),
                TensorType::F16 => chains::<S, F16, N>(simd, b, t, factors.rank, acc),
                TensorType::Bf16 => chains::<S, Bf16, N>(simd, b, t, factors.rank, acc),
                TensorType::Q8_0 => chains::<S, Q8, N>(simd, b, t, factors.rank, acc),
                other => unreachable!("factors are never packed as {other}"),
            };
            if let Some(gain) = &delta.gain {
                for half in 0..2 {
                    let row = row + 16 * half;
                    let g = simd.load_part(&gain[row.min(gain.len())..(row + 16).min(gain.len())]);
                    for i in 0..N {
                        acc[i][half] = simd.mul(acc[i][half], g);
                    }
                }
            }
        }
        for i in 0..N {
            for half in 0..2 {
                let at = place(i, half);
                simd.store(acc[i][half], self.tile[at..].first_chunk_mut().expect("whole vectors"));
            }
        }
    }
}

/// Adds to each token the rows `b`, `[rank][BLOCK]`, times its `t`, of `[N][rank up to whole vectors]`.
///
/// Written with plain loops: iterators and the closures of `array::map` are not always inlined here, and lose the
/// instruction set then.
#[inline(always)]
fn chains<S: Simd, P: Packed, const N: usize>(
    simd: S,
    b: &[u8],
    t: &[f32],
    rank: usize,
    mut acc: [[S::F; 2]; N],
) -> [[S::F; 2]; N] {
    let (scales, values) = b.split_at(b.len() - rank * P::BYTES);
    let mut first = 0;
    while first < rank {
        let mut scaled = [[0.0; 16]; N];
        for i in 0..N {
            let t = simd.load(lanes(&t[i * (t.len() / N) + first..]));
            simd.store(P::scale(simd, scales, first, t), &mut scaled[i]);
        }
        let values = &values[first * P::BYTES..rank.min(first + 16) * P::BYTES];
        for j in 0..values.len() / P::BYTES {
            let [lo, hi] = P::load(simd, &values[j * P::BYTES..][..P::BYTES]);
            for i in 0..N {
                let t = simd.splat(scaled[i][j % 16]);
                acc[i] = [simd.fma(lo, t, acc[i][0]), simd.fma(hi, t, acc[i][1])];
            }
        }
        first += 16;
    }
    acc
}

/// How the `BLOCK` values of a rank are read.
trait Packed {
    /// Bytes of the values.
    const BYTES: usize;
    /// `t` of the ranks from `first` on, times their scales if the type has any.
    #[inline(always)]
    fn scale<S: Simd>(_simd: S, _scales: &[u8], _first: usize, t: S::F) -> S::F {
        t
    }
    /// The values.
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> [S::F; 2];
}

/// The `N` bytes from `at`.
#[inline(always)]
fn array<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("blocks are whole")
}

struct F32;
impl Packed for F32 {
    const BYTES: usize = 4 * BLOCK;

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> [S::F; 2] {
        [simd.load_le(array(bytes, 0)), simd.load_le(array(bytes, 64))]
    }
}

struct F16;
impl Packed for F16 {
    const BYTES: usize = 2 * BLOCK;

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> [S::F; 2] {
        [simd.load_f16_le(array(bytes, 0)), simd.load_f16_le(array(bytes, 32))]
    }
}

struct Bf16;
impl Packed for Bf16 {
    const BYTES: usize = 2 * BLOCK;

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> [S::F; 2] {
        [simd.load_bf16_le(array(bytes, 0)), simd.load_bf16_le(array(bytes, 32))]
    }
}

struct Q8;
impl Packed for Q8 {
    const BYTES: usize = BLOCK;

    #[inline(always)]
    fn scale<S: Simd>(simd: S, scales: &[u8], first: usize, t: S::F) -> S::F {
        simd.mul(simd.load_f16_le(array(scales, 2 * first)), t)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> [S::F; 2] {
        let q: &[[i8; 16]] = as_blocks(bytes);
        [simd.load_i8(&q[0]), simd.load_i8(&q[1])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acts::{Acts, Source};
    use crate::isa::Isa;
    use crate::linear::{Product, Weights, linear};
    use crate::team::Team;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0).collect()
    }

    /// A·x of tokens: `rank` values and zeros up to 16.
    fn padded(tokens: usize, rank: usize, seed: usize) -> Vec<f32> {
        values(tokens * rank, seed).chunks(rank).flat_map(|t| [t, &vec![0.0; 16 - rank]].concat()).collect()
    }

    /// Adds to a tile of rows 32.. of a product whose delta begins at row 64, on every instruction set.
    fn check(ty: TensorType, tolerance: f64, gain: bool) {
        let (rank, cols, rows, tokens) = (5, 64, 150, 11);
        let (a, b) = (values(rank * cols, 1), values(rows * rank, 2));
        let factors = Factors::pack(ty, rank, cols, rows, &a, &b).unwrap();
        let (t, y, g) = (padded(tokens, rank, 3), values(tokens * 64, 4), values(rows, 5));
        let (first_row, row, tile_rows, stride) = (64, 32, 54, 64);
        for isa in Isa::available() {
            let mut tile = y.clone();
            let deltas = &[LowRank { factors: factors.clone(), scale: 1.0, gain: gain.then(|| g.clone()) }];
            let sum = LowRankSum { deltas, first_row };
            isa.dispatch_floats(Apply { sum, t: |_| &t[..], row, rows: tile_rows, tile: &mut tile, stride });
            for token in 0..tokens {
                for r in 0..tile_rows {
                    let of = first_row + row + r;
                    let mut want = f64::from(y[token * stride + r]);
                    for j in 0..rank {
                        want += f64::from(b[of * rank + j]) * f64::from(t[token * 16 + j]);
                    }
                    if gain {
                        want *= f64::from(g[of]);
                    }
                    let got = f64::from(tile[token * stride + r]);
                    assert!(
                        (got - want).abs() <= tolerance,
                        "{isa} {ty} token {token} row {r}: {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn products_of_packed_factors_are_those_of_the_plain_ones() {
        // Five terms of at most 1; half a unit in the last place of each type (q8_0: 1/254 of the block's largest).
        check(TensorType::F32, 2e-6, false);
        check(TensorType::F32, 2e-6, true);
        check(TensorType::F16, 5.0 / 2048.0, false);
        check(TensorType::Bf16, 5.0 / 256.0, false);
        check(TensorType::Q8_0, 5.0 / 250.0, false);
    }

    #[test]
    fn a_is_a_matrix_of_rank_rows() {
        let a = values(3 * 64, 7);
        let factors = Factors::pack(TensorType::F32, 3, 64, 10, &a, &values(30, 8)).unwrap();
        let row: Vec<f32> = factors.a().row(2).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(row, a[128..]);
        // q8_0 holds whole blocks of 32 inputs only.
        assert_eq!(
            Factors::pack(TensorType::Q8_0, 1, 40, 2, &[0.5; 40], &[1.0; 2]).unwrap().ty(),
            TensorType::F16
        );
    }

    /// Two products with two deltas each on `weights`; returns their outputs side by side.
    fn stacked(team: &Team, w: Matrix, packed: &[Factors; 2], gain: &[f32], x: &[f32]) -> Vec<f32> {
        let (rows, cols) = (w.rows(), w.cols());
        let n = x.len() / cols;
        let mut acts = Acts::new(n, cols);
        let bias = values(rows, 9);
        let delta = |i: usize, scale, gain| LowRank { factors: packed[i].clone(), scale, gain };
        let first = [delta(0, 0.5, Some(gain.to_vec())), delta(1, -2.0, None)];
        let second = [delta(1, 1.0, None), delta(0, 1.0, None)];
        let [first, second] = [&first, &second].map(|deltas| LowRankSum { deltas, first_row: 0 });
        let (mut one, mut two) = (vec![0.25; n * rows], vec![0.0; n * rows]);
        linear(
            team,
            &mut acts,
            Source::new(x, cols),
            &mut [
                Product {
                    weights: Weights { w, bias: Some(&bias), low_rank: first },
                    out: &mut one,
                    out_stride: rows,
                    add: true,
                },
                Product {
                    weights: Weights { w, bias: None, low_rank: second },
                    out: &mut two,
                    out_stride: rows,
                    add: false,
                },
            ],
            &[],
        );
        one.chunks(rows).zip(two.chunks(rows)).flat_map(|(a, b)| [a, b].concat()).collect()
    }

    #[test]
    fn a_stack_on_float_weights_is_the_sum_of_its_deltas() {
        let (rows, cols, n) = (300, 64, 70);
        let (w, x) = (values(rows * cols, 1), values(n * cols, 2));
        let bytes: Vec<u8> = w.iter().flat_map(|v| v.to_le_bytes()).collect();
        let matrix = Matrix::new(TensorType::F32, rows, cols, &bytes).unwrap();
        let factors = [(3, 4), (5, 6)].map(|(a, b)| (values(4 * cols, a), values(rows * 4, b)));
        let packed =
            factors.each_ref().map(|(a, b)| Factors::pack(TensorType::F32, 4, cols, rows, a, b).unwrap());
        let (gain, bias) = (values(rows, 8), values(rows, 9));
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        for isa in Isa::available() {
            let team = Team::new(2, isa).unwrap();
            let got = stacked(&team, matrix, &packed, &gain, &x);
            for t in 0..n {
                let x = &x[t * cols..][..cols];
                for r in 0..rows {
                    let delta = |i: usize| -> f64 {
                        let (a, b) = &factors[i];
                        (0..4).map(|j| f64::from(b[r * 4 + j]) * dot(&a[j * cols..][..cols], x)).sum()
                    };
                    let y = dot(&w[r * cols..][..cols], x);
                    let one = 0.25 + f64::from(bias[r]) + f64::from(gain[r]) * (y + 0.5 * delta(0))
                        - 2.0 * delta(1);
                    let two = y + delta(1) + delta(0);
                    for (want, got) in
                        [one, two].into_iter().zip([got[(2 * t) * rows + r], got[(2 * t + 1) * rows + r]])
                    {
                        // A few hundred terms of size 1, f32.
                        assert!(
                            (f64::from(got) - want).abs() < 2e-4,
                            "{isa} token {t} row {r}: {got} {want}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn bits_depend_neither_on_threads_nor_on_batches() {
        let (rows, cols, n) = (300, 160, 70);
        let mut seed = 1u64;
        let mut rng = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed ^ (seed >> 29)
        };
        let mut bytes = vec![0; rows * TensorType::Q4_0.row_bytes(cols).unwrap()];
        crate::random_row(TensorType::Q4_0, &mut rng, 1.0, &mut bytes);
        let matrix = Matrix::new(TensorType::Q4_0, rows, cols, &bytes).unwrap();
        let (x, gain) = (values(n * cols, 2), values(rows, 8));
        for ty in [TensorType::Q8_0, TensorType::F16] {
            let pack = |seed, rank| {
                let (a, b) = (values(rank * cols, seed), values(rows * rank, seed + 1));
                Factors::pack(ty, rank, cols, rows, &a, &b).unwrap()
            };
            let packed = [pack(3, 4), pack(5, 37)];
            for isa in Isa::available() {
                let run = |threads, x: &[f32]| {
                    let team = Team::new(threads, isa).unwrap();
                    stacked(&team, matrix, &packed, &gain, x)
                };
                let whole = run(1, &x);
                assert_eq!(run(3, &x), whole, "{isa} {ty}: three threads");
                let cut: Vec<f32> = [1, 1, 2, 30, 36]
                    .iter()
                    .scan(0, |at, count| {
                        *at += count;
                        Some(run(2, &x[(*at - count) * cols..*at * cols]))
                    })
                    .flatten()
                    .collect();
                assert_eq!(cut, whole, "{isa} {ty}: batches");
            }
        }
    }

    #[test]
    fn one_token_and_many_give_the_same_bits() {
        let factors = Factors::pack(TensorType::F16, 4, 32, 64, &values(128, 1), &values(256, 2)).unwrap();
        let deltas = &[LowRank { factors, scale: 1.0, gain: None }];
        let sum = LowRankSum { deltas, first_row: 0 };
        let (t, y) = (padded(9, 4, 3), values(9 * 64, 4));
        for isa in Isa::available() {
            let mut all = y.clone();
            isa.dispatch_floats(Apply { sum, t: |_| &t[..], row: 0, rows: 64, tile: &mut all, stride: 64 });
            for token in 0..9 {
                let mut one = y[token * 64..][..64].to_vec();
                let t = |_| &t[token * 16..][..16];
                isa.dispatch_floats(Apply { sum, t, row: 0, rows: 64, tile: &mut one, stride: 64 });
                assert_eq!(one, all[token * 64..][..64]);
            }
        }
    }
}
