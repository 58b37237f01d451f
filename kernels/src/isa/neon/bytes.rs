//! 32 bytes in two registers, and four f32 lanes in one.
use super::super::Bytes;
use super::{Multiply, Token};
use core::arch::aarch64::*;

/// Dword j of result i is dword i of `x[j]`.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn transpose4(x: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    // SAFETY: the caller has NEON.
    unsafe {
        let [a, b, c, d] = [
            vreinterpretq_u32_u8(x[0]),
            vreinterpretq_u32_u8(x[1]),
            vreinterpretq_u32_u8(x[2]),
            vreinterpretq_u32_u8(x[3]),
        ];
        let pairs = |a, b| vreinterpretq_u64_u32(vtrn1q_u32(a, b));
        let odd_pairs = |a, b| vreinterpretq_u64_u32(vtrn2q_u32(a, b));
        let (ab, cd) = (pairs(a, b), pairs(c, d));
        let (ab_odd, cd_odd) = (odd_pairs(a, b), odd_pairs(c, d));
        [
            vreinterpretq_u8_u64(vtrn1q_u64(ab, cd)),
            vreinterpretq_u8_u64(vtrn1q_u64(ab_odd, cd_odd)),
            vreinterpretq_u8_u64(vtrn2q_u64(ab, cd)),
            vreinterpretq_u8_u64(vtrn2q_u64(ab_odd, cd_odd)),
        ]
    }
}

impl<M: Multiply> Bytes for Token<M> {
    type B = [uint8x16_t; 2];
    type F4 = float32x4_t;

    #[inline(always)]
    fn b_splat(self, x: u8) -> Self::B {
        halves!(_i => vdupq_n_u8(x))
    }
    #[inline(always)]
    fn b_pair(self, lo: u8, hi: u8) -> Self::B {
        neon! { [vdupq_n_u8(lo), vdupq_n_u8(hi)] }
    }
    #[inline(always)]
    fn b_load(self, x: &[u8; 32]) -> Self::B {
        halves!(i => vld1q_u8(x.as_ptr().add(16 * i)))
    }
    #[inline(always)]
    fn b_load_twice(self, x: &[u8; 16]) -> Self::B {
        neon! { [vld1q_u8(x.as_ptr()); 2] }
    }
    #[inline(always)]
    fn b_nibbles(self, x: &[u8; 16]) -> Self::B {
        neon! {
            let x = vld1q_u8(x.as_ptr());
            [vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8::<4>(x)]
        }
    }
    #[inline(always)]
    fn b_bits(self, bits: u32, value: u8) -> Self::B {
        const BYTE: [[u8; 16]; 2] = [
            [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
            [2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3],
        ];
        const BIT: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
        halves!(i => {
            let bits = vreinterpretq_u8_u32(vdupq_n_u32(bits));
            let bytes = vqtbl1q_u8(bits, vld1q_u8(BYTE[i].as_ptr()));
            vandq_u8(vtstq_u8(bytes, vld1q_u8(BIT.as_ptr())), vdupq_n_u8(value))
        })
    }
    #[inline(always)]
    fn b_store(self, v: Self::B, out: &mut [u8; 32]) {
        halves!(i => vst1q_u8(out.as_mut_ptr().add(16 * i), v[i]));
    }
    #[inline(always)]
    fn b_and(self, a: Self::B, b: Self::B) -> Self::B {
        halves!(i => vandq_u8(a[i], b[i]))
    }
    #[inline(always)]
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B {
        halves!(i => vorrq_u8(a[i], b[i]))
    }
    #[inline(always)]
    fn b_xor(self, a: Self::B, b: Self::B) -> Self::B {
        halves!(i => veorq_u8(a[i], b[i]))
    }
    #[inline(always)]
    fn b_add(self, a: Self::B, b: Self::B) -> Self::B {
        halves!(i => vaddq_u8(a[i], b[i]))
    }
    #[inline(always)]
    fn b_sub(self, a: Self::B, b: Self::B) -> Self::B {
        halves!(i => vsubq_u8(a[i], b[i]))
    }
    #[inline(always)]
    fn b_shr<const N: u32>(self, a: Self::B) -> Self::B {
        // A shift by a register, since the immediate form has no zero; LLVM makes it immediate.
        halves!(i => vshlq_u8(a[i], vdupq_n_s8(-(N as i8))))
    }
    #[inline(always)]
    fn b_shl<const N: u32>(self, a: Self::B) -> Self::B {
        halves!(i => vshlq_u8(a[i], vdupq_n_s8(N as i8)))
    }
    #[inline(always)]
    fn b_lut(self, table: Self::B, index: Self::B) -> Self::B {
        halves!(i => vqtbl1q_u8(table[i], index[i]))
    }
    #[inline(always)]
    fn b_transpose(self, rows: [&[u8; 32]; 8]) -> [Self::B; 8] {
        let rows = rows.map(|row| self.b_load(row));
        neon! {
            let mut out = rows;
            for (i, out) in out.chunks_exact_mut(4).enumerate() {
                let lo = transpose4([rows[0][i], rows[1][i], rows[2][i], rows[3][i]]);
                let hi = transpose4([rows[4][i], rows[5][i], rows[6][i], rows[7][i]]);
                for (out, (lo, hi)) in out.iter_mut().zip(lo.into_iter().zip(hi)) {
                    *out = [lo, hi];
                }
            }
            out
        }
    }
    #[inline(always)]
    fn f4_splat(self, x: f32) -> Self::F4 {
        neon! { vdupq_n_f32(x) }
    }
    #[inline(always)]
    fn f4_load(self, x: &[f32; 4]) -> Self::F4 {
        neon! { vld1q_f32(x.as_ptr()) }
    }
    #[inline(always)]
    fn f4_f16(self, x: [[u8; 2]; 4]) -> Self::F4 {
        let x = x.map(u16::from_le_bytes);
        neon! { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x.as_ptr()))) }
    }
    #[inline(always)]
    fn f4_i32(self, x: [i32; 4]) -> Self::F4 {
        neon! { vcvtq_f32_s32(vld1q_s32(x.as_ptr())) }
    }
    #[inline(always)]
    fn b_floats(self, a: Self::F4, b: Self::F4) -> Self::B {
        neon! { [vreinterpretq_u8_f32(a), vreinterpretq_u8_f32(b)] }
    }
    #[inline(always)]
    fn f4_array(self, a: Self::F4) -> [f32; 4] {
        let mut out = [0.0; 4];
        neon! { vst1q_f32(out.as_mut_ptr(), a) };
        out
    }
    #[inline(always)]
    fn f4_mul(self, a: Self::F4, b: Self::F4) -> Self::F4 {
        neon! { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn f4_fma(self, a: Self::F4, b: Self::F4, c: Self::F4) -> Self::F4 {
        neon! { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn f4_sum(self, a: Self::F4) -> f32 {
        neon! { vpadds_f32(vget_low_f32(vpaddq_f32(a, a))) }
    }
}
