//! Q6_K: 16 sub-blocks of 16 values of 6 bits, each with an 8-bit scale, v = d·sc·(q − 32).
use super::block::{SCALE_RMS, block, even_bytes, f16_bytes, f16_value, random_block, random_scale};
use super::q4_0::quants;
use super::{Format, Group, Quantised, TensorType, fit};
use crate::isa::{Simd, four, two};
use std::array::from_fn;

block! {
    /// Spec: `block_q6_K` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Q6K = 210 bytes {
        /// The low four bits. With e = 128h + 32k + l (l < 32): byte 64h + 32·(k&1) + l, high nibble when k ≥ 2.
        ql: [u8; 128],
        /// The upper two bits: byte 32h + l, bits 2k.
        qh: [u8; 64],
        /// i8 scales of the 16 sub-blocks.
        scales: [u8; 16],
        /// f16 scale of the scales.
        d: [u8; 2],
    }
}

impl Format for Q6K {
    const TYPE: TensorType = TensorType::Q6K;
    const BLOCK_LEN: usize = 256;
    const CAN_ENCODE: bool = true;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = f16_value(self.d);
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let (h, k) = (b / 4, b % 4);
            let low = &self.ql[64 * h + 32 * (k & 1)..];
            let high = &self.qh[32 * h..];
            for (l, ((v, low), high)) in out.iter_mut().zip(low).zip(high).enumerate() {
                let q = low >> (4 * (k / 2)) & 15 | (high >> (2 * k) & 3) << 4;
                *v = d * f32::from(self.scales[2 * b + l / 16] as i8) * f32::from(q as i8 - 32);
            }
        }
    }

    #[inline(always)]
    fn encode(x: &[f32]) -> Option<Self> {
        Some(encode(x))
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // E[sc²] of a uniform i8 is 5461.5; E[(q − 32)²] = 341.5.
        let rms = (5461.5f32 * 341.5).sqrt() * SCALE_RMS;
        Self { d: f16_bytes(random_scale(rng, std / rms)), ..random_block(rng) }
    }
}

impl Quantised for Q6K {
    const BIAS: i32 = 32;
    const MAX: u8 = 63;
    const SCALES: usize = 2;

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], half: usize) -> Group<S> {
        let [block] = blocks else { unreachable!("a unit is one block") };
        let [a, b] = two!(g => simd.b_load(&block.ql.as_chunks().0[2 * half + g]));
        let high = simd.b_load(&block.qh.as_chunks().0[half]);
        let (mask, high_mask) = (simd.b_splat(15), simd.b_splat(0x30));
        let low = [simd.b_and(a, mask), simd.b_and(b, mask), simd.b_shr::<4>(a), simd.b_shr::<4>(b)];
        let high = [simd.b_shl::<4>(high), simd.b_shl::<2>(high), high, simd.b_shr::<2>(high)];
        let d = simd.f4_f16_splat(block.d);
        let scales = u64::from_le_bytes(block.scales.as_chunks().0[half]);
        Group {
            q: four!(k => simd.b_or(low[k], simd.b_and(high[k], high_mask))),
            d: two!(h => simd.f4_mul(d, simd.f4_i8(even_bytes(scales >> (8 * h)).map(|s| s as i8)))),
            m: [simd.f4_splat(0.0); 2],
        }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        let (h, k, l) = (i / 128, i / 32 % 4, i % 32);
        let low = self.ql[64 * h + 32 * (k & 1) + l] >> (4 * (k / 2)) & 15;
        let q = low | (self.qh[32 * h + l] >> (2 * k) & 3) << 4;
        f16_value(self.d) * f32::from(self.scales[i / 16] as i8) * f32::from(q as i8 - 32)
    }
}

#[inline(always)]
fn encode(x: &[f32]) -> Q6K {
    let (blocks, _) = x.as_chunks::<16>();
    let ideal: [f32; 16] = from_fn(|s| fit::scale(&blocks[s], -32.0, 31.0));
    let largest = ideal.iter().fold(0.0f32, |max, &d| if d.abs() > max.abs() { d } else { max });
    // The scale of the largest magnitude becomes −128, the end of the range that reaches further.
    let d = f16_bytes(largest / -128.0);
    let scale = f16_value(d);
    let (mut scales, mut q) = ([0; 16], [0; 256]);
    for (s, q) in q.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let [sc] = quants(&[ideal[s]], scale, 0.0, -128.0, 127.0);
        scales[s] = sc as u8;
        *q = quants(&blocks[s], scale * sc as f32, 0.0, -32.0, 31.0).map(|q| (q + 32) as u8);
    }
    let ql = from_fn(|i| {
        let e = 128 * (i / 64) + i % 64;
        q[e] & 15 | q[e + 64] << 4
    });
    let qh = from_fn(|i| {
        let e = 128 * (i / 32) + i % 32;
        (0..4).fold(0, |bits, k| bits | (q[e + 32 * k] >> 4) << (2 * k))
    });
    Q6K { ql, qh, scales, d }
}
