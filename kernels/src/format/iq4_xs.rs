//! IQ4_XS: 8 sub-blocks of 32 values, each with a 6-bit scale, v = d·(ls − 32)·LUT\[q\].
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_scale};
use super::iq4_nl::{BIASED_MAX, LUT, lookup, lut_mean_square};
use super::{Format, Group, Quantised, TensorType};
use crate::isa::Simd;
use std::array::from_fn;

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
        let (low, high) = (u32::from_le_bytes(self.scales_l), u16::from_le_bytes(self.scales_h));
        from_fn(|b| ((low >> (4 * b) & 15) as i8 | ((high >> (2 * b) & 3) << 4) as i8) - 32)
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
        let d = simd.f4_splat(f16_value(block.d));
        Group {
            q: from_fn(|b| lookup(simd, &qs[4 * half + b])),
            d: [simd.f4_mul(d, simd.f4_i32(from_fn(|b| i32::from(scales[4 * half + b])))), zero],
            m: [zero; 2],
        }
    }
}
