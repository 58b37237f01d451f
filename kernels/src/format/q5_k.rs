//! Q5_K: 8 sub-blocks of 32 values of 5 bits, each with a 6-bit scale and minimum, v = d·sc·q − dmin·mn.
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_scale};
use super::q4_k::{
    Fit, SCALE_MEAN_SQUARE, centred_scales, fit_block, nibbles, scales_and_mins, unpack_scales,
};
use super::{Format, Group, Quantised, TensorType};
use crate::isa::{Simd, four};
use std::array::from_fn;

block! {
    /// Spec: `block_q5_K` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Q5K = 176 bytes {
        /// f16 scale of the scales.
        d: [u8; 2],
        /// f16 scale of the minimums.
        dmin: [u8; 2],
        /// Eight 6-bit scales and minimums, packed as in Q4_K.
        scales: [u8; 12],
        /// Bit e/32 of byte e%32: the fifth bit of value e.
        qh: [u8; 32],
        /// The lower four bits, ordered as in Q4_K.
        qs: [u8; 128],
    }
}

impl Format for Q5K {
    const TYPE: TensorType = TensorType::Q5K;
    const BLOCK_LEN: usize = 256;
    const CAN_ENCODE: bool = true;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let (d, dmin) = (f16_value(self.d), f16_value(self.dmin));
        let (scales, mins) = unpack_scales(&self.scales);
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let (d, m) = (d * f32::from(scales[b]), dmin * f32::from(mins[b]));
            for ((v, low), high) in out.iter_mut().zip(&self.qs[32 * (b / 2)..]).zip(&self.qh) {
                let q = low >> (4 * (b % 2)) & 15 | (high >> b & 1) << 4;
                *v = d * f32::from(q) - m;
            }
        }
    }

    #[inline(always)]
    fn encode(x: &[f32]) -> Option<Self> {
        Some(encode(x))
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // v = d·sc·(q − 15.5), as in Q4_K; E[(q − 15.5)²] = 85.25.
        let d = random_scale(rng, std / (SCALE_MEAN_SQUARE * 85.25).sqrt() / SCALE_RMS);
        let block: Self = random_block(rng);
        Self { d: f16_bytes(d), dmin: f16_bytes(15.5 * d), scales: centred_scales(block.scales), ..block }
    }
}

impl Quantised for Q5K {
    const BIAS: i32 = 0;
    const MAX: u8 = 31;
    const MINS: usize = 1;

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], half: usize) -> Group<S> {
        let [block] = blocks else { unreachable!("a unit is one block") };
        let (d, m) = scales_and_mins(simd, block.d, block.dmin, &block.scales, half);
        let low = nibbles(simd, &block.qs.as_chunks().0[half]);
        let fifth = simd.b_load(&block.qh);
        let fifth = if half == 0 { fifth } else { simd.b_shr::<4>(fifth) };
        let fifth =
            [simd.b_shl::<4>(fifth), simd.b_shl::<3>(fifth), simd.b_shl::<2>(fifth), simd.b_shl::<1>(fifth)];
        let mask = simd.b_splat(16);
        let zero = simd.f4_splat(0.0);
        Group { q: four!(b => simd.b_or(low[b], simd.b_and(fifth[b], mask))), d: [d, zero], m: [m, zero] }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        let (b, (scales, mins)) = (i / 32, unpack_scales(&self.scales));
        let low = self.qs[32 * (b / 2) + i % 32] >> (4 * (b % 2)) & 15;
        let q = low | (self.qh[i % 32] >> b & 1) << 4;
        f16_value(self.d) * f32::from(scales[b]) * f32::from(q) - f16_value(self.dmin) * f32::from(mins[b])
    }
}

#[inline(always)]
fn encode(x: &[f32]) -> Q5K {
    let Fit { d, dmin, scales, q } = fit_block(x, 31.0);
    let qs = from_fn(|i| {
        let e = 64 * (i / 32) + i % 32;
        q[e] & 15 | q[e + 32] << 4
    });
    let qh = from_fn(|l| (0..8).fold(0, |bits, b| bits | (q[32 * b + l] >> 4) << b));
    Q5K { d, dmin, scales, qh, qs }
}
