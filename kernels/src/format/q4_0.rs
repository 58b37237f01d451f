//! Q4_0: 32 values of 4 bits with one scale, v = d·(q − 8).
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_signed_scale};
use super::{Format, Group, Quantised, TensorType, fit};
use crate::isa::{Simd, four};
use std::array::from_fn;

block! {
    /// Spec: `block_q4_0` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Q4_0 = 18 bytes {
        /// f16 scale.
        d: [u8; 2],
        /// Byte j: value j in the low nibble, value j + 16 in the high one.
        qs: [u8; 16],
    }
}

impl Format for Q4_0 {
    const TYPE: TensorType = TensorType::Q4_0;
    const BLOCK_LEN: usize = 32;
    const CAN_ENCODE: bool = true;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = f16_value(self.d);
        for (v, q) in out.iter_mut().zip(unpack_nibbles(&self.qs)) {
            *v = d * f32::from(q as i8 - 8);
        }
    }

    #[inline(always)]
    fn encode(x: &[f32]) -> Option<Self> {
        Some(encode(x))
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // E[(q − 8)²] of a uniform q in 0..=15.
        let rms = 21.5f32.sqrt() * SCALE_RMS;
        Self { d: f16_bytes(random_signed_scale(rng, std / rms)), ..random_block(rng) }
    }
}

impl Quantised for Q4_0 {
    const BIAS: i32 = 8;
    const MAX: u8 = 15;

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], _half: usize) -> Group<S> {
        let zero = simd.f4_splat(0.0);
        Group {
            q: four!(b => simd.b_nibbles(&blocks[b].qs)),
            d: [simd.f4_f16(four!(b => blocks[b].d)), zero],
            m: [zero; 2],
        }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        f16_value(self.d) * f32::from(nibble(&self.qs, i) as i8 - 8)
    }
}

#[inline(always)]
fn encode(x: &[f32]) -> Q4_0 {
    let x: &[f32; 32] = x.try_into().expect("a block of 32");
    let d = f16_bytes(fit::scale(x, -8.0, 7.0));
    let q = quants(x, f16_value(d), 0.0, -8.0, 7.0);
    Q4_0 { d, qs: pack_nibbles(&q.map(|q| (q + 8) as u8)) }
}

/// Nearest quants in `lo..=hi` of values under the grid d·q + m; all 0 (or the nearest to it) when d is 0.
#[inline(always)]
pub(super) fn quants<const N: usize>(x: &[f32; N], d: f32, m: f32, lo: f32, hi: f32) -> [i32; N] {
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    x.map(|v| fit::nearest_int((v - m) * inverse, lo, hi))
}

/// Number `i` of [`unpack_nibbles`].
#[inline(always)]
pub(super) fn nibble(qs: &[u8; 16], i: usize) -> u8 {
    qs[i % 16] >> (i / 16 * 4) & 15
}

/// The 32 nibbles of 16 bytes: the low ones, then the high ones.
#[inline(always)]
pub(super) fn unpack_nibbles(qs: &[u8; 16]) -> [u8; 32] {
    from_fn(|j| if j < 16 { qs[j] & 15 } else { qs[j - 16] >> 4 })
}

/// The inverse of [`unpack_nibbles`]; bits above the low four are left out.
#[inline(always)]
pub(super) fn pack_nibbles(q: &[u8; 32]) -> [u8; 16] {
    from_fn(|j| (q[j] & 15) | (q[j + 16] << 4))
}
