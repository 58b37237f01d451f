use super::*;
use crate::format::{Quantised, TensorType, as_blocks, decode_row, random_row, with_quantised};
use crate::isa::{Isa, Scalar};
use crate::low_rank::{Factors, LowRank};
use crate::matrix::Columns;

/// A small generator (splitmix64).
fn rng(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

fn normal(rng: &mut impl FnMut() -> u64) -> f32 {
    (0..4).map(|_| (rng() >> 40) as f32 / (1u32 << 24) as f32 - 0.5).sum::<f32>() * 1.7
}

/// The canonical product of one row and one token, step by step as the module of `matvec` defines it; and the sum of
/// the magnitudes of its terms.
fn oracle<Q: Quantised>(row: &[u8], q: &[i8], d: &[f32]) -> (f32, f32) {
    let simd = Scalar::new().unwrap();
    let cols = row.len() / Q::BLOCK_BYTES * Q::BLOCK_LEN;
    let mut bytes = row.to_vec();
    bytes.resize((cols.next_multiple_of(128) / Q::BLOCK_LEN).max(Q::UNIT) * Q::BLOCK_BYTES, 0);
    let blocks = as_blocks::<Q>(&bytes);
    let (mut acc, mut terms) = ([0.0f32; 4], 0.0);
    for b in 0..cols / 32 {
        let group = b / 4;
        let unit = group / Q::HALVES * Q::UNIT;
        let unpacked = Q::unpack128(simd, &blocks[unit..unit + Q::UNIT], group % Q::HALVES);
        let class = b % 4;
        let mut isum = [0i32; 2];
        let mut sum = [0i32; 2];
        for e in 0..32 {
            assert!(unpacked.q[class][e] <= Q::MAX);
            let a = i32::from(q[b * 32 + e]);
            isum[e / 16] += (i32::from(unpacked.q[class][e]) - Q::BIAS) * a;
            sum[e / 16] += a;
        }
        let scale = |h: usize| unpacked.d[h][class];
        let t = if Q::SCALES == 1 {
            (isum[0] + isum[1]) as f32 * scale(0)
        } else {
            (isum[1] as f32).mul_add(scale(1), isum[0] as f32 * scale(0))
        };
        acc[class] = t.mul_add(d[b], acc[class]);
        terms += (t * d[b]).abs();
        let sums = if Q::MINS == 2 { sum } else { [sum[0] + sum[1], 0] };
        for (h, &sum) in sums[..Q::MINS].iter().enumerate() {
            acc[class] = unpacked.m[h][class].mul_add(d[b] * sum as f32, acc[class]);
            terms += (unpacked.m[h][class] * d[b] * sum as f32).abs();
        }
    }
    ((acc[0] + acc[1]) + (acc[2] + acc[3]), terms)
}

/// An [`oracle`].
type Oracle = fn(&[u8], &[i8], &[f32]) -> (f32, f32);

fn oracle_of(ty: TensorType) -> Oracle {
    with_quantised!(ty, Q => oracle::<Q>, else => unreachable!())
}

/// Formats under test.
fn formats() -> impl Iterator<Item = TensorType> {
    TensorType::ALL.iter().copied().filter(|ty| ty.is_quantised())
}

struct Case {
    ty: TensorType,
    rows: usize,
    cols: usize,
    weights: Vec<u8>,
    n: usize,
    x: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(ty: TensorType, rows: usize, cols: usize, n: usize) -> Case {
        let mut rng = rng((rows * 31 + cols * 7 + n) as u64);
        let mut weights = vec![0; rows * ty.row_bytes(cols).unwrap()];
        random_row(ty, &mut rng, 1.0, &mut weights);
        let x = (0..n * cols).map(|_| normal(&mut rng)).collect();
        let bias = (0..rows).map(|_| normal(&mut rng)).collect();
        Case { ty, rows, cols, weights, n, x, bias }
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.ty, self.rows, self.cols, &self.weights).unwrap()
    }

    /// `linear` of the tokens `tokens` of this case, over `out` = 0.25 when adding.
    fn linear(&self, team: &Team, tokens: Range<usize>, bias: bool, add: bool) -> Vec<f32> {
        let n = tokens.len();
        let stride = self.rows + 3;
        let mut out = vec![0.25; n * stride];
        let mut acts = Acts::new(n, self.cols);
        let x = &self.x[tokens.start * self.cols..tokens.end * self.cols];
        let bias = bias.then_some(&self.bias[..]);
        let weights = Weights { bias, ..self.matrix().into() };
        let product = Product { weights, out: &mut out, out_stride: stride, add };
        linear(team, &mut acts, Source::new(x, self.cols), &mut [product], &[]);
        assert!(out.chunks(stride).all(|row| row[self.rows..] == [0.25; 3]), "writes beyond its rows");
        out.chunks(stride).flat_map(|row| row[..self.rows].to_vec()).collect()
    }

    /// The canonical results, `[n][rows]`.
    fn expected(&self) -> Vec<f32> {
        self.expected_with_terms().into_iter().map(|(value, _)| value).collect()
    }

    /// Likewise, each with the sum of the magnitudes of its terms.
    fn expected_with_terms(&self) -> Vec<(f32, f32)> {
        let team = Team::new(1, Isa::Scalar).unwrap();
        let mut acts = Acts::new(self.n, self.cols);
        acts.set(&team, Source::new(&self.x, self.cols));
        let oracle = oracle_of(self.ty);
        let w = self.matrix();
        (0..self.n)
            .flat_map(|t| {
                let (q, d) = &acts.row(t);
                (0..self.rows).map(move |r| oracle(w.row(r), q, d)).collect::<Vec<_>>()
            })
            .collect()
    }
}

