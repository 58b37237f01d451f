//! Q4_K: 8 sub-blocks of 32 values of 4 bits, each with a 6-bit scale and minimum, v = d·sc·q − dmin·mn.
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_scale};
use super::{Format, TensorType};

block! {
    /// Spec: `block_q4_K` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Q4K = 144 bytes {
        /// f16 scale of the scales.
        d: [u8; 2],
        /// f16 scale of the minimums.
        dmin: [u8; 2],
        /// Eight 6-bit scales and minimums: see [`unpack_scales`].
        scales: [u8; 12],
        /// Byte 32g + l: value 64g + l in the low nibble, value 64g + 32 + l in the high one.
        qs: [u8; 128],
    }
}

impl Format for Q4K {
    const TYPE: TensorType = TensorType::Q4K;
    const BLOCK_LEN: usize = 256;

    fn decode(&self, out: &mut [f32]) {
        let (d, dmin) = (f16_value(self.d), f16_value(self.dmin));
        let (scales, mins) = unpack_scales(&self.scales);
        for (b, out) in out.chunks_exact_mut(32).enumerate() {
            let (d, m) = (d * f32::from(scales[b]), dmin * f32::from(mins[b]));
            for (v, q) in out.iter_mut().zip(&self.qs[32 * (b / 2)..]) {
                *v = d * f32::from(q >> (4 * (b % 2)) & 15) - m;
            }
        }
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // v = d·sc·(q − 7.5), see `random_scales`; E[(q − 7.5)²] = 21.25.
        let d = random_scale(rng, std / (SCALE_MEAN_SQUARE * 21.25).sqrt() / SCALE_RMS);
        let block: Self = random_block(rng);
        Self { d: f16_bytes(d), dmin: f16_bytes(7.5 * d), scales: centred_scales(block.scales), ..block }
    }
}

/// The 6-bit scales and minimums of Q4_K and Q5_K. The first four of each are the low six bits of bytes 0..4 (scales)
/// and 4..8 (minimums); the others have their low nibbles in bytes 8..12 (scale low, minimum high) and their upper
/// two bits in the top of bytes 0..4 and 4..8.
#[inline]
pub(super) fn unpack_scales(s: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let scales = std::array::from_fn(|j| if j < 4 { s[j] & 63 } else { s[j + 4] & 15 | s[j - 4] >> 6 << 4 });
    let mins = std::array::from_fn(|j| if j < 4 { s[j + 4] & 63 } else { s[j + 4] >> 4 | s[j] >> 6 << 4 });
    (scales, mins)
}

/// The inverse of [`unpack_scales`].
pub(super) fn pack_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] & 63 | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] & 63 | mins[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | mins[i - 4] << 4,
    })
}

/// Random packed scales, from random bytes, with each minimum equal to its scale: with dmin = d·(mean quant) every
/// sub-block has mean 0.
pub(super) fn centred_scales(random: [u8; 12]) -> [u8; 12] {
    let (scales, _) = unpack_scales(&random);
    pack_scales(&scales, &scales)
}

/// E[sc²] of a uniform 6-bit scale.
pub(super) const SCALE_MEAN_SQUARE: f32 = 1333.5;
