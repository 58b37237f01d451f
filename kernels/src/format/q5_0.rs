//! Q5_0: 32 values of 5 bits with one scale, v = d·(q − 16).
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_signed_scale};
use super::q4_0::{nibble, pack_nibbles, quants, unpack_nibbles};
use super::{Format, Group, Quantised, TensorType, fit};
use crate::isa::{Simd, four};
use std::array::from_fn;

block! {
    /// Spec: `block_q5_0` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Q5_0 = 22 bytes {
        /// f16 scale.
        d: [u8; 2],
        /// Little-endian u32: bit e is the fifth bit of value e.
        qh: [u8; 4],
        /// Byte j: the low four bits of value j in the low nibble, of value j + 16 in the high one.
        qs: [u8; 16],
    }
}

impl Format for Q5_0 {
    const TYPE: TensorType = TensorType::Q5_0;
    const BLOCK_LEN: usize = 32;
    const CAN_ENCODE: bool = true;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = f16_value(self.d);
        for (v, q) in out.iter_mut().zip(unpack_five(&self.qs, self.qh)) {
            *v = d * f32::from(q as i8 - 16);
        }
    }

    #[inline(always)]
    fn encode(x: &[f32]) -> Option<Self> {
        Some(encode(x))
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // E[(q − 16)²] of a uniform q in 0..=31.
        let rms = 85.5f32.sqrt() * SCALE_RMS;
        Self { d: f16_bytes(random_signed_scale(rng, std / rms)), ..random_block(rng) }
    }
}

impl Quantised for Q5_0 {
    const BIAS: i32 = 16;
    const MAX: u8 = 31;

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], _half: usize) -> Group<S> {
        let zero = simd.f4_splat(0.0);
        Group {
            q: four!(b => five(simd, &blocks[b].qs, blocks[b].qh)),
            d: [simd.f4_f16(four!(b => blocks[b].d)), zero],
            m: [zero; 2],
        }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        f16_value(self.d) * f32::from(fifth_and_nibble(&self.qs, self.qh, i) as i8 - 16)
    }
}

#[inline(always)]
fn encode(x: &[f32]) -> Q5_0 {
    let x: &[f32; 32] = x.try_into().expect("a block of 32");
    let d = f16_bytes(fit::scale(x, -16.0, 15.0));
    let q = quants(x, f16_value(d), 0.0, -16.0, 15.0).map(|q| (q + 16) as u8);
    Q5_0 { d, qh: pack_fifth(&q), qs: pack_nibbles(&q) }
}

/// [`unpack_five`] in a vector.
#[inline(always)]
pub(super) fn five<S: Simd>(simd: S, qs: &[u8; 16], qh: [u8; 4]) -> S::B {
    simd.b_or(simd.b_nibbles(qs), simd.b_bits(u32::from_le_bytes(qh), 16))
}

/// Nibbles with their fifth bits: 32 values in 0..=31.
#[inline(always)]
pub(super) fn unpack_five(qs: &[u8; 16], qh: [u8; 4]) -> [u8; 32] {
    let (low, high) = (unpack_nibbles(qs), u32::from_le_bytes(qh));
    from_fn(|e| low[e] | ((high >> e & 1) as u8) << 4)
}

/// Number `i` of [`unpack_five`].
#[inline(always)]
pub(super) fn fifth_and_nibble(qs: &[u8; 16], qh: [u8; 4], i: usize) -> u8 {
    nibble(qs, i) | (qh[i / 8] >> (i % 8) & 1) << 4
}

/// The fifth bits of 32 values.
#[inline(always)]
pub(super) fn pack_fifth(q: &[u8; 32]) -> [u8; 4] {
    let bits = q.iter().enumerate().fold(0, |bits, (e, q)| bits | u32::from(q >> 4 & 1) << e);
    bits.to_le_bytes()
}