#[track_caller]
fn assert_bits(got: &[f32], want: &[f32], what: &dyn std::fmt::Display) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits(), "{what}: value {i} is {g:e}, not {w:e}");
    }
}

#[track_caller]
fn assert_agrees(isa: Isa, got: &[f32], want: &[(f32, f32)], what: &str) {
    if isa.is_fused() {
        let want: Vec<f32> = want.iter().map(|&(value, _)| value).collect();
        return assert_bits(got, &want, &format_args!("{isa} {what}"));
    }
    for (g, (w, terms)) in got.iter().zip(want) {
        assert!((g - w).abs() <= 2e-6 * terms, "{isa} {what}: {g} is not {w}");
    }
}

#[test]
fn every_isa_and_format_equals_the_oracle() {
    for ty in formats() {
        let len = ty.block_len();
        for (rows, blocks) in [(1, 1), (7, 2), (33, 3), (70, 5), (64, 8), (37, 9)] {
            for n in [1, 2, 3, 4, 7, 13] {
                let case = Case::new(ty, rows, blocks * len, n);
                let want = case.expected_with_terms();
                for isa in Isa::available() {
                    let team = Team::new(1, isa).unwrap();
                    let what = format!("{ty} {rows}x{} · {n}", case.cols);
                    assert_agrees(isa, &case.linear(&team, 0..n, false, false), &want, &what);
                }
            }
        }
    }
}

/// Rows so long that a stack of panels is more than the cache should hold, for every instruction set.
#[test]
fn long_rows_equal_the_oracle() {
    for ty in [TensorType::Q4_0, TensorType::Q5_1, TensorType::Q2K, TensorType::Q6K] {
        let len = ty.block_len();
        let case = Case::new(ty, 40, 8192 + if len == 32 { 96 } else { len }, 9);
        let want = case.expected_with_terms();
        for isa in Isa::available() {
            let team = Team::new(1, isa).unwrap();
            assert_agrees(isa, &case.linear(&team, 0..9, false, false), &want, &format!("{ty}"));
        }
    }
}

