//! Q4_K: 8 sub-blocks of 32 values of 4 bits, each with a 6-bit scale and minimum, v = d·sc·q − dmin·mn.
use super::block::{SCALE_RMS, block, f16_bytes, f16_value, minus, random_block, random_scale};
use super::q4_0::quants;
use super::{Format, Group, Quantised, TensorType, fit};
use crate::isa::{Simd, two};
use std::array::from_fn;

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
    const CAN_ENCODE: bool = true;

    #[inline(always)]
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

    #[inline(always)]
    fn encode(x: &[f32]) -> Option<Self> {
        Some(encode(x))
    }

    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
        // v = d·sc·(q − 7.5), see `random_scales`; E[(q − 7.5)²] = 21.25.
        let d = random_scale(rng, std / (SCALE_MEAN_SQUARE * 21.25).sqrt() / SCALE_RMS);
        let block: Self = random_block(rng);
        Self { d: f16_bytes(d), dmin: f16_bytes(7.5 * d), scales: centred_scales(block.scales), ..block }
    }
}

impl Quantised for Q4K {
    const BIAS: i32 = 0;
    const MAX: u8 = 15;
    const MINS: usize = 1;

    #[inline(always)]
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], half: usize) -> Group<S> {
        let [block] = blocks else { unreachable!("a unit is one block") };
        let (d, m) = scales_and_mins(simd, block.d, block.dmin, &block.scales, half);
        let zero = simd.f4_splat(0.0);
        Group { q: nibbles(simd, &block.qs.as_chunks().0[half]), d: [d, zero], m: [m, zero] }
    }

    #[inline(always)]
    fn value(&self, i: usize) -> f32 {
        let (b, (scales, mins)) = (i / 32, unpack_scales(&self.scales));
        let q = self.qs[32 * (b / 2) + i % 32] >> (4 * (b % 2)) & 15;
        f16_value(self.d) * f32::from(scales[b]) * f32::from(q) - f16_value(self.dmin) * f32::from(mins[b])
    }
}

/// The nibbles of 128 values, as Q4_K and Q5_K order them: 32 bytes hold one run low and the next high.
#[inline(always)]
pub(super) fn nibbles<S: Simd>(simd: S, qs: &[u8; 64]) -> [S::B; 4] {
    let mask = simd.b_splat(15);
    let [a, b] = two!(g => simd.b_load(&qs.as_chunks().0[g]));
    [simd.b_and(a, mask), simd.b_shr::<4>(a), simd.b_and(b, mask), simd.b_shr::<4>(b)]
}

/// Scales and negative minimums of the four runs of a half, as Q4_K and Q5_K pack them.
#[inline(always)]
pub(super) fn scales_and_mins<S: Simd>(
    simd: S,
    d: [u8; 2],
    dmin: [u8; 2],
    packed: &[u8; 12],
    half: usize,
) -> (S::F4, S::F4) {
    // As `unpack_scales`, four bytes at a time.
    let word = |i: usize| u32::from_le_bytes(packed.as_chunks().0[i]);
    let (scales, mins) = if half == 0 {
        (word(0) & 0x3f3f_3f3f, word(1) & 0x3f3f_3f3f)
    } else {
        let [scales, mins] = [0, 1].map(|i| word(i) >> 2 & 0x3030_3030);
        (word(2) & 0x0f0f_0f0f | scales, word(2) >> 4 & 0x0f0f_0f0f | mins)
    };
    let times = |factor, bytes: u32| simd.f4_mul(simd.f4_f16_splat(factor), simd.f4_u8(bytes.to_le_bytes()));
    (times(d, scales), times(minus(dmin), mins))
}

#[inline(always)]
fn encode(x: &[f32]) -> Q4K {
    let Fit { d, dmin, scales, q } = fit_block(x, 15.0);
    let qs = from_fn(|i| {
        let e = 64 * (i / 32) + i % 32;
        q[e] | q[e + 32] << 4
    });
    Q4K { d, dmin, scales, qs }
}

/// A fitted block of Q4_K or Q5_K: the packed scales and the quants, not yet packed.
pub(super) struct Fit {
    pub d: [u8; 2],
    pub dmin: [u8; 2],
    pub scales: [u8; 12],
    pub q: [u8; 256],
}

/// Fits 256 values with quants in `0..=levels`.
#[inline(always)]
pub(super) fn fit_block(x: &[f32], levels: f32) -> Fit {
    let (blocks, _) = x.as_chunks::<32>();
    // The minimum is stored as a magnitude to subtract, so it cannot be positive.
    let ideal: [(f32, f32); 8] = from_fn(|b| fit::scale_and_min(&blocks[b], levels, 0.0));
    let (max_d, max_m) = ideal.iter().fold((0.0f32, 0.0f32), |(d, m), fit| (d.max(fit.0), m.max(-fit.1)));
    let (d, dmin) = (f16_bytes(max_d / 63.0), f16_bytes(max_m / 63.0));
    let (scale, min) = (f16_value(d), f16_value(dmin));
    let (mut scales, mut mins, mut q) = ([0; 8], [0; 8], [0; 256]);
    for (b, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let [nearest] = quants(&[ideal[b].0], scale, 0.0, 0.0, 63.0);
        let mut least = f32::INFINITY;
        // Six bits are coarse for a scale: its neighbours, each with the minimum that suits it, may fit better.
        for sc in (nearest - 1).max(0)..=(nearest + 1).min(63) {
            let sub_scale = scale * sc as f32;
            let free = quants(&blocks[b], sub_scale, ideal[b].1, 0.0, levels);
            let rest = blocks[b].iter().zip(free).map(|(x, q)| sub_scale * q as f32 - x).sum::<f32>() / 32.0;
            let [mn] = quants(&[rest], min, 0.0, 0.0, 63.0);
            let m = -min * mn as f32;
            let tried = quants(&blocks[b], sub_scale, m, 0.0, levels);
            let error =
                blocks[b].iter().zip(tried).map(|(x, q)| (sub_scale * q as f32 + m - x).powi(2)).sum();
            if error < least {
                least = error;
                (scales[b], mins[b], *q) = (sc as u8, mn as u8, tried.map(|q| q as u8));
            }
        }
    }
    Fit { d, dmin, scales: pack_scales(&scales, &mins), q }
}

/// The 6-bit scales and minimums of Q4_K and Q5_K. The first four of each are the low six bits of bytes 0..4 (scales)
/// and 4..8 (minimums); the others have their low nibbles in bytes 8..12 (scale low, minimum high) and their upper
/// two bits in the top of bytes 0..4 and 4..8.
#[inline(always)]
pub(super) fn unpack_scales(s: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let scales = from_fn(|j| if j < 4 { s[j] & 63 } else { s[j + 4] & 15 | s[j - 4] >> 6 << 4 });
    let mins = from_fn(|j| if j < 4 { s[j + 4] & 63 } else { s[j + 4] >> 4 | s[j] >> 6 << 4 });
    (scales, mins)
}

/// The inverse of [`unpack_scales`].
#[inline(always)]
pub(super) fn pack_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    from_fn(|i| match i {
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
