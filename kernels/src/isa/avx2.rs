//! AVX2 and AVX-VNNI: 256-bit vectors.
use super::simd::{WIDE_OFFSET, eight_rows};
use super::x86::{Avx2, AvxVnni, f16_ptr, has_one_multiplier, op, part_len};
use super::{Bytes, Dots, Floats, Levels, Panel, Words, eight, four, two};
use half::f16;
use std::arch::x86_64::*;

macro_rules! impl_floats {
    ($($token:ident)*) => {$(
        impl Floats for $token {
            type F = [__m256; 2];
            const PARTS: usize = 2;

            #[inline(always)]
            fn fma_part(self, part: usize, a: Self::F, b: Self::F, [low, high]: Self::F) -> Self::F {
                // Not by index: where checks are on, an array that is reached by one stays in memory.
                match part {
                    0 => [op!(_mm256_fmadd_ps(a[0], b[0], low)), high],
                    _ => [low, op!(_mm256_fmadd_ps(a[1], b[1], high))],
                }
            }
            #[inline(always)]
            fn in_turn(self) {
                // SAFETY: no instruction at all.
                unsafe { std::arch::asm!("", options(nostack, preserves_flags)) }
            }
            #[inline(always)]
            fn splat(self, x: f32) -> Self::F {
                op!([_mm256_set1_ps(x); 2])
            }
            #[inline(always)]
            fn load(self, x: &[f32; 16]) -> Self::F {
                op!([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
            }
            #[inline(always)]
            fn load_part(self, x: &[f32]) -> Self::F {
                let mut all = [0.0; 16];
                let n = part_len(x);
                all[..n].copy_from_slice(&x[..n]);
                self.load(&all)
            }
            #[inline(always)]
            fn load_le(self, x: &[u8; 64]) -> Self::F {
                let x = x.as_ptr().cast::<f32>();
                op!([_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))])
            }
            #[inline(always)]
            fn load_f16_le(self, x: &[u8; 32]) -> Self::F {
                let x = x.as_ptr().cast::<__m128i>();
                op!([_mm256_cvtph_ps(_mm_loadu_si128(x)), _mm256_cvtph_ps(_mm_loadu_si128(x.add(1)))])
            }
            #[inline(always)]
            fn load_bf16_le(self, x: &[u8; 32]) -> Self::F {
                let x = x.as_ptr().cast::<__m128i>();
                op! {
                    let wide = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)));
                    [wide(_mm_loadu_si128(x)), wide(_mm_loadu_si128(x.add(1)))]
                }
            }
            #[inline(always)]
            fn load_f16(self, x: &[f16; 16]) -> Self::F {
                let x = f16_ptr(x).cast::<__m128i>();
                op!([_mm256_cvtph_ps(_mm_loadu_si128(x)), _mm256_cvtph_ps(_mm_loadu_si128(x.add(1)))])
            }
            #[inline(always)]
            fn load_i8(self, x: &[i8; 16]) -> Self::F {
                op! {
                    let x = _mm_loadu_si128(x.as_ptr().cast());
                    let wide = |x| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x));
                    [wide(x), wide(_mm_srli_si128::<8>(x))]
                }
            }
            #[inline(always)]
            fn store(self, v: Self::F, out: &mut [f32; 16]) {
                op! {
                    _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
                    _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1])
                }
            }
            #[inline(always)]
            fn store_part(self, v: Self::F, out: &mut [f32]) {
                let mut all = [0.0; 16];
                self.store(v, &mut all);
                let n = part_len(out);
                out[..n].copy_from_slice(&all[..n]);
            }
            #[inline(always)]
            fn store_f16(self, v: Self::F, out: &mut [f16; 16]) {
                let out = out.as_mut_ptr().cast::<__m128i>();
                op! {
                    _mm_storeu_si128(out, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
                    _mm_storeu_si128(out.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]))
                }
            }
            #[inline(always)]
            fn store_i8(self, v: Self::F, out: &mut [i8; 16]) {
                op! {
                    let words = to_words(v);
                    let low = _mm256_castsi256_si128(words);
                    let bytes = _mm_packs_epi16(low, _mm256_extracti128_si256::<1>(words));
                    _mm_storeu_si128(out.as_mut_ptr().cast(), bytes)
                }
            }
            #[inline(always)]
            fn add(self, a: Self::F, b: Self::F) -> Self::F {
                op!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
            }
            #[inline(always)]
            fn sub(self, a: Self::F, b: Self::F) -> Self::F {
                op!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
            }
            #[inline(always)]
            fn mul(self, a: Self::F, b: Self::F) -> Self::F {
                op!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
            }
            #[inline(always)]
            fn div(self, a: Self::F, b: Self::F) -> Self::F {
                op!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
            }
            #[inline(always)]
            fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                op!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
            }
            #[inline(always)]
            fn max(self, a: Self::F, b: Self::F) -> Self::F {
                op!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
            }
            #[inline(always)]
            fn min(self, a: Self::F, b: Self::F) -> Self::F {
                op!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
            }
            #[inline(always)]
            fn abs(self, a: Self::F) -> Self::F {
                op! {
                    let sign = _mm256_set1_ps(-0.0);
                    [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
                }
            }
            #[inline(always)]
            fn round(self, a: Self::F) -> Self::F {
                const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
                op!([_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])])
            }
            #[inline(always)]
            fn pow2(self, n: Self::F) -> Self::F {
                op! {
                    let bias = _mm256_set1_epi32(127);
                    let pow2 = |n| _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), bias));
                    [_mm256_castsi256_ps(pow2(n[0])), _mm256_castsi256_ps(pow2(n[1]))]
                }
            }
            #[inline(always)]
            fn select_lt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
                op! {
                    let select = |i: usize| _mm256_blendv_ps(y[i], x[i], _mm256_cmp_ps::<_CMP_LT_OQ>(a[i], b[i]));
                    [select(0), select(1)]
                }
            }
            #[inline(always)]
            fn sum(self, a: Self::F) -> f32 {
                op!(sum8(_mm256_add_ps(a[0], a[1])))
            }
            #[inline(always)]
            fn max_lane(self, a: Self::F) -> f32 {
                op!(max8(_mm256_max_ps(a[0], a[1])))
            }
        }
    )*};
}

