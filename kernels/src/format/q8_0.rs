//! Q8_0: 32 values of 8 bits with one scale, v = d·q.
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_signed_scale};
use super::q4_0::quants;
use super::{Format, Group, Quantised, TensorType};
use crate::isa::{Simd, four};

block! {
    /// Spec: `block_q8_0` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Q8_0 = 34 bytes {
        /// f16 scale.
        d: [u8; 2],
        /// i8 quants.
        qs: [u8; 32],
    }
}

impl Format for Q8_0 {
    const TYPE: TensorType = TensorType::Q8_0;
    const BLOCK_LEN: usize = 32;
    const CAN_ENCODE: bool = true;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = f16_value(self.d);
        for (v, q) in out.iter_mut().zip(self.qs) {
            *v = d * f32::from(q as i8);
        }
    }

    #[inline(always)]
    fn encode(x: &[f32]) -> Option<Self> {
        Some(encode(x))
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // E[q²] of a uniform q in −128..=127.
        let rms = 5461.5f32.sqrt() * SCALE_RMS;
        Self { d: f16_bytes(random_signed_scale(rng, std / rms)), ..random_block(rng) }
    }
}

impl Quantised for Q8_0 {
    const BIAS: i32 = 128;
    const MAX: u8 = 255;

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], _half: usize) -> Group<S> {
        let zero = simd.f4_splat(0.0);
        // As u8, an i8 with its top bit flipped is 128 more.
        let flip = simd.b_splat(0x80);
        Group {
            q: four!(b => simd.b_xor(simd.b_load(&blocks[b].qs), flip)),
            d: [simd.f4_f16(four!(b => blocks[b].d)), zero],
            m: [zero; 2],
        }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        f16_value(self.d) * f32::from(self.qs[i] as i8)
    }
}

#[inline(always)]
fn encode(x: &[f32]) -> Q8_0 {
    let x: &[f32; 32] = x.try_into().expect("a block of 32");
    // As bits, which vectorise: finite magnitudes have the order of their bits.
    let amax = f32::from_bits(x.iter().fold(0, |max, v| max.max(v.abs().to_bits())));
    let d = f16_bytes(amax / 127.0);
    Q8_0 { d, qs: quants(x, f16_value(d), 0.0, -128.0, 127.0).map(|q| q as u8) }
}
