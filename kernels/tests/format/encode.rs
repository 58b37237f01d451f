//! Encoding and synthesis of rows, seen through `decode_row` (which has its own reference).
use crate::rng::Rng;
use lapwing_kernels::{EncodeError, TensorType, decode_row, encode_row, random_row};

const COUNT: usize = 256 * 256;

/// Three shapes of weights: a bell curve, a flat one off centre, and a bell cubed for its heavy tails.
fn samples() -> [Vec<f32>; 3] {
    let bell = |seed| {
        let mut rng = Rng(seed);
        let mut next = move || {
            let [a, b, c, d] = [rng.unit(), rng.unit(), rng.unit(), rng.unit()];
            (a + b) + (c + d) - 2.0
        };
        (0..COUNT).map(move |_| next())
    };
    let mut rng = Rng(8);
    [
        bell(7).collect(),
        (0..COUNT).map(|_| rng.unit() * 3.0 - 1.0).collect(),
        bell(9).map(|v| v * v * v).collect(),
    ]
}

fn round_trip(ty: TensorType, x: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0xaa; ty.row_bytes(x.len()).unwrap()];
    encode_row(ty, x, &mut bytes).unwrap();
    let mut out = vec![f32::NAN; x.len()];
    decode_row(ty, &bytes, &mut out);
    out
}

fn rmse(x: &[f32], y: &[f32]) -> f64 {
    let sum: f64 = x.iter().zip(y).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum();
    (sum / x.len() as f64).sqrt()
}

/// The errors of llama.cpp on the same data: `ggml_quantize_chunk`, then `dequantize_row_*`, of libggml-base 0.25.3
/// (llama-cpp-python 0.3.36) in rows of 256.
const LLAMA_CPP: &[(TensorType, [f64; 3])] = &[
    (TensorType::Q4_0, [4.693630e-02, 6.778562e-02, 6.878307e-02]),
    (TensorType::Q4_1, [4.365105e-02, 5.263460e-02, 7.005125e-02]),
    (TensorType::Q5_0, [2.334035e-02, 3.389909e-02, 3.678796e-02]),
    (TensorType::Q5_1, [2.113106e-02, 2.548916e-02, 3.410383e-02]),
    (TensorType::Q8_0, [2.928121e-03, 4.300316e-03, 5.183800e-03]),
    (TensorType::Q4K, [3.970116e-02, 4.711055e-02, 5.702055e-02]),
    (TensorType::Q5K, [2.005661e-02, 2.371051e-02, 3.108694e-02]),
    (TensorType::Q6K, [9.758367e-03, 1.496237e-02, 1.503371e-02]),
];

#[test]
fn quantisation_error_is_no_larger_than_that_of_llama_cpp() {
    let samples = samples();
    for &(ty, theirs) in LLAMA_CPP {
        for (x, theirs) in samples.iter().zip(theirs) {
            let ratio = rmse(x, &round_trip(ty, x)) / theirs;
            println!("{ty}: {ratio:.4} of llama.cpp's error");
            assert!(ratio <= 1.05, "{ty}: {ratio}");
            // Far below, the comparison itself would be wrong.
            assert!(ratio >= 0.8, "{ty}: {ratio}");
        }
    }
}

#[test]
fn every_type_says_whether_it_can_be_encoded() {
    for &ty in TensorType::ALL {
        let mut bytes = vec![0; ty.block_bytes()];
        let result = encode_row(ty, &vec![0.5; ty.block_len()], &mut bytes);
        let expected = if ty.can_encode() { Ok(()) } else { Err(EncodeError::Unsupported(ty)) };
        assert_eq!(result, expected);
    }
    for (ty, _) in LLAMA_CPP {
        assert!(ty.can_encode());
    }
}