impl_floats! { Avx2 AvxVnni }

/// 16 lanes rounded to integers of 16 bits, to nearest even.
#[inline(always)]
fn to_words(v: [__m256; 2]) -> __m256i {
    op! {
        // Packing works within 128-bit halves: the middle quarters are swapped back after it.
        let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
        _mm256_permute4x64_epi64::<0b11_01_10_00>(words)
    }
}

macro_rules! impl_words {
    ($($token:ident)*) => {$(
        impl Words for $token {
            type W = [__m256i; 2];
            type I = [__m256i; 2];

            #[inline(always)]
            fn w_pairs(self, a: &[i8; 16], b: &[i8; 16]) -> Self::W {
                op! {
                    let (a, b) = (_mm_loadu_si128(a.as_ptr().cast()), _mm_loadu_si128(b.as_ptr().cast()));
                    [
                        _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)),
                        _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b)),
                    ]
                }
            }
            #[inline(always)]
            fn i_zero(self) -> Self::I {
                op!([_mm256_setzero_si256(); 2])
            }
            #[inline(always)]
            fn w_dot(self, acc: Self::I, w: Self::W, x: i32) -> Self::I {
                op! {
                    let x = _mm256_set1_epi32(x);
                    two!(i => _mm256_add_epi32(acc[i], _mm256_madd_epi16(w[i], x)))
                }
            }
            #[inline(always)]
            fn i_float(self, a: Self::I) -> Self::F {
                op!([_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])])
            }
            #[inline(always)]
            fn store_i16(self, v: Self::F, out: &mut [i16; 16]) {
                op!(_mm256_storeu_si256(out.as_mut_ptr().cast(), to_words(v)))
            }
        }
    )*};
}

