//! IQ4_XS: 8 sub-blocks of 32 values, each with a 6-bit scale, v = d·(ls − 32)·LUT\[q\].
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_scale};
use super::iq4_nl::{BIASED_MAX, LUT, lookup, lut_mean_square};
use super::q4_0::nibble;
use super::{Format, Group, Quantised, TensorType};
use crate::isa::{Simd, four};

block! {
    /// Spec: `block_iq4_xs` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Iq4Xs = 136 bytes {
        /// f16 scale.
        d: [u8; 2],
        /// Little-endian u16: bits 2b and 2b + 1 are the upper bits of the scale of sub-block b.
        scales_h: [u8; 2],
        /// Nibble b: the lower bits of the scale of sub-block b.
        scales_l: [u8; 4],
        /// Byte 16b + j: value 32b + j in the low nibble, value 32b + j + 16 in the high one.
        qs: [u8; 128],
    }
}

impl Iq4Xs {
    /// The scales of the 8 sub-blocks, −32..=31.
    #[inline(always)]
    pub(crate) fn scales(&self) -> [i8; 8] {
        // The fields of four and two bits are spread to the bytes of a word in halving steps.
        let low = u64::from(u32::from_le_bytes(self.scales_l));
        let low = (low | low << 16) & 0x0000_ffff_0000_ffff;
        let low = (low | low << 8) & 0x00ff_00ff_00ff_00ff;
        let low = (low | low << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        let high = u64::from(u16::from_le_bytes(self.scales_h));
        let high = (high | high << 24) & 0x0000_00ff_0000_00ff;
        let high = (high | high << 12) & 0x000f_000f_000f_000f;
        let high = (high | high << 6) & 0x0303_0303_0303_0303;
        (low | high << 4).to_le_bytes().map(|scale| scale as i8 - 32)
    }
}

impl Format for Iq4Xs {
    const TYPE: TensorType = TensorType::Iq4Xs;
    const BLOCK_LEN: usize = 256;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = f16_value(self.d);
        for ((out, qs), scale) in out.chunks_exact_mut(32).zip(self.qs.chunks_exact(16)).zip(self.scales()) {
            let d = d * f32::from(scale);
            let (low, high) = out.split_at_mut(16);
            for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
                *low = d * f32::from(LUT[usize::from(q & 15)]);
                *high = d * f32::from(LUT[usize::from(q >> 4)]);
            }
        }
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // E[ls²] of a uniform scale in −32..=31.
        let rms = (341.5 * lut_mean_square()).sqrt() * SCALE_RMS;
        Self { d: f16_bytes(random_scale(rng, std / rms)), ..random_block(rng) }
    }
}

impl Quantised for Iq4Xs {
    const BIAS: i32 = 128;
    const MAX: u8 = BIASED_MAX;

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], half: usize) -> Group<S> {
        let [block] = blocks else { unreachable!("a unit is one block") };
        let zero = simd.f4_splat(0.0);
        let scales = block.scales();
        let qs = block.qs.as_chunks::<16>().0;
        let d = simd.f4_f16_splat(block.d);
        Group {
            q: four!(b => lookup(simd, &qs[4 * half + b])),
            d: [simd.f4_mul(d, simd.f4_i8(four!(b => scales[4 * half + b]))), zero],
            m: [zero; 2],
        }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        let b = i / 32;
        let q = nibble(&self.qs.as_chunks().0[b], i % 32);
        f16_value(self.d) * f32::from(self.scales()[b]) * f32::from(LUT[usize::from(q)])
    }
}
