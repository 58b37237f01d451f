//! The x86-64 instruction sets: their tokens and the byte operations they share.
use super::{Bytes, Isa, Op, Simd, four};
use half::f16;
use std::arch::x86_64::*;
use std::sync::LazyLock;

/// Wraps instructions of a token's own set.
macro_rules! op {
    ($($body:tt)*) => {
        // SAFETY: the token was made by `new`, which saw every feature that these instructions need; memory
        // is reached only through references to arrays of the size that is read or written.
        unsafe { $($body)* }
    };
}
pub(super) use op;

/// Declares a token. The one list of features makes both the detection and the `target_feature`.
macro_rules! tokens {
    ($($(#[$doc:meta])* $name:ident = [$($feature:tt),*];)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name(());

        impl $name {
            /// The token, if this machine has all of the instruction set.
            #[inline]
            pub fn new() -> Option<Self> {
                (true $(&& is_x86_feature_detected!($feature))*).then_some(Self(()))
            }
        }

        impl Simd for $name {
            const ISA: Isa = Isa::$name;

            #[inline(always)]
            fn run<O: Op>(self, op: O) -> O::Output {
                $(#[target_feature(enable = $feature)])*
                fn inner<O: Op>(simd: $name, op: O) -> O::Output {
                    op.call(simd)
                }
                // SAFETY: the token was made by `new`, which saw every feature of `inner`.
                unsafe { inner(self, op) }
            }
        }
    )*};
}

tokens! {
    /// 256-bit vectors: AVX2 with FMA and f16 conversion (Haswell 2013, Zen 2017).
    Avx2 = ["avx2", "fma", "f16c"];
    /// AVX2 with 8-bit dot products in 256-bit vectors (Alder Lake 2021, Zen 5).
    AvxVnni = ["avx2", "fma", "f16c", "avxvnni"];
    /// 512-bit vectors with 8-bit dot products, byte permutes and products of bit matrices (Ice Lake 2019, Zen 4).
    Avx512Vnni = [
        "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512vbmi", "gfni"
    ];
}

/// Byte i of the result tells whether bit i of `bits` is set (0xff) or not (0).
#[inline(always)]
fn spread_bits(bits: u32) -> __m256i {
    op! {
        let bytes = _mm256_shuffle_epi8(
            _mm256_set1_epi32(bits as i32),
            _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303),
        );
        own_bits(bytes)
    }
}

/// Byte i of the result tells whether bit i % 8 of byte i is set (0xff) or not (0).
#[inline(always)]
pub(crate) fn own_bits(bytes: __m256i) -> __m256i {
    op! {
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
    }
}

/// Columns `4 * half..4 * half + 4` of 8 × 8 dwords.
#[inline(always)]
fn columns(rows: [&[u8; 32]; 8], half: usize) -> [__m256i; 4] {
    op! {
        // Halves of rows are put together as they are loaded, which costs less than to exchange lanes.
        let r: [__m256i; 4] = four!(i => {
            let low = _mm_loadu_si128(rows[i].as_ptr().add(16 * half).cast());
            _mm256_set_m128i(_mm_loadu_si128(rows[i + 4].as_ptr().add(16 * half).cast()), low)
        });
        let lo = |a, b| _mm256_unpacklo_epi32(a, b);
        let hi = |a, b| _mm256_unpackhi_epi32(a, b);
        let s = [lo(r[0], r[1]), hi(r[0], r[1]), lo(r[2], r[3]), hi(r[2], r[3])];
        let lo = |a, b| _mm256_unpacklo_epi64(a, b);
        let hi = |a, b| _mm256_unpackhi_epi64(a, b);
        [lo(s[0], s[2]), hi(s[0], s[2]), lo(s[1], s[3]), hi(s[1], s[3])]
    }
}

/// Transposes 8 × 8 dwords.
#[inline(always)]
fn transpose8(rows: [&[u8; 32]; 8]) -> [__m256i; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (columns(rows, 0), columns(rows, 1));
    [a, b, c, d, e, f, g, h]
}

macro_rules! impl_bytes {
    ($($token:ident: $bits:ident;)*) => {$(
        impl Bytes for $token {
            type B = __m256i;
            type F4 = __m128;

            #[inline(always)]
            fn b_splat(self, x: u8) -> __m256i {
                op!(_mm256_set1_epi8(x as i8))
            }
            #[inline(always)]
            fn b_pair(self, lo: u8, hi: u8) -> __m256i {
                op!(_mm256_set_m128i(_mm_set1_epi8(hi as i8), _mm_set1_epi8(lo as i8)))
            }
            #[inline(always)]
            fn b_load(self, x: &[u8; 32]) -> __m256i {
                op!(_mm256_loadu_si256(x.as_ptr().cast()))
            }
            #[inline(always)]
            fn b_words(self, lo: u64, hi: u64) -> __m256i {
                op!(_mm256_setr_epi64x(lo as i64, 0, hi as i64, 0))
            }
            #[inline(always)]
            fn b_load_twice(self, x: &[u8; 16]) -> __m256i {
                op!(_mm256_broadcastsi128_si256(_mm_loadu_si128(x.as_ptr().cast())))
            }
            #[inline(always)]
            fn b_nibbles(self, x: &[u8; 16]) -> __m256i {
                op! {
                    let lo = _mm_loadu_si128(x.as_ptr().cast());
                    let both = _mm256_set_m128i(_mm_srli_epi16::<4>(lo), lo);
                    _mm256_and_si256(both, _mm256_set1_epi8(15))
                }
            }
            #[inline(always)]
            fn b_bits(self, bits: u32, value: u8) -> __m256i {
                $bits(bits, value)
            }
            #[inline(always)]
            fn b_store(self, v: __m256i, out: &mut [u8; 32]) {
                op!(_mm256_storeu_si256(out.as_mut_ptr().cast(), v))
            }
            #[inline(always)]
            fn b_and(self, a: __m256i, b: __m256i) -> __m256i {
                op!(_mm256_and_si256(a, b))
            }
            #[inline(always)]
            fn b_or(self, a: __m256i, b: __m256i) -> __m256i {
                op!(_mm256_or_si256(a, b))
            }
            #[inline(always)]
            fn b_xor(self, a: __m256i, b: __m256i) -> __m256i {
                op!(_mm256_xor_si256(a, b))
            }
            #[inline(always)]
            fn b_add(self, a: __m256i, b: __m256i) -> __m256i {
                op!(_mm256_add_epi8(a, b))
            }
            #[inline(always)]
            fn b_sub(self, a: __m256i, b: __m256i) -> __m256i {
                op!(_mm256_sub_epi8(a, b))
            }
            #[inline(always)]
            fn b_shr<const N: u32>(self, a: __m256i) -> __m256i {
                op! {
                    let shifted = _mm256_srl_epi16(a, _mm_cvtsi32_si128(N as i32));
                    _mm256_and_si256(shifted, _mm256_set1_epi8((0xff_u8 >> N) as i8))
                }
            }
            #[inline(always)]
            fn b_shl<const N: u32>(self, a: __m256i) -> __m256i {
                op! {
                    let shifted = _mm256_sll_epi16(a, _mm_cvtsi32_si128(N as i32));
                    _mm256_and_si256(shifted, _mm256_set1_epi8((0xff_u8 << N) as i8))
                }
            }
            #[inline(always)]
            fn b_lut(self, table: __m256i, index: __m256i) -> __m256i {
                op!(_mm256_shuffle_epi8(table, index))
            }
            #[inline(always)]
            fn b_transpose(self, rows: [&[u8; 32]; 8]) -> [__m256i; 8] {
                transpose8(rows)
            }
            #[inline(always)]
            fn f4_splat(self, x: f32) -> __m128 {
                op!(_mm_set1_ps(x))
            }
            #[inline(always)]
            fn f4_load(self, x: &[f32; 4]) -> __m128 {
                op!(_mm_loadu_ps(x.as_ptr()))
            }
            #[inline(always)]
            fn f4_f16(self, x: [[u8; 2]; 4]) -> __m128 {
                let [a, b, c, d] = x.map(|x| i16::from_le_bytes(x));
                op!(_mm_cvtph_ps(_mm_setr_epi16(a, b, c, d, 0, 0, 0, 0)))
            }
            #[inline(always)]
            fn f4_f16_splat(self, x: [u8; 2]) -> __m128 {
                op!(_mm_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(x))))
            }
            #[inline(always)]
            fn f4_i32(self, x: [i32; 4]) -> __m128 {
                op!(_mm_cvtepi32_ps(_mm_loadu_si128(x.as_ptr().cast())))
            }
            #[inline(always)]
            fn f4_u8(self, x: [u8; 4]) -> __m128 {
                op!(_mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(i32::from_le_bytes(x)))))
            }
            #[inline(always)]
            fn f4_i8(self, x: [i8; 4]) -> __m128 {
                let x = i32::from_le_bytes(x.map(|x| x as u8));
                op!(_mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(x))))
            }
            #[inline(always)]
            fn b_floats(self, a: __m128, b: __m128) -> __m256i {
                op!(_mm256_castps_si256(_mm256_set_m128(b, a)))
            }
            #[inline(always)]
            fn f4_array(self, a: __m128) -> [f32; 4] {
                let mut out = [0.0; 4];
                op!(_mm_storeu_ps(out.as_mut_ptr(), a));
                out
            }
            #[inline(always)]
            fn f4_mul(self, a: __m128, b: __m128) -> __m128 {
                op!(_mm_mul_ps(a, b))
            }
            #[inline(always)]
            fn f4_fma(self, a: __m128, b: __m128, c: __m128) -> __m128 {
                op!(_mm_fmadd_ps(a, b, c))
            }
            #[inline(always)]
            fn f4_sum(self, a: __m128) -> f32 {
                op! {
                    let pairs = _mm_add_ps(a, _mm_movehdup_ps(a));
                    _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)))
                }
            }
        }
    )*};
}