impl_words! { Avx2 AvxVnni }

/// Sum of the lanes: lanes i and i+4, then i+2, i+1.
#[inline(always)]
pub(super) fn sum8(a: __m256) -> f32 {
    op! {
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
    }
}

/// The largest lane.
#[inline(always)]
pub(super) fn max8(a: __m256) -> f32 {
    op! {
        let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
    }
}

/// From the eight partial sums of each of four blocks: sums of the lower four, and of the upper four; lane
/// b of each belongs to block b.
#[inline(always)]
pub(super) fn halves(s: [__m256i; 4]) -> [__m128i; 2] {
    op! {
        let all = _mm256_hadd_epi32(_mm256_hadd_epi32(s[0], s[1]), _mm256_hadd_epi32(s[2], s[3]));
        [_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all)]
    }
}

/// 32 signed activations.
#[inline(always)]
pub(super) fn load_acts(a: &[i8; 128], block: usize) -> __m256i {
    let (blocks, _) = a.as_chunks::<32>();
    op!(_mm256_loadu_si256(blocks[block].as_ptr().cast()))
}

/// acc + dot products of u8 weights and i8 activations in dwords, by 16-bit steps. Exact for weights ≤ 128:
/// two products then stay within ±2·128·127 < 2¹⁵.
#[inline(always)]
fn dot_narrow(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    op!(_mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1))))
}

/// As [`dot_narrow`] for signed weights: |w| ≤ 128 as u8, with their sign moved to the activation, which is
/// never −128.
#[inline(always)]
fn dot_signed(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
    op!(dot_narrow(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(a, w)))
}

macro_rules! impl_i4 {
    () => {
        type I4 = __m128i;

        #[inline(always)]
        fn i4_load(self, x: &[i32; 4]) -> __m128i {
            op!(_mm_loadu_si128(x.as_ptr().cast()))
        }
        #[inline(always)]
        fn i4_add(self, a: __m128i, b: __m128i) -> __m128i {
            op!(_mm_add_epi32(a, b))
        }
        #[inline(always)]
        fn i4_float(self, a: __m128i) -> __m128 {
            op!(_mm_cvtepi32_ps(a))
        }
        #[inline(always)]
        fn i4_array(self, a: __m128i) -> [i32; 4] {
            let mut out = [0; 4];
            op!(_mm_storeu_si128(out.as_mut_ptr().cast(), a));
            out
        }
    };
}
pub(super) use impl_i4;

impl Dots for Avx2 {
    impl_i4! {}
    const NARROW_MAX: u8 = 128;

    #[inline(always)]
    fn dots(self, max: u8, q: [__m256i; 4], a: &[i8; 128]) -> [__m128i; 2] {
        op! {
            let zero = _mm256_setzero_si256();
            if self.offset(max) == WIDE_OFFSET {
                let flip = _mm256_set1_epi8(-128);
                halves(four!(b => dot_signed(zero, _mm256_xor_si256(q[b], flip), load_acts(a, b))))
            } else {
                halves(four!(b => dot_narrow(zero, q[b], load_acts(a, b))))
            }
        }
    }
}

impl Dots for AvxVnni {
    impl_i4! {}
    const NARROW_MAX: u8 = 255;

    #[inline(always)]
    fn dots(self, _max: u8, q: [__m256i; 4], a: &[i8; 128]) -> [__m128i; 2] {
        op!(halves(four!(b => _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), q[b], load_acts(a, b)))))
    }
}

