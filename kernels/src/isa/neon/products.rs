//! Integer dot products, and panels of eight rows.
use super::super::{Dots, Levels, Panel, Words};
use super::multiply::Rows;
use super::{Multiply, Token};
use core::arch::aarch64::*;
use std::array::from_fn;

/// Lane i = the sum of the lanes of `x[i]`.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn sums(x: [int32x4_t; 4]) -> int32x4_t {
    // SAFETY: the caller has NEON.
    unsafe { vpaddq_s32(vpaddq_s32(x[0], x[1]), vpaddq_s32(x[2], x[3])) }
}

impl<M: Multiply> Words for Token<M> {
    /// The words of `a`, then those of `b`.
    type W = [[int16x4_t; 4]; 2];
    type I = [int32x4_t; 4];

    #[inline(always)]
    fn w_pairs(self, a: &[i8; 16], b: &[i8; 16]) -> Self::W {
        neon! {
            [a, b].map(|x| {
                let x = vld1q_s8(x.as_ptr());
                let (lo, hi) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
                [vget_low_s16(lo), vget_high_s16(lo), vget_low_s16(hi), vget_high_s16(hi)]
            })
        }
    }
    #[inline(always)]
    fn i_zero(self) -> Self::I {
        registers!(_i => vdupq_n_s32(0))
    }
    #[inline(always)]
    fn w_dot(self, acc: Self::I, [a, b]: Self::W, x: i32) -> Self::I {
        let [first, second]: [i16; 2] = bytemuck::cast(x);
        registers!(i => vmlal_n_s16(vmlal_n_s16(acc[i], a[i], first), b[i], second))
    }
    #[inline(always)]
    fn i_float(self, a: Self::I) -> Self::F {
        registers!(i => vcvtq_f32_s32(a[i]))
    }
    #[inline(always)]
    fn store_i16(self, v: Self::F, out: &mut [i16; 16]) {
        let v = registers!(i => vmovn_s32(vcvtnq_s32_f32(v[i])));
        neon! {
            vst1q_s16(out.as_mut_ptr(), vcombine_s16(v[0], v[1]));
            vst1q_s16(out.as_mut_ptr().add(8), vcombine_s16(v[2], v[3]));
        }
    }
}

impl<M: Multiply> Dots for Token<M> {
    type I4 = int32x4_t;

    const NARROW_MAX: u8 = M::NARROW_MAX;

    #[inline(always)]
    fn dots(self, max: u8, q: [Self::B; 4], a: &[i8; 128]) -> [Self::I4; 2] {
        let flip = if self.offset(max) == 0 { 0 } else { 0x80 };
        // SAFETY: a token proves that `M` was detected; the 16 activations end before 128.
        let half = |half: usize| unsafe {
            sums(from_fn(|block| {
                let a = vld1q_s8(a.as_ptr().add(32 * block + 16 * half));
                M::dot(vdupq_n_s32(0), veorq_u8(q[block][half], vdupq_n_u8(flip)), a)
            }))
        };
        [half(0), half(1)]
    }
    #[inline(always)]
    fn i4_load(self, x: &[i32; 4]) -> Self::I4 {
        neon! { vld1q_s32(x.as_ptr()) }
    }
    #[inline(always)]
    fn i4_add(self, a: Self::I4, b: Self::I4) -> Self::I4 {
        neon! { vaddq_s32(a, b) }
    }
    #[inline(always)]
    fn i4_array(self, a: Self::I4) -> [i32; 4] {
        let mut out = [0; 4];
        neon! { vst1q_s32(out.as_mut_ptr(), a) };
        out
    }
    #[inline(always)]
    fn i4_float(self, a: Self::I4) -> Self::F4 {
        neon! { vcvtq_f32_s32(a) }
    }
}

impl<M: Multiply> Panel for Token<M> {
    type P = Rows;
    type PF = [float32x4_t; 2];
    const ROWS: usize = 8;
    const TOKENS: usize = M::TOKENS;
    const LEVELS: Levels = M::LEVELS;

    #[inline(always)]
    unsafe fn p_dots<const T: usize, const LEVEL: usize>(
        self,
        acc: [Self::P; T],
        w: *const u8,
        a: *const i32,
        steps: usize,
    ) -> [Self::P; T] {
        // SAFETY: a token proves that `M` was detected; the rest is what the caller promises.
        unsafe { M::panel::<T, LEVEL>(acc, w, a, steps) }
    }
    #[inline(always)]
    fn p_splat(self, x: i32) -> Self::P {
        halves!(_i => vdupq_n_s32(x))
    }
    #[inline(always)]
    fn p_float(self, a: Self::P) -> Self::PF {
        halves!(i => vcvtq_f32_s32(a[i]))
    }
    #[inline(always)]
    fn pf_splat(self, x: f32) -> Self::PF {
        halves!(_i => vdupq_n_f32(x))
    }
    #[inline(always)]
    fn pf_add(self, a: Self::PF, b: Self::PF) -> Self::PF {
        halves!(i => vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn pf_mul(self, a: Self::PF, b: Self::PF) -> Self::PF {
        halves!(i => vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn pf_fma(self, a: Self::PF, b: Self::PF, c: Self::PF) -> Self::PF {
        halves!(i => vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn pf_load(self, x: *const f32) -> Self::PF {
        halves!(i => vld1q_f32(x.add(4 * i)))
    }
    #[inline(always)]
    unsafe fn pf_store(self, a: Self::PF, out: *mut f32) {
        halves!(i => vst1q_f32(out.add(4 * i), a[i]));
    }
}
