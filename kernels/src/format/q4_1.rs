//! Q4_1: 32 values of 4 bits with a scale and a minimum, v = d·q + m.
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_scale};
use super::q4_0::{nibble, pack_nibbles, quants, unpack_nibbles};
use super::{Format, Group, Quantised, TensorType, fit};
use crate::isa::{Simd, four};

block! {
    /// Spec: `block_q4_1` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Q4_1 = 20 bytes {
        /// f16 scale.
        d: [u8; 2],
        /// f16 minimum.
        m: [u8; 2],
        /// Byte j: value j in the low nibble, value j + 16 in the high one.
        qs: [u8; 16],
    }
}

impl Format for Q4_1 {
    const TYPE: TensorType = TensorType::Q4_1;
    const BLOCK_LEN: usize = 32;
    const CAN_ENCODE: bool = true;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let (d, m) = (f16_value(self.d), f16_value(self.m));
        for (v, q) in out.iter_mut().zip(unpack_nibbles(&self.qs)) {
            *v = d * f32::from(q) + m;
        }
    }

    #[inline(always)]
    fn encode(x: &[f32]) -> Option<Self> {
        Some(encode(x))
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // Variance of a uniform q in 0..=15, whose mean of 7.5 the minimum takes away.
        let rms = (255.0f32 / 12.0).sqrt() * SCALE_RMS;
        let d = random_scale(rng, std / rms);
        Self { d: f16_bytes(d), m: f16_bytes(-7.5 * d), ..random_block(rng) }
    }
}

impl Quantised for Q4_1 {
    const BIAS: i32 = 0;
    const MAX: u8 = 15;
    const MINS: usize = 1;

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], _half: usize) -> Group<S> {
        let zero = simd.f4_splat(0.0);
        Group {
            q: four!(b => simd.b_nibbles(&blocks[b].qs)),
            d: [simd.f4_f16(four!(b => blocks[b].d)), zero],
            m: [simd.f4_f16(four!(b => blocks[b].m)), zero],
        }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        f16_value(self.d) * f32::from(nibble(&self.qs, i)) + f16_value(self.m)
    }
}

#[inline(always)]
fn encode(x: &[f32]) -> Q4_1 {
    let x: &[f32; 32] = x.try_into().expect("a block of 32");
    let (d, m) = fit::scale_and_min(x, 15.0, f32::INFINITY);
    let (d, m) = (f16_bytes(d), f16_bytes(m));
    let q = quants(x, f16_value(d), f16_value(m), 0.0, 15.0);
    Q4_1 { d, m, qs: pack_nibbles(&q.map(|q| q as u8)) }
}