macro_rules! impl_panel_floats {
    () => {
        type P = [__m256i; 2];
        type PF = [__m256; 2];
        const ROWS: usize = 16;

        #[inline(always)]
        fn p_splat(self, x: i32) -> Self::P {
            op!([_mm256_set1_epi32(x); 2])
        }
        #[inline(always)]
        fn p_float(self, a: Self::P) -> Self::PF {
            op!([_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])])
        }
        #[inline(always)]
        fn pf_splat(self, x: f32) -> Self::PF {
            op!([_mm256_set1_ps(x); 2])
        }
        #[inline(always)]
        fn pf_add(self, a: Self::PF, b: Self::PF) -> Self::PF {
            op!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
        }
        #[inline(always)]
        fn pf_mul(self, a: Self::PF, b: Self::PF) -> Self::PF {
            op!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
        }
        #[inline(always)]
        fn pf_fma(self, a: Self::PF, b: Self::PF, c: Self::PF) -> Self::PF {
            op!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
        }
        #[inline(always)]
        unsafe fn pf_load(self, x: *const f32) -> Self::PF {
            op!([_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))])
        }
        #[inline(always)]
        unsafe fn pf_store(self, a: Self::PF, out: *mut f32) {
            op! {
                _mm256_storeu_ps(out, a[0]);
                _mm256_storeu_ps(out.add(8), a[1])
            }
        }
    };
}

/// Does nothing, but in its turn: else the compiler takes token after token, and all weights go through the stack.
#[target_feature(enable = "avx2")]
#[inline]
fn sums_in_turn(sums: &mut [__m256i; 2]) {
    let [a, b] = sums;
    // SAFETY: no instruction at all.
    unsafe {
        core::arch::asm!(
            "/* {0} {1} */",
            inout(ymm_reg) * a,
            inout(ymm_reg) * b,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Adds the products of step `k` to the words of each token.
///
/// # Safety
/// AVX2 is there, and step `k` within `w` and `a`: see [`Panel::p_dots`].
#[inline(always)]
unsafe fn add_words<const T: usize>(words: &mut [[__m256i; 2]; T], w: *const u8, a: *const i32, k: usize) {
    op! {
        let w = w.cast::<__m256i>();
        let w: [__m256i; 2] = two!(i => _mm256_load_si256(w.add(2 * k + i)));
        for (t, words) in words.iter_mut().enumerate() {
            let a = _mm256_set1_epi32(*a.add(k * T + t));
            *words = two!(i => _mm256_add_epi16(words[i], _mm256_maddubs_epi16(w[i], a)));
            sums_in_turn(words);
        }
    }
}

/// Adds the products of step `k` of [`Panel::p_pairs`].
///
/// # Safety
/// AVX2 is there, and `w` and `a` are as for [`Panel::p_pairs`].
#[inline(always)]
unsafe fn add_pairs<const T: usize>(acc: &mut [[__m256i; 2]; T], w: *const __m256i, a: *const i32, k: usize) {
    op! {
        for (t, acc) in acc.iter_mut().enumerate() {
            let to_even = _mm256_set1_epi32(*a.add(2 * k * T + t));
            let to_odd = _mm256_set1_epi32(*a.add((2 * k + 1) * T + t));
            let w = forgotten(w).add(4 * k);
            let mut products: [__m256i; 2] = two!(i => {
                let even = _mm256_add_epi16(to_even, _mm256_load_si256(w.add(i)));
                let odd = _mm256_add_epi16(to_odd, _mm256_load_si256(w.add(2 + i)));
                _mm256_madd_epi16(even, odd)
            });
            sums_in_turn(&mut products);
            *acc = two!(i => _mm256_add_epi32(acc[i], products[i]));
            sums_in_turn(acc);
        }
    }
}

/// `w`, of which the compiler no longer knows what it has read there: an addition that reads its operand from memory
/// takes no more time than one of registers, while a read of its own does.
#[inline(always)]
fn forgotten<T>(mut w: *const T) -> *const T {
    // SAFETY: no instruction at all.
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) w, options(readonly, nostack, preserves_flags));
    }
    w
}