#[test]
fn bias_and_residual_are_added_in_order() {
    for ty in formats() {
        for n in [1, 9] {
            let case = Case::new(ty, 40, 512, n);
            let want = case.expected();
            for isa in Isa::available().filter(|isa| isa.is_fused()) {
                let team = Team::new(2, isa).unwrap();
                let with = |f: fn(f32, f32) -> f32| -> Vec<f32> {
                    want.iter().enumerate().map(|(i, &y)| f(y, case.bias[i % 40])).collect()
                };
                let what = format!("{isa} {ty}");
                assert_bits(&case.linear(&team, 0..n, true, false), &with(|y, b| y + b), &what);
                assert_bits(&case.linear(&team, 0..n, false, true), &with(|y, _| 0.25 + y), &what);
                assert_bits(&case.linear(&team, 0..n, true, true), &with(|y, b| 0.25 + (y + b)), &what);
            }
        }
    }
}

#[test]
fn threads_and_batches_do_not_change_bits() {
    for ty in formats() {
        let n = 23;
        let case = Case::new(ty, 171, 768, n);
        for isa in Isa::available() {
            let want = case.linear(&Team::new(1, isa).unwrap(), 0..n, true, false);
            for threads in [2, 3, 5] {
                let team = Team::new(threads, isa).unwrap();
                assert_bits(
                    &case.linear(&team, 0..n, true, false),
                    &want,
                    &format_args!("{isa} {ty} ·{threads}"),
                );
            }
            let team = Team::new(2, isa).unwrap();
            for split in [1, 2, 3, 6, 10, 22] {
                let mut got = case.linear(&team, 0..split, true, false);
                got.extend(case.linear(&team, split..n, true, false));
                assert_bits(&got, &want, &format_args!("{isa} {ty} batch {split}"));
            }
        }
    }
}

#[test]
fn several_products_in_one_phase_equal_single_ones() {
    let (a, b) = (Case::new(TensorType::Q4_0, 70, 256, 5), Case::new(TensorType::Q8_0, 33, 256, 5));
    for isa in Isa::available() {
        for threads in [1, 3] {
            let team = Team::new(threads, isa).unwrap();
            let mut acts = Acts::new(5, 256);
            let source = Source::new(&a.x, 256);
            let (mut ya, mut yb) = (vec![0.0; 5 * 70], vec![0.0; 5 * 33]);
            let mut single = (ya.clone(), yb.clone());
            let product = |weights, out, out_stride| Product { weights, out, out_stride, add: false };
            linear(&team, &mut acts, source, &mut [product(a.matrix().into(), &mut single.0, 70)], &[]);
            linear(&team, &mut acts, source, &mut [product(b.matrix().into(), &mut single.1, 33)], &[]);
            let mut both = [product(a.matrix().into(), &mut ya, 70), product(b.matrix().into(), &mut yb, 33)];
            linear(&team, &mut acts, source, &mut both, &[]);
            assert_eq!((ya, yb), single, "{isa}");
        }
    }
}

