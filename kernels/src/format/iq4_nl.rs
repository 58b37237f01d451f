//! IQ4_NL: 32 values of 4 bits that index a table of uneven steps, v = d·LUT\[q\].
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_signed_scale};
use super::q4_0::{nibble, unpack_nibbles};
use super::{Format, Group, Quantised, TensorType};
use crate::isa::{Simd, four};

/// The steps of the IQ4 formats: finer near zero, where most weights are.
pub(crate) const LUT: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// [`LUT`] as u8 with bias 128, twice, for [`lookup`].
pub(crate) static BIASED: [u8; 32] = {
    let mut table = [0; 32];
    let mut i = 0;
    while i < 32 {
        table[i] = (LUT[i % 16] as u8) ^ 0x80;
        i += 1;
    }
    table
};

/// The largest entry of the biased table.
pub(super) const BIASED_MAX: u8 = 113 + 128;

/// The biased steps of 32 values.
#[inline(always)]
pub(super) fn lookup<S: Simd>(simd: S, qs: &[u8; 16]) -> S::B {
    simd.b_lut(simd.b_load(&BIASED), simd.b_nibbles(qs))
}

block! {
    /// Spec: `block_iq4_nl` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Iq4Nl = 18 bytes {
        /// f16 scale.
        d: [u8; 2],
        /// Byte j: index of value j in the low nibble, of value j + 16 in the high one.
        qs: [u8; 16],
    }
}

impl Format for Iq4Nl {
    const TYPE: TensorType = TensorType::Iq4Nl;
    const BLOCK_LEN: usize = 32;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = f16_value(self.d);
        for (v, q) in out.iter_mut().zip(unpack_nibbles(&self.qs)) {
            *v = d * f32::from(LUT[usize::from(q)]);
        }
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        let rms = lut_mean_square().sqrt() * SCALE_RMS;
        Self { d: f16_bytes(random_signed_scale(rng, std / rms)), ..random_block(rng) }
    }
}

impl Quantised for Iq4Nl {
    const BIAS: i32 = 128;
    const MAX: u8 = BIASED_MAX;

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], _half: usize) -> Group<S> {
        let zero = simd.f4_splat(0.0);
        Group {
            q: four!(b => lookup(simd, &blocks[b].qs)),
            d: [simd.f4_f16(four!(b => blocks[b].d)), zero],
            m: [zero; 2],
        }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        f16_value(self.d) * f32::from(LUT[usize::from(nibble(&self.qs, i))])
    }
}

/// E[LUT\[q\]²] of a uniform q.
pub(super) fn lut_mean_square() -> f32 {
    LUT.iter().map(|&v| f32::from(v) * f32::from(v)).sum::<f32>() / 16.0
}
