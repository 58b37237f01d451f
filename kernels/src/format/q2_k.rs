//! Q2_K: 16 sub-blocks of 16 values of 2 bits, each with a 4-bit scale and minimum, v = d·sc·q − dmin·mn.
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_scale};
use super::{Format, TensorType};

block! {
    /// Spec: `block_q2_K` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Q2K = 84 bytes {
        /// Byte s: the scale of sub-block s in the low nibble, its minimum in the high one.
        scales: [u8; 16],
        /// Value e: byte 32·(e/128) + e%32, bits 2·((e%128)/32).
        qs: [u8; 64],
        /// f16 scale of the scales.
        d: [u8; 2],
        /// f16 scale of the minimums.
        dmin: [u8; 2],
    }
}

impl Format for Q2K {
    const TYPE: TensorType = TensorType::Q2K;
    const BLOCK_LEN: usize = 256;

    fn decode(&self, out: &mut [f32]) {
        let (d, dmin) = (f16_value(self.d), f16_value(self.dmin));
        for (s, (out, sm)) in out.chunks_exact_mut(16).zip(self.scales).enumerate() {
            let (d, m) = (d * f32::from(sm & 15), dmin * f32::from(sm >> 4));
            let (at, shift) = two_bits_at(s);
            for (v, q) in out.iter_mut().zip(&self.qs[at..]) {
                *v = d * f32::from(q >> shift & 3) - m;
            }
        }
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // Equal scale and minimum with dmin = 1.5 d centre each sub-block: v = d·sc·(q − 1.5), sc uniform in 0..=15,
        // E[sc²] = 77.5, E[(q − 1.5)²] = 1.25.
        let d = random_scale(rng, std / ((77.5 * 1.25f32).sqrt() * SCALE_RMS));
        let mut block: Self = random_block(rng);
        block.scales = block.scales.map(|s| s & 15 | s << 4);
        Self { d: f16_bytes(d), dmin: f16_bytes(1.5 * d), ..block }
    }
}

/// First byte and bit position of the two-bit quants of sub-block `s` (16 values), as Q2_K and Q3_K order them.
#[inline]
pub(super) fn two_bits_at(s: usize) -> (usize, usize) {
    let e = 16 * s;
    (32 * (e / 128) + e % 32, 2 * (e % 128 / 32))
}
