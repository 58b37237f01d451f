//! AVX512-VNNI: 512-bit vectors.
use super::avx2::{halves, impl_i4, load_acts, max8, sum8};
use super::x86::{Avx512Vnni, f16_ptr, op, part_len};
use super::{Dots, Floats, Levels, Panel, Words, four};
use half::f16;
use std::arch::x86_64::*;

/// A mask of the first `n` ≤ 16 lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

impl Floats for Avx512Vnni {
    type F = __m512;

    // 32 registers: 24, and for example four of keys or six of activations, and a broadcast.
    const ACCUMULATORS: usize = 24;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> __m512 {
        op!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> __m512 {
        // Masked lanes are not read.
        op!(_mm512_maskz_loadu_ps(first(part_len(x)), x.as_ptr()))
    }
    #[inline(always)]
    fn load_le(self, x: &[u8; 64]) -> __m512 {
        op!(_mm512_loadu_ps(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn load_f16_le(self, x: &[u8; 32]) -> __m512 {
        op!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16_le(self, x: &[u8; 32]) -> __m512 {
        op! {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; 16]) -> __m512 {
        op!(_mm512_cvtph_ps(_mm256_loadu_si256(f16_ptr(x))))
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; 16]) -> __m512 {
        op!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }
    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32; 16]) {
        op!(_mm512_storeu_ps(out.as_mut_ptr(), v))
    }
    #[inline(always)]
    fn store_part(self, v: __m512, out: &mut [f32]) {
        // Masked lanes are not written.
        op!(_mm512_mask_storeu_ps(out.as_mut_ptr(), first(part_len(out)), v))
    }
    #[inline(always)]
    fn store_f16(self, v: __m512, out: &mut [f16; 16]) {
        op! {
            let half = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), half)
        }
    }
    #[inline(always)]
    fn store_i8(self, v: __m512, out: &mut [i8; 16]) {
        op!(_mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v))))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        op! {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(n))
        }
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x))
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        op!(sum8(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a))))
    }
    #[inline(always)]
    fn max_lane(self, a: __m512) -> f32 {
        op!(max8(_mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a))))
    }
}

impl Words for Avx512Vnni {
    type W = __m512i;
    type I = __m512i;

    #[inline(always)]
    fn w_pairs(self, a: &[i8; 16], b: &[i8; 16]) -> __m512i {
        op! {
            let (a, b) = (_mm_loadu_si128(a.as_ptr().cast()), _mm_loadu_si128(b.as_ptr().cast()));
            _mm512_cvtepi8_epi16(_mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b)))
        }
    }
    #[inline(always)]
    fn i_zero(self) -> __m512i {
        op!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn w_dot(self, acc: __m512i, w: __m512i, x: i32) -> __m512i {
        op!(_mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(x)))
    }
    #[inline(always)]
    fn i_float(self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn store_i16(self, v: __m512, out: &mut [i16; 16]) {
        op!(_mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v))))
    }
}

impl Dots for Avx512Vnni {
    impl_i4! {}
    const NARROW_MAX: u8 = 255;

    #[inline(always)]
    fn dots(self, _max: u8, q: [__m256i; 4], a: &[i8; 128]) -> [__m128i; 2] {
        op!(halves(four!(b => _mm256_dpbusd_epi32(_mm256_setzero_si256(), q[b], load_acts(a, b)))))
    }
}

/// 32 rows × 6 tokens take 12 integer and 12 float accumulators, two weights and a scale pair of the 32
/// registers; 12 chains hide the dot product's latency (4 cycles on Zen 4, 5 on Ice Lake, one a cycle).
impl Panel for Avx512Vnni {
    type P = [__m512i; 2];
    type PF = [__m512; 2];
    const ROWS: usize = 32;
    const TOKENS: usize = 6;
    const LEVELS: Levels = Levels::All32;
    const PREFETCH: bool = true;

    #[inline(always)]
    unsafe fn p_dots<const T: usize, const LEVEL: usize>(
        self,
        mut acc: [Self::P; T],
        w: *const u8,
        a: *const i32,
        steps: usize,
    ) -> [Self::P; T] {
        op! {
            let w = w.cast::<__m512i>();
            for k in 0..steps {
                let w = [_mm512_load_si512(w.add(2 * k)), _mm512_load_si512(w.add(2 * k + 1))];
                for (t, acc) in acc.iter_mut().enumerate() {
                    let a = _mm512_set1_epi32(*a.add(k * T + t));
                    *acc = [_mm512_dpbusd_epi32(acc[0], w[0], a), _mm512_dpbusd_epi32(acc[1], w[1], a)];
                }
            }
            acc
        }
    }
    #[inline(always)]
    fn p_splat(self, x: i32) -> Self::P {
        op!([_mm512_set1_epi32(x); 2])
    }
    #[inline(always)]
    fn p_float(self, a: Self::P) -> Self::PF {
        op!([_mm512_cvtepi32_ps(a[0]), _mm512_cvtepi32_ps(a[1])])
    }
    #[inline(always)]
    fn pf_splat(self, x: f32) -> Self::PF {
        op!([_mm512_set1_ps(x); 2])
    }
    #[inline(always)]
    fn pf_add(self, a: Self::PF, b: Self::PF) -> Self::PF {
        op!([_mm512_add_ps(a[0], b[0]), _mm512_add_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn pf_mul(self, a: Self::PF, b: Self::PF) -> Self::PF {
        op!([_mm512_mul_ps(a[0], b[0]), _mm512_mul_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn pf_fma(self, a: Self::PF, b: Self::PF, c: Self::PF) -> Self::PF {
        op!([_mm512_fmadd_ps(a[0], b[0], c[0]), _mm512_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    unsafe fn pf_load(self, x: *const f32) -> Self::PF {
        op!([_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16))])
    }
    #[inline(always)]
    unsafe fn pf_store(self, a: Self::PF, out: *mut f32) {
        op! {
            _mm512_storeu_ps(out, a[0]);
            _mm512_storeu_ps(out.add(16), a[1])
        }
    }
}