#[test]
fn odd_blocks_stay_finite_and_close() {
    let one_value = |at: usize, v: f32| std::array::from_fn::<f32, 256, _>(|i| if i == at { v } else { 0.0 });
    for &ty in TensorType::ALL.iter().filter(|ty| ty.can_encode() && ty.is_quantised()) {
        assert_eq!(round_trip(ty, &[0.0; 256]), [0.0; 256], "{ty}: zeros");
        assert_eq!(round_trip(ty, &[-0.0; 256]), [0.0; 256], "{ty}: negative zeros");
        for v in [1.5f32, -1.5, 3e4, -3e4, 1e-3] {
            for x in [[v; 256], one_value(0, v), one_value(31, v), one_value(200, v)] {
                for (got, want) in round_trip(ty, &x).iter().zip(x) {
                    assert!((got - want).abs() <= 0.01 * v.abs(), "{ty}: {got} for {want} beside {v}");
                }
            }
        }
        for v in [f32::MAX, f32::MIN, 1e30, 7e4, 1e-30, f32::MIN_POSITIVE, f32::from_bits(1), 6e-8, 1e-7] {
            for x in [
                [v; 256],
                one_value(3, v),
                std::array::from_fn(|i: usize| if i.is_multiple_of(2) { v } else { -v }),
            ] {
                for (got, want) in round_trip(ty, &x).iter().zip(x) {
                    assert!(got.is_finite(), "{ty}: {got} for {want}");
                    // Half a step of 15 over the range that scales reach, and the rounding of a 6-bit scale.
                    let step = 0.05 * v.abs().min(65_504.0 * 32.0);
                    assert!(
                        (got - want).abs() <= want.abs() + step + 1e-6,
                        "{ty}: {got} for {want} beside {v}"
                    );
                }
            }
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bytes = vec![0; ty.row_bytes(256).unwrap()];
            let result = encode_row(ty, &one_value(77, bad), &mut bytes);
            assert_eq!(result, Err(EncodeError::NotFinite { index: 77 }));
        }
    }
}

#[test]
fn lengths_are_checked() {
    let error = EncodeError::Length { ty: TensorType::Q8_0, values: 32, bytes: 33 };
    assert_eq!(encode_row(TensorType::Q8_0, &[0.0; 32], &mut [0; 33]), Err(error));
    assert_eq!(error.to_string(), "a row of 32 values does not fill 33 bytes of q8_0");
    let error = EncodeError::Length { ty: TensorType::Q8_0, values: 31, bytes: 34 };
    assert_eq!(encode_row(TensorType::Q8_0, &[0.0; 31], &mut [0; 34]), Err(error));
    assert_eq!(encode_row(TensorType::F32, &[], &mut []), Ok(()));
}

/// Between two neighbouring half-precision values, the nearer one; in the middle, the even one.
#[test]
fn half_precision_rounds_to_nearest_even() {
    for (ty, from_bits) in [
        (TensorType::F16, (|b| half::f16::from_bits(b).to_f32()) as fn(u16) -> f32),
        (TensorType::Bf16, |b| half::bf16::from_bits(b).to_f32()),
    ] {
        for bits in (0..0x7bff).step_by(7) {
            let (low, high) = (from_bits(bits), from_bits(bits + 1));
            // Exact in f32, and so are the halves: f16 and bf16 have far fewer digits.
            let middle = low + 0.5 * (high - low);
            let even = if bits.is_multiple_of(2) { low } else { high };
            let x = [low, middle.next_down(), middle, middle.next_up(), -middle];
            assert_eq!(round_trip(ty, &x), [low, low, even, high, -even], "{ty} {bits:#x}");
        }
    }
    assert_eq!(
        round_trip(TensorType::F16, &[65_519.9, 65_520.0, -1e9]),
        [65_504.0, f32::INFINITY, f32::NEG_INFINITY]
    );
    assert!(round_trip(TensorType::F16, &[f32::NAN])[0].is_nan());
    assert!(round_trip(TensorType::Bf16, &[f32::NAN])[0].is_nan());
}

#[test]
fn synthetic_rows_have_the_asked_spread() {
    for &ty in TensorType::ALL {
        for std in [0.002, 0.02, 3.0] {
            let mut rng = Rng(5);
            let mut bytes = vec![0; ty.row_bytes(COUNT).unwrap()];
            random_row(ty, &mut || rng.bits(), std, &mut bytes);
            let mut x = vec![0.0; COUNT];
            decode_row(ty, &bytes, &mut x);
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / COUNT as f64;
            let rms = rmse(&x, &vec![0.0; COUNT]);
            let (mean, rms) = (mean / f64::from(std), rms / f64::from(std));
            println!("{ty} std {std}: mean {mean:.4}, rms {rms:.4}");
            assert!((rms - 1.0).abs() < 0.03, "{ty}: rms {rms} of {std}");
            assert!(mean.abs() < 0.03, "{ty}: mean {mean} of {std}");
            assert!(x.iter().all(|v| f64::from(v.abs()) < 8.0 * f64::from(std)), "{ty}: an outlier");
        }
    }
}

#[test]
fn synthetic_rows_depend_on_the_bits_only() {
    for &ty in TensorType::ALL {
        let row = |seed| {
            let mut rng = Rng(seed);
            let mut bytes = vec![0; ty.block_bytes() * 3];
            random_row(ty, &mut || rng.bits(), 0.02, &mut bytes);
            bytes
        };
        assert_eq!(row(1), row(1));
        assert_ne!(row(1), row(2));
    }
}