/// With outliers in all rows but one, products are those of the other values and then of the outlier: alone or in a
/// batch, whether its column is kept or not, and with more channels than columns are kept.
#[test]
fn outliers_are_added_to_the_products_of_the_others() {
    let (rows, cols, n) = (300, 768, 40);
    let weight = vec![1.0; cols];
    let channel = |t: usize| if t < 10 { 5 } else { 760 - 19 * t };
    for ty in formats() {
        let mut case = Case::new(ty, rows, cols, n);
        (1..n).for_each(|t| case.x[t * cols + channel(t)] = 20.0 + t as f32);
        let w = case.matrix();
        let decoded: Vec<Vec<f32>> = (0..rows)
            .map(|r| {
                let mut values = vec![0.0; cols];
                decode_row(ty, w.row(r), &mut values);
                values
            })
            .collect();
        let source = |t: Range<usize>| Source::normed(&case.x[t.start * cols..t.end * cols], &weight, 1e-6);
        for isa in Isa::available().filter(|isa| isa.is_fused()) {
            let team = Team::new(2, isa).unwrap();
            let mut acts = Acts::new(n, cols);
            acts.set(&team, source(0..n));
            let mut want = Vec::new();
            for (t, x) in acts.values(source(0..n)).chunks(cols).enumerate() {
                let (q, d) = acts.row(t);
                // Steps of the others, which reach 4 or so, not of the outlier.
                assert!(t == 0 || q[channel(t)] == 0 && d.iter().all(|d| *d < 4.0 / 127.0), "{isa}");
                for r in 0..rows {
                    let y = oracle_of(ty)(w.row(r), &q, &d).0 + case.bias[r];
                    let c = channel(t);
                    want.push(if t == 0 { y } else { x[c].mul_add(decoded[r][c], y) });
                }
            }
            let run = |w: Matrix, tokens: Range<usize>| {
                let mut out = vec![f32::NAN; tokens.len() * rows];
                let (bias, low_rank) = (Some(&case.bias[..]), LowRankSum::default());
                let weights = Weights { w, bias, low_rank };
                let product = Product { weights, out: &mut out, out_stride: rows, add: false };
                linear(&team, &mut Acts::new(n, cols), source(tokens), &mut [product], &[]);
                out
            };
            let columns = Columns::default();
            for w in [w, w.with_columns(&columns), w.with_columns(&columns)] {
                for t in 0..n {
                    assert_bits(
                        &run(w, t..t + 1),
                        &want[t * rows..(t + 1) * rows],
                        &format!("{isa} {ty} {t}"),
                    );
                }
                assert_bits(&run(w, 0..n), &want, &format!("{isa} {ty}"));
            }
            assert_eq!(columns.channels().collect::<Vec<_>>()[..3], [5, 570, 551], "{isa}");
            assert_eq!(columns.channels().count(), 16, "{isa}");
        }
    }
}

/// Values of a factor of an adapter.
fn factor(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 13) % 101) as f32 / 500.0 - 0.1).collect()
}

/// An adapter's own products meet outliers too, with its scale.
#[test]
fn quantised_factors_meet_outliers() {
    let (rows, cols, rank) = (32, 288, 3);
    let (a, b) = (factor(1, rank * cols), factor(2, rows * rank));
    let factors = Factors::pack(TensorType::Q8_0, rank, cols, rows, &a, &b).unwrap();
    let deltas = &[LowRank { factors, scale: 0.7, gain: None }];
    let zeros = vec![0; rows * TensorType::Q8_0.row_bytes(cols).unwrap()];
    let w = Matrix::new(TensorType::Q8_0, rows, cols, &zeros).unwrap();
    let (x, weight) = ([vec![0.01; 100], vec![5.0], vec![0.01; cols - 101]].concat(), vec![1.0; cols]);
    let norm = (x.iter().map(|x| x * x).sum::<f32>() / cols as f32 + 1e-6).sqrt();
    for isa in Isa::available() {
        let mut out = vec![f32::NAN; rows];
        let low_rank = LowRankSum { deltas, first_row: 0 };
        let weights = Weights { w, bias: None, low_rank };
        let product = Product { weights, out: &mut out, out_stride: rows, add: false };
        let team = Team::new(1, isa).unwrap();
        linear(&team, &mut Acts::new(1, cols), Source::normed(&x, &weight, 1e-6), &mut [product], &[]);
        for (r, y) in out.into_iter().enumerate() {
            let t = |k: usize| a[k * cols..][..cols].iter().zip(&x).map(|(a, x)| a * x / norm).sum::<f32>();
            let want: f32 = (0..rank).map(|k| 0.7 * b[r * rank + k] * t(k)).sum();
            assert!((y - want).abs() < 5e-3, "{isa} row {r}: {y} for {want}");
        }
    }
}

