//! Every block format, value by value, against a reference that follows the table of block layouts literally: one
//! element at a time, in f64.
use crate::rng::Rng;
use lapwing_kernels::{TensorType, decode_row};

const LUT: [f64; 16] =
    [-127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.];

/// f16 → f64 from the definition in IEEE 754.
fn f16(b: &[u8], at: usize) -> f64 {
    let bits = u16::from_le_bytes([b[at], b[at + 1]]);
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

fn i8_at(b: &[u8], at: usize) -> f64 {
    f64::from(b[at] as i8)
}

/// The 4-bit quant of element `e` of a block of 32 whose `qs[16]` start at `at`.
fn nibble32(b: &[u8], at: usize, e: usize) -> u8 {
    if e < 16 { b[at + e] & 15 } else { b[at + e - 16] >> 4 }
}

/// Bit `e` of the little-endian u32 at `at`.
fn bit32(b: &[u8], at: usize, e: usize) -> u8 {
    (u32::from_le_bytes(b[at..at + 4].try_into().unwrap()) >> e & 1) as u8
}

/// Scale and minimum j of the twelve bytes `s` of Q4_K and Q5_K.
fn k_scale(s: &[u8], j: usize) -> (f64, f64) {
    let (sc, mn) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        ((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4))
    };
    (f64::from(sc), f64::from(mn))
}

/// Element `e` of one block.
fn value(ty: TensorType, b: &[u8], e: usize) -> f64 {
    match ty {
        TensorType::F32 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
        TensorType::F16 => f16(b, 0),
        TensorType::Bf16 => f64::from(f32::from_le_bytes([0, 0, b[0], b[1]])),
        TensorType::Q4_0 => f16(b, 0) * (f64::from(nibble32(b, 2, e)) - 8.0),
        TensorType::Q4_1 => f16(b, 0) * f64::from(nibble32(b, 4, e)) + f16(b, 2),
        TensorType::Q5_0 => {
            let q = nibble32(b, 6, e) + 16 * bit32(b, 2, e);
            f16(b, 0) * (f64::from(q) - 16.0)
        }
        TensorType::Q5_1 => {
            let q = nibble32(b, 8, e) + 16 * bit32(b, 4, e);
            f16(b, 0) * f64::from(q) + f16(b, 2)
        }
        TensorType::Q8_0 => f16(b, 0) * i8_at(b, 2 + e),
        TensorType::Q2K => {
            let sm = b[e / 16];
            let q = b[16 + 32 * (e / 128) + e % 32] >> (2 * ((e % 128) / 32)) & 3;
            f16(b, 80) * f64::from(sm & 15) * f64::from(q) - f16(b, 82) * f64::from(sm >> 4)
        }
        TensorType::Q3K => {
            let (i, s) = (e / 16, &b[96..108]);
            let low = if i < 8 { s[i] & 15 } else { s[i - 8] >> 4 };
            let sc = low + 16 * (s[8 + i % 4] >> (2 * (i / 4)) & 3);
            let q = b[32 + 32 * (e / 128) + e % 32] >> (2 * ((e % 128) / 32)) & 3;
            let h = b[e % 32] >> (e / 32) & 1;
            f16(b, 108) * (f64::from(sc) - 32.0) * (f64::from(q + 4 * h) - 4.0)
        }
        TensorType::Q4K => {
            let (sc, mn) = k_scale(&b[4..16], e / 32);
            let byte = b[16 + 32 * (e / 64) + e % 32];
            let q = if e % 64 < 32 { byte & 15 } else { byte >> 4 };
            f16(b, 0) * sc * f64::from(q) - f16(b, 2) * mn
        }
        TensorType::Q5K => {
            let (sc, mn) = k_scale(&b[4..16], e / 32);
            let byte = b[48 + 32 * (e / 64) + e % 32];
            let q = if e % 64 < 32 { byte & 15 } else { byte >> 4 } + 16 * (b[16 + e % 32] >> (e / 32) & 1);
            f16(b, 0) * sc * f64::from(q) - f16(b, 2) * mn
        }
        TensorType::Q6K => {
            let (h, k, l) = (e / 128, e % 128 / 32, e % 32);
            let byte = b[64 * h + 32 * (k & 1) + l];
            let low = if k >= 2 { byte >> 4 } else { byte & 15 };
            let q = low + 16 * (b[128 + 32 * h + l] >> (2 * k) & 3);
            f16(b, 208) * i8_at(b, 192 + e / 16) * (f64::from(q) - 32.0)
        }
        TensorType::Iq4Nl => f16(b, 0) * LUT[usize::from(nibble32(b, 2, e))],
        TensorType::Iq4Xs => {
            let s = e / 32;
            let low = if s.is_multiple_of(2) { b[4 + s / 2] & 15 } else { b[4 + s / 2] >> 4 };
            let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * s) & 3;
            let ls = f64::from(low) + 16.0 * f64::from(high);
            f16(b, 0) * (ls - 32.0) * LUT[usize::from(nibble32(b, 8 + 16 * s, e % 32))]
        }
    }
}

/// Decodes `src` and compares each value with the reference, rounded once.
fn check(ty: TensorType, src: &[u8]) {
    let n = src.len() / ty.block_bytes() * ty.block_len();
    let mut out = vec![0.0; n];
    decode_row(ty, src, &mut out);
    for (i, &got) in out.iter().enumerate() {
        let block = &src[i / ty.block_len() * ty.block_bytes()..][..ty.block_bytes()];
        let want = value(ty, block, i % ty.block_len()) as f32;
        assert!(got == want || (got.is_nan() && want.is_nan()), "{ty} value {i}: {got} for {want}");
    }
}

#[test]
fn random_bytes_decode_as_the_table_says() {
    let mut rng = Rng(1);
    for &ty in TensorType::ALL {
        // An odd offset: blocks need no alignment.
        let mut bytes = vec![0; 1 + 200 * ty.block_bytes()];
        rng.fill(&mut bytes);
        check(ty, &bytes[1..]);
    }
}

#[test]
fn extreme_bytes_decode_as_the_table_says() {
    for &ty in TensorType::ALL {
        for byte in [0x00, 0x7c, 0x7f, 0x80, 0xfc, 0xff] {
            check(ty, &vec![byte; ty.block_bytes()]);
        }
    }
}

/// Each byte of a block alone: no bit may be read at two places, or at none.
#[test]
fn every_bit_of_a_block_matters_where_the_table_says() {
    for &ty in TensorType::ALL {
        let mut rng = Rng(2);
        let mut block = vec![0; ty.block_bytes()];
        rng.fill(&mut block);
        for bit in 0..8 * block.len() {
            block[bit / 8] ^= 1 << (bit % 8);
            check(ty, &block);
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
#[should_panic(expected = "lengths of a q4_0 row")]
fn lengths_are_checked() {
    decode_row(TensorType::Q4_0, &[0; 18], &mut [0.0; 64]);
}
