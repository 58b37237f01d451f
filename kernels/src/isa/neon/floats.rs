//! 16 f32 lanes in four registers.
use super::super::Floats;
use super::{Multiply, Token};
use core::arch::aarch64::*;
use half::f16;

/// Eight f16 (as their bits) to two registers of f32.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn widen(bits: uint16x8_t) -> [float32x4_t; 2] {
    // SAFETY: the caller has NEON.
    unsafe {
        let x = vreinterpretq_f16_u16(bits);
        [vcvt_f32_f16(vget_low_f16(x)), vcvt_high_f32_f16(x)]
    }
}

impl<M: Multiply> Floats for Token<M> {
    type F = [float32x4_t; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        registers!(_i => vdupq_n_f32(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::F {
        registers!(i => vld1q_f32(x.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        let mut lanes = [0.0; 16];
        let n = x.len().min(16);
        lanes[..n].copy_from_slice(&x[..n]);
        self.load(&lanes)
    }
    #[inline(always)]
    fn load_le(self, x: &[u8; 64]) -> Self::F {
        registers!(i => vreinterpretq_f32_u8(vld1q_u8(x.as_ptr().add(16 * i))))
    }
    #[inline(always)]
    fn load_f16_le(self, x: &[u8; 32]) -> Self::F {
        neon! {
            let [a, b] = widen(vreinterpretq_u16_u8(vld1q_u8(x.as_ptr())));
            let [c, d] = widen(vreinterpretq_u16_u8(vld1q_u8(x.as_ptr().add(16))));
            [a, b, c, d]
        }
    }
    #[inline(always)]
    fn load_bf16_le(self, x: &[u8; 32]) -> Self::F {
        neon! {
            let lo = vreinterpretq_u16_u8(vld1q_u8(x.as_ptr()));
            let hi = vreinterpretq_u16_u8(vld1q_u8(x.as_ptr().add(16)));
            [
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(lo))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(lo)),
                vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(hi))),
                vreinterpretq_f32_u32(vshll_high_n_u16::<16>(hi)),
            ]
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; 16]) -> Self::F {
        // `f16` is a transparent u16.
        let x = x.as_ptr().cast::<u16>();
        neon! {
            let [a, b] = widen(vld1q_u16(x));
            let [c, d] = widen(vld1q_u16(x.add(8)));
            [a, b, c, d]
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> Self::F {
        neon! {
            let x = vld1q_s8(x.as_ptr());
            let (lo, hi) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))),
                vcvtq_f32_s32(vmovl_high_s16(lo)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))),
                vcvtq_f32_s32(vmovl_high_s16(hi)),
            ]
        }
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; 16]) {
        registers!(i => vst1q_f32(out.as_mut_ptr().add(4 * i), v[i]));
    }
    #[inline(always)]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        let mut lanes = [0.0; 16];
        self.store(v, &mut lanes);
        let n = out.len().min(16);
        out[..n].copy_from_slice(&lanes[..n]);
    }
    #[inline(always)]
    fn store_f16(self, v: Self::F, out: &mut [f16; 16]) {
        let out = out.as_mut_ptr().cast::<u16>();
        registers!(i => vst1_u16(out.add(4 * i), vreinterpret_u16_f16(vcvt_f16_f32(v[i]))));
    }
    #[inline(always)]
    fn store_i8(self, v: Self::F, out: &mut [i8; 16]) {
        neon! {
            let [a, b, c, d] = [vcvtnq_s32_f32(v[0]), vcvtnq_s32_f32(v[1]), vcvtnq_s32_f32(v[2]), vcvtnq_s32_f32(v[3])];
            let lo = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
            let hi = vcombine_s16(vmovn_s32(c), vmovn_s32(d));
            vst1q_s8(out.as_mut_ptr(), vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        registers!(i => vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        registers!(i => vsubq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        registers!(i => vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        registers!(i => vdivq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        registers!(i => vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        registers!(i => vmaxnmq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        registers!(i => vminnmq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        registers!(i => vabsq_f32(a[i]))
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        registers!(i => vrndnq_f32(a[i]))
    }
    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        registers!(i => {
            let exponent = vaddq_s32(vcvtq_s32_f32(n[i]), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        })
    }
    #[inline(always)]
    fn select_lt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        registers!(i => vbslq_f32(vcltq_f32(a[i], b[i]), x[i], y[i]))
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        neon! {
            let four = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        neon! { vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a[0], a[1]), vmaxnmq_f32(a[2], a[3]))) }
    }
}
