//! Q2_K: 16 sub-blocks of 16 values of 2 bits, each with a 4-bit scale and minimum, v = d·sc·q − dmin·mn.
use super::block::{SCALE_RMS, block, even_bytes, f16_bytes, f16_value, minus, random_block, random_scale};
use super::unpack::scale_words;
use super::{Format, Group, Narrow, Quantised, TensorType};
use crate::isa::{Simd, four, two};

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

/// The low nibbles of eight bytes.
const NIBBLES: u64 = 0x0f0f_0f0f_0f0f_0f0f;

impl Q2K {
    /// The bytes of a half's scales and minimums.
    #[inline(always)]
    fn half_scales(&self, half: usize) -> u64 {
        u64::from_le_bytes(self.scales.as_chunks().0[half])
    }

    /// The mins of a half, as of a [`Group`].
    #[inline(always)]
    fn mins<S: Simd>(&self, simd: S, half: usize) -> [S::F4; 2] {
        let (dmin, mins) = (simd.f4_f16_splat(minus(self.dmin)), self.half_scales(half) >> 4 & NIBBLES);
        two!(h => simd.f4_mul(dmin, simd.f4_u8(even_bytes(mins >> (8 * h)))))
    }
}

impl Format for Q2K {
    const TYPE: TensorType = TensorType::Q2K;
    const BLOCK_LEN: usize = 256;

    #[inline(always)]
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

impl Quantised for Q2K {
    // The bytes are sc·q, which leaves one scale for the whole block.
    const BIAS: i32 = 0;
    const MAX: u8 = 15 * 3;
    const MINS: usize = 2;
    const NARROW: Option<(i32, u8)> = Some((0, 3));

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], half: usize) -> Group<S> {
        let [block] = blocks else { unreachable!("a unit is one block") };
        let q = two_bits(simd, &block.qs.as_chunks().0[half]);
        let scales = block.half_scales(half);
        Group {
            q: four!(k => {
                let table = |h: usize| (scales >> (16 * k + 8 * h) & 15) * 0x0302_0100;
                multiples(simd, [table(0), table(1)], q[k])
            }),
            d: [simd.f4_f16_splat(block.d), simd.f4_splat(0.0)],
            m: block.mins(simd, half),
        }
    }

    #[inline(always)]
    fn unpack_narrow<S: Simd>(simd: S, blocks: &[Self], half: usize) -> Narrow<S> {
        let [block] = blocks else { unreachable!("a unit is one block") };
        let scales = block.half_scales(half) & NIBBLES;
        Narrow {
            q: two_bits(simd, &block.qs.as_chunks().0[half]),
            scales: scale_words(simd, two!(h => even_bytes(scales >> (8 * h)).map(|scale| scale as i8))),
            d: simd.f4_f16_splat(block.d),
            m: block.mins(simd, half),
        }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        let (sm, (at, shift)) = (self.scales[i / 16], two_bits_at(i / 16));
        let q = self.qs[at + i % 16] >> shift & 3;
        f16_value(self.d) * f32::from(sm & 15) * f32::from(q) - f16_value(self.dmin) * f32::from(sm >> 4)
    }
}

/// The two-bit quants of 128 values, as Q2_K and Q3_K order them: a run of 32 at each shift.
#[inline(always)]
pub(crate) fn two_bits<S: Simd>(simd: S, qs: &[u8; 32]) -> [S::B; 4] {
    let (qs, mask) = (simd.b_load(qs), simd.b_splat(3));
    let runs = [qs, simd.b_shr::<2>(qs), simd.b_shr::<4>(qs), simd.b_shr::<6>(qs)];
    four!(k => simd.b_and(runs[k], mask))
}

/// Looks `q`, all below 8, up in two tables of eight bytes: one for values 0..16 and one for 16..32.
#[inline(always)]
pub(super) fn multiples<S: Simd>(simd: S, tables: [u64; 2], q: S::B) -> S::B {
    simd.b_lut(simd.b_words(tables[0], tables[1]), q)
}

/// First byte and bit position of the two-bit quants of sub-block `s` (16 values), as Q2_K and Q3_K order them.
#[inline(always)]
pub(super) fn two_bits_at(s: usize) -> (usize, usize) {
    let e = 16 * s;
    (32 * (e / 128) + e % 32, 2 * (e % 128 / 32))
}