impl Panel for Avx2 {
    impl_panel_floats! {}
    const TOKENS: usize = 4;
    const LEVELS: Levels = Levels::In16;
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
            if LEVEL == 0 {
                let w = w.cast::<__m256i>();
                for k in 0..steps {
                    let w: [__m256i; 2] = two!(i => _mm256_load_si256(w.add(2 * k + i)));
                    for (t, acc) in acc.iter_mut().enumerate() {
                        let a = _mm256_set1_epi32(*a.add(k * T + t));
                        *acc = two!(i => dot_signed(acc[i], w[i], a));
                    }
                }
            } else {
                let level = LEVEL.min(steps);
                for from in (0..steps).step_by(level) {
                    let (w, a) = (w.add(64 * from), a.add(T * from));
                    acc = self.p_words(acc, [0; T], w, a, level, None);
                }
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn p_words<const T: usize>(
        self,
        mut acc: [Self::P; T],
        start: [i32; T],
        w: *const u8,
        a: *const i32,
        steps: usize,
        scales: Option<*const i32>,
    ) -> [Self::P; T] {
        op! {
            let mut words = start.map(|start| [_mm256_set1_epi32(start); 2]);
            for k in 0..steps {
                add_words(&mut words, w, a, k);
            }
            let scales = match scales {
                Some(scales) => two!(i => _mm256_load_si256(scales.cast::<__m256i>().add(i))),
                None => [_mm256_set1_epi16(1); 2],
            };
            for (acc, words) in acc.iter_mut().zip(words) {
                *acc = two!(i => _mm256_add_epi32(acc[i], _mm256_madd_epi16(words[i], scales[i])));
            }
            acc
        }
    }

    #[inline(always)]
    fn prefers_pairs(self) -> bool {
        has_one_multiplier()
    }

    #[inline(always)]
    fn p_store_pairs(self, columns: [__m256i; 8], set: usize, out: &mut [u8]) {
        op! {
            let mut less = _mm256_setzero_si256();
            for (k, column) in columns.into_iter().enumerate() {
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(column));
                let odd = _mm256_srai_epi16::<8>(column);
                less = _mm256_sub_epi32(less, _mm256_madd_epi16(even, odd));
                self.b_store(even, eight_rows(out, 2 * k * Self::ROWS + set));
                self.b_store(odd, eight_rows(out, (2 * k + 1) * Self::ROWS + set));
            }
            self.b_store(less, eight_rows(out, 16 * Self::ROWS + set));
        }
    }

    #[inline(always)]
    unsafe fn p_pairs<const T: usize>(self, w: *const u8, a: *const i32) -> [Self::P; T] {
        op! {
            let w = w.cast::<__m256i>();
            let less: [__m256i; 2] = two!(i => _mm256_load_si256(w.add(32 + i)));
            let mut acc = [less; T];
            for (t, acc) in acc.iter_mut().enumerate() {
                let less = _mm256_set1_epi32(*a.add(16 * T + t));
                *acc = two!(i => _mm256_add_epi32(acc[i], less));
            }
            // A loop of eight is not unrolled.
            eight!(k => add_pairs(&mut acc, w, a, k));
            acc
        }
    }
}

impl Panel for AvxVnni {
    impl_panel_floats! {}
    const TOKENS: usize = 3;
    const LEVELS: Levels = Levels::All32;

    #[inline(always)]
    unsafe fn p_dots<const T: usize, const LEVEL: usize>(
        self,
        mut acc: [Self::P; T],
        w: *const u8,
        a: *const i32,
        steps: usize,
    ) -> [Self::P; T] {
        op! {
            let w = w.cast::<__m256i>();
            for k in 0..steps {
                let w: [__m256i; 2] = two!(i => _mm256_load_si256(w.add(2 * k + i)));
                for (t, acc) in acc.iter_mut().enumerate() {
                    let a = _mm256_set1_epi32(*a.add(k * T + t));
                    *acc = two!(i => _mm256_dpbusd_avx_epi32(acc[i], w[i], a));
                }
            }
            acc
        }
    }
}