/// Gate and up as one phase with one token equal the steps one by one with many, adapters, biases and outliers
/// included.
#[test]
fn gated_products_are_the_same_alone_and_in_a_batch() {
    let (rows, cols, n) = (200, 288, 5);
    let (gate, up) = (Case::new(TensorType::Q4_1, rows, cols, n), Case::new(TensorType::Q8_0, rows, cols, n));
    let rank = 3;
    let (a, b) = (factor(1, rank * cols), factor(2, rows * rank));
    let factors = Factors::pack(TensorType::Q8_0, rank, cols, rows, &a, &b).unwrap();
    let gain: Vec<f32> = (0..rows).map(|i| 1.0 + i as f32 / 1000.0).collect();
    let deltas = &[LowRank { factors, scale: 0.7, gain: Some(gain) }];
    let sum = LowRankSum { deltas, first_row: 0 };
    let mut x = gate.x.clone();
    (1..n).for_each(|t| x[t * cols + 37 * t] = 30.0);
    let weight = vec![1.0; cols];
    for isa in Isa::available() {
        for threads in [1, 3] {
            let team = Team::new(threads, isa).unwrap();
            let run = |x: &[f32]| {
                let n = x.len() / cols;
                let mut out = vec![f32::NAN; n * rows];
                let (bias, low_rank) = (Some(&gate.bias[..]), sum);
                let both = [
                    Weights { w: gate.matrix(), bias, low_rank },
                    Weights { w: up.matrix(), bias, low_rank: Default::default() },
                ];
                let (mut acts, source) = (Acts::new(n, cols), Source::normed(x, &weight, 1e-6));
                gated_linear(&team, &mut acts, source, Activation::Silu, both, &mut out, &[]);
                out
            };
            let batch = run(&x);
            for (x, batch) in x.chunks(cols).zip(batch.chunks(rows)) {
                assert!(batch.iter().all(|y| y.is_finite()));
                assert_eq!(run(x), batch, "{isa} {threads}");
            }
        }
    }
}

/// The whole chain against f64 on decoded weights: what the oracle shares with the kernels cannot hide here.
#[test]
fn products_are_near_the_true_ones() {
    for ty in formats() {
        let case = Case::new(ty, 8, 1024, 2);
        let got = case.linear(&Team::new(1, Isa::best()).unwrap(), 0..2, false, false);
        let (mut error, mut power) = (0.0f64, 0.0f64);
        for t in 0..2 {
            for r in 0..8 {
                let mut w = vec![0.0; 1024];
                decode_row(ty, case.matrix().row(r), &mut w);
                let x = &case.x[t * 1024..(t + 1) * 1024];
                let y: f64 = w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                error += (y - f64::from(got[t * 8 + r])).powi(2);
                power += y * y;
            }
        }
        assert!(error / power < 5e-4, "{ty}: NMSE {}", error / power);
    }
}

#[test]
fn extreme_weights_do_not_saturate() {
    for ty in formats() {
        for fill in [0u8, 0xff, 0x80, 0x7f] {
            let (rows, cols, n) = (33, 256, 7);
            let mut case = Case::new(ty, rows, cols, n);
            // Every byte the same; the f16 fields are left as they were.
            let kept = case.weights.clone();
            fill_quants(ty, &mut case.weights, fill);
            assert_ne!(kept, case.weights);
            case.x.iter_mut().enumerate().for_each(|(i, x)| *x = if i / 32 % 3 == 0 { -1.0 } else { 1.0 });
            let want = case.expected_with_terms();
            for isa in Isa::available() {
                let team = Team::new(1, isa).unwrap();
                assert_agrees(
                    isa,
                    &case.linear(&team, 0..n, false, false),
                    &want,
                    &format!("{ty} {fill:#x}"),
                );
                assert_agrees(
                    isa,
                    &case.linear(&team, 0..1, false, false),
                    &want[..rows],
                    &format!("{ty} {fill:#x}"),
                );
            }
        }
    }
}

/// Sets every byte of the blocks to `fill`, then puts back a finite pattern where that made a scale infinite or NaN.
fn fill_quants(ty: TensorType, weights: &mut [u8], fill: u8) {
    let size = ty.block_bytes();
    let mut values = vec![0.0; ty.block_len()];
    for block in weights.chunks_exact_mut(size) {
        let old = block.to_vec();
        for i in 0..size {
            block[i] = fill;
            decode_row(ty, block, &mut values);
            if values.iter().any(|v| !v.is_finite() || v.abs() > 1e6) {
                block[i] = old[i];
            }
        }
    }
}