/// Bytes `value` where bits are set.
#[inline(always)]
fn select_bits(bits: u32, value: u8) -> __m256i {
    op!(_mm256_and_si256(spread_bits(bits), _mm256_set1_epi8(value as i8)))
}

/// Bytes `value` where bits are set, by a mask.
#[inline(always)]
fn mask_bits(bits: u32, value: u8) -> __m256i {
    op!(_mm256_maskz_set1_epi8(bits, value as i8))
}

impl_bytes! {
    Avx2: select_bits;
    AvxVnni: select_bits;
    Avx512Vnni: mask_bits;
}

/// Whether this processor has AVX2 and starts only one multiplication of integer vectors a cycle, where others start two:
/// Haswell, Broadwell, Zen (also as Hygon's) and Zen 2, by their `vpmaddwd` in <https://uops.info/table.html>.
pub(super) fn has_one_multiplier() -> bool {
    static KNOWN: LazyLock<bool> = LazyLock::new(|| {
        // Family, model and their extensions: Intel's manual, volume 2, CPUID, leaf 1.
        let signature = __cpuid(1).eax;
        let family = (signature >> 8 & 15) + (signature >> 20 & 255);
        let model = signature >> 4 & 15 | signature >> 12 & 0xf0;
        match family {
            6 => matches!(model, 0x3c | 0x3d | 0x3f | 0x45 | 0x46 | 0x47 | 0x4f | 0x56),
            0x17 | 0x18 => true,
            _ => false,
        }
    });
    *KNOWN
}

/// How many of up to 16 values of a slice there are.
#[inline(always)]
pub(super) fn part_len<T>(x: &[T]) -> usize {
    x.len().min(16)
}

/// The address of f16 values as vector loads want it.
#[inline(always)]
pub(super) fn f16_ptr(x: &[f16; 16]) -> *const __m256i {
    x.as_ptr().cast()
}
