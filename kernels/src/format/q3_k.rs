//! Q3_K: 16 sub-blocks of 16 values of 3 bits, each with a 6-bit scale, v = d·(sc − 32)·(q − 4).
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, random_block, random_scale};
use super::q2_k::{multiples, two_bits, two_bits_at};
use super::unpack::scale_words;
use super::{Format, Group, Narrow, Quantised, TensorType};
use crate::isa::{Simd, four, two};
use std::array::from_fn;

block! {
    /// Spec: `block_q3_K` in <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>
    Q3K = 110 bytes {
        /// Bit e/32 of byte e%32: the third bit of value e.
        hmask: [u8; 32],
        /// The lower two bits, ordered as in Q2_K.
        qs: [u8; 64],
        /// Sixteen 6-bit scales: low nibbles of 0..8 and 8..16 in bytes 0..8, upper bits in bytes 8..12.
        scales: [u8; 12],
        /// f16 scale of the scales.
        d: [u8; 2],
    }
}

impl Q3K {
    /// The scales of the 16 sub-blocks, −32..=31.
    #[inline(always)]
    pub(crate) fn scales(&self) -> [i8; 16] {
        // Four scales at a time, as the bytes of a word.
        let [low, high, top] = [0, 1, 2].map(|i| u32::from_le_bytes(self.scales.as_chunks().0[i]));
        let words: [u32; 4] = from_fn(|i| {
            let low = [low, high][i % 2] >> (4 * (i / 2));
            low & 0x0f0f_0f0f | (top >> (2 * i) & 0x0303_0303) << 4
        });
        from_fn(|i| words[i / 4].to_le_bytes()[i % 4] as i8 - 32)
    }
}

impl Format for Q3K {
    const TYPE: TensorType = TensorType::Q3K;
    const BLOCK_LEN: usize = 256;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = f16_value(self.d);
        for (s, (out, scale)) in out.chunks_exact_mut(16).zip(self.scales()).enumerate() {
            let d = d * f32::from(scale);
            let (at, shift) = two_bits_at(s);
            let third = &self.hmask[16 * (s % 2)..];
            for ((v, low), high) in out.iter_mut().zip(&self.qs[at..]).zip(third) {
                let q = low >> shift & 3 | (high >> (s / 2) & 1) << 2;
                *v = d * f32::from(q as i8 - 4);
            }
        }
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // E[(sc − 32)²] = 341.5, E[(q − 4)²] = 5.5 of uniform sc and q.
        let rms = (341.5f32 * 5.5).sqrt() * SCALE_RMS;
        Self { d: f16_bytes(random_scale(rng, std / rms)), ..random_block(rng) }
    }
}

impl Quantised for Q3K {
    // The bytes are (sc − 32)(q − 4) + 124, from 31·(−4) to −32·(−4), which leaves one scale for the whole block.
    const BIAS: i32 = 124;
    const MAX: u8 = 252;
    const NARROW: Option<(i32, u8)> = Some((4, 7));

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], half: usize) -> Group<S> {
        let [block] = blocks else { unreachable!("a unit is one block") };
        let q = three_bits(simd, block, half);
        let scales = block.scales();
        let zero = simd.f4_splat(0.0);
        Group {
            q: four!(k => multiples(simd, two!(h => products(scales[8 * half + 2 * k + h])), q[k])),
            d: [simd.f4_f16_splat(block.d), zero],
            m: [zero; 2],
        }
    }

    #[inline(always)]
    fn unpack_narrow<S: Simd>(simd: S, blocks: &[Self], half: usize) -> Narrow<S> {
        let [block] = blocks else { unreachable!("a unit is one block") };
        let scales = block.scales();
        Narrow {
            q: three_bits(simd, block, half),
            scales: scale_words(simd, two!(h => from_fn(|k| scales[8 * half + 2 * k + h]))),
            d: simd.f4_f16_splat(block.d),
            m: [simd.f4_splat(0.0); 2],
        }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        let (scale, (at, shift)) = (self.scales()[i / 16], two_bits_at(i / 16));
        let third = self.hmask[i % 32] >> (i / 32) & 1;
        let q = self.qs[at + i % 16] >> shift & 3 | third << 2;
        f16_value(self.d) * f32::from(scale) * f32::from(q as i8 - 4)
    }
}

/// The three-bit quants of a half, a run of 32 each.
#[inline(always)]
pub(crate) fn three_bits<S: Simd>(simd: S, block: &Q3K, half: usize) -> [S::B; 4] {
    let low = two_bits(simd, &block.qs.as_chunks().0[half]);
    let third = simd.b_load(&block.hmask);
    let third = if half == 0 { third } else { simd.b_shr::<4>(third) };
    let third = [simd.b_shl::<2>(third), simd.b_shl::<1>(third), third, simd.b_shr::<1>(third)];
    let mask = simd.b_splat(4);
    four!(k => simd.b_or(low[k], simd.b_and(third[k], mask)))
}

/// Bytes scale·(q − 4) + 124 for q in 0..8, all within a byte, as one sum of multiples.
#[inline(always)]
fn products(scale: i8) -> u64 {
    // Σ (q − 4)·256^q, modulo 2^64.
    const STEPS: u64 = 0x0706_0504_0302_0100_u64.wrapping_sub(0x0404_0404_0404_0404);
    (i64::from(scale) as u64).wrapping_mul(STEPS).wrapping_add(0x7c7c_7c7c_7c7c_7c7c)
}
