//! Two rows of formats with blocks of 256 values.
use super::pair::{Factors, Pair, each, lanes, looked_up, nibbles, op};
use crate::format::blocks::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};
use crate::format::{three_bits, two_bits};
use crate::isa::{Avx2, four, two};
use std::arch::x86_64::*;

/// The f16 of each row, in all dwords of the row's lane.
#[inline(always)]
fn halves(a: [u8; 2], b: [u8; 2]) -> __m256 {
    let [a, b] = [a, b].map(u16::from_le_bytes);
    op! {
        let both = _mm_cvtph_ps(_mm_cvtsi32_si128((u32::from(a) | u32::from(b) << 16) as i32));
        _mm256_permutevar8x32_ps(_mm256_castps128_ps256(both), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1))
    }
}

/// Four bytes of each row, in all dwords of the row's lane.
#[inline(always)]
fn words(a: [u8; 4], b: [u8; 4]) -> __m256i {
    let [a, b] = [a, b].map(i32::from_le_bytes);
    op!(_mm256_setr_epi32(a, a, a, a, b, b, b, b))
}

/// As [`words`], of the three of twelve bytes.
#[inline(always)]
fn three_words(a: &[u8; 12], b: &[u8; 12]) -> [__m256i; 3] {
    let (a, b) = (a.as_chunks().0, b.as_chunks().0);
    [words(a[0], b[0]), words(a[1], b[1]), words(a[2], b[2])]
}

/// Dword i of each lane: byte `from + step · i` of the lane of `bytes`, as its lowest byte.
#[inline(always)]
fn spread(bytes: __m256i, from: usize, step: usize) -> __m256i {
    op!(_mm256_shuffle_epi8(bytes, each(four!(i => !0xff_i32 | (from + step * i as usize) as i32))))
}

/// Words 2i and 2i + 1 of the first lane: byte `from + 2 · i` of that lane of `bytes`; of the second lane the next byte.
#[inline(always)]
fn scales_of_sixteens(bytes: __m256i, from: usize) -> __m256i {
    op! {
        let [a, b] = two!(h => four!(i => {
            let at = (from + h + 2 * i as usize) as u32;
            (0xff00_ff00 | at << 16 | at) as i32
        }));
        let index = _mm256_setr_epi32(a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]);
        _mm256_shuffle_epi8(bytes, index)
    }
}

impl Pair for Q2K {
    const LARGEST: u8 = 3;
    const SCALED: bool = true;

    #[inline(always)]
    fn unpack_row(simd: Avx2, row: &[Self], half: usize) -> [__m256i; 4] {
        two_bits(simd, &row[0].qs.as_chunks().0[half])
    }

    #[inline(always)]
    fn scales(row: &[Self], half: usize) -> __m256i {
        op! {
            let scales = _mm256_broadcastsi128_si256(_mm_loadu_si128(row[0].scales.as_ptr().cast()));
            scales_of_sixteens(_mm256_and_si256(scales, _mm256_set1_epi8(15)), 8 * half)
        }
    }

    #[inline(always)]
    fn factors(_: Avx2, [a, b]: [&[Self]; 2], half: usize) -> Factors {
        let d = halves(a[0].d, b[0].d);
        op! {
            let dmin = _mm256_xor_ps(halves(a[0].dmin, b[0].dmin), _mm256_set1_ps(-0.0));
            let mins = _mm256_srli_epi16::<4>(lanes(&a[0].scales, &b[0].scales));
            let mins = _mm256_and_si256(mins, _mm256_set1_epi8(15));
            let m = two!(h => _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(spread(mins, 8 * half + h, 2))));
            Factors { d: [d, d], m }
        }
    }
}

impl Pair for Q3K {
    // Without the scales the weights are 0..8, four more than their values.
    const LARGEST: u8 = 7;
    const LESS: i32 = 4;
    const SCALED: bool = true;

    #[inline(always)]
    fn unpack_row(simd: Avx2, row: &[Self], half: usize) -> [__m256i; 4] {
        three_bits(simd, &row[0], half)
    }

    #[inline(always)]
    fn scales(row: &[Self], half: usize) -> __m256i {
        let (fours, rest) = row[0].scales.as_chunks::<8>();
        let (fours, top) = (i64::from_le_bytes(fours[0]), rest.as_chunks().0[0]);
        op! {
            // Scales 0..4 and 4..8, then 8..12 and 12..16: four bits of each, and two above them.
            let low = _mm256_srlv_epi32(_mm256_set1_epi64x(fours), each([0, 0, 4, 4]));
            let top = _mm256_srlv_epi32(_mm256_set1_epi32(i32::from_le_bytes(top)), each([0, 2, 4, 6]));
            let top = _mm256_slli_epi16::<4>(_mm256_and_si256(top, _mm256_set1_epi8(3)));
            let scales = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)), top);
            _mm256_sub_epi16(scales_of_sixteens(scales, 8 * half), _mm256_set1_epi16(32))
        }
    }

    #[inline(always)]
    fn factors(_: Avx2, [a, b]: [&[Self]; 2], _: usize) -> Factors {
        let d = halves(a[0].d, b[0].d);
        Factors { d: [d, d], m: op!([_mm256_setzero_ps(); 2]) }
    }
}

/// Scales and negative mins of the four runs of a half, as Q4_K and Q5_K pack them; a type's `d` and `dmin`.
macro_rules! packed_factors {
    () => {
        #[inline(always)]
        fn factors(_: Avx2, [a, b]: [&[Self]; 2], half: usize) -> Factors {
            let [low, high, top] = three_words(&a[0].scales, &b[0].scales);
            let d = halves(a[0].d, b[0].d);
            op! {
                let dmin = _mm256_xor_ps(halves(a[0].dmin, b[0].dmin), _mm256_set1_ps(-0.0));
                // Dwords: four scales, four mins.
                let first = _mm256_blend_epi32::<0b1010_1010>(low, high);
                let bytes = if half == 0 {
                    _mm256_and_si256(first, _mm256_set1_epi8(0x3f))
                } else {
                    let low = _mm256_and_si256(_mm256_srlv_epi32(top, each([0, 4, 0, 4])), _mm256_set1_epi8(15));
                    let high = _mm256_and_si256(_mm256_srli_epi32::<2>(first), _mm256_set1_epi8(0x30));
                    _mm256_or_si256(low, high)
                };
                let d = _mm256_mul_ps(d, _mm256_cvtepi32_ps(spread(bytes, 0, 1)));
                let m = _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(spread(bytes, 4, 1)));
                Factors { d: [d, d], m: [m, m] }
            }
        }
    };
}

/// The nibbles of a half, as Q4_K and Q5_K order them.
#[inline(always)]
fn runs(a: &[u8; 128], b: &[u8; 128], half: usize) -> [[__m256i; 2]; 4] {
    let (a, b) = (a.as_chunks().0, b.as_chunks().0);
    let [p, q, r, s] = four!(i => nibbles(lanes(&a[4 * half + i], &b[4 * half + i])));
    [[p[0], q[0]], [p[1], q[1]], [r[0], s[0]], [r[1], s[1]]]
}

impl Pair for Q4K {
    #[inline(always)]
    fn unpack_pair(_: Avx2, [a, b]: [&[Self]; 2], half: usize) -> [[__m256i; 2]; 4] {
        runs(&a[0].qs, &b[0].qs, half)
    }

    packed_factors! {}
}

impl Pair for Q5K {
    #[inline(always)]
    fn unpack_pair(_: Avx2, [a, b]: [&[Self]; 2], half: usize) -> [[__m256i; 2]; 4] {
        let low = runs(&a[0].qs, &b[0].qs, half);
        let (a, b) = (a[0].qh.as_chunks().0, b[0].qh.as_chunks().0);
        let fifth = two!(h => lanes(&a[h], &b[h]));
        op! {
            let mask = _mm256_set1_epi8(16);
            let fifth = two!(h => {
                let fifth = if half == 0 { fifth[h] } else { _mm256_srli_epi16::<4>(fifth[h]) };
                [
                    _mm256_slli_epi16::<4>(fifth),
                    _mm256_slli_epi16::<3>(fifth),
                    _mm256_slli_epi16::<2>(fifth),
                    _mm256_slli_epi16::<1>(fifth),
                ]
            });
            four!(k => two!(h => _mm256_or_si256(low[k][h], _mm256_and_si256(fifth[h][k], mask))))
        }
    }

    packed_factors! {}
}

impl Pair for Q6K {
    #[inline(always)]
    fn factors(_: Avx2, [a, b]: [&[Self]; 2], half: usize) -> Factors {
        let d = halves(a[0].d, b[0].d);
        let scales = lanes(&a[0].scales, &b[0].scales);
        op! {
            let d = two!(h => {
                let scales = _mm256_slli_epi32::<24>(spread(scales, 8 * half + h, 2));
                _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(scales)))
            });
            Factors { d, m: [_mm256_setzero_ps(); 2] }
        }
    }
}

impl Pair for Iq4Xs {
    #[inline(always)]
    fn unpack_pair(_: Avx2, [a, b]: [&[Self]; 2], half: usize) -> [[__m256i; 2]; 4] {
        let (a, b) = (a[0].qs.as_chunks().0, b[0].qs.as_chunks().0);
        four!(i => looked_up(lanes(&a[4 * half + i], &b[4 * half + i])))
    }

    #[inline(always)]
    fn factors(_: Avx2, [a, b]: [&[Self]; 2], half: usize) -> Factors {
        let (a, b) = (&a[0], &b[0]);
        let d = halves(a.d, b.d);
        let low = words(a.scales_l, b.scales_l);
        let [top_a, top_b] = [a.scales_h, b.scales_h].map(|[x, y]| [x, y, 0, 0]);
        let h = 16 * half as i32;
        op! {
            let low = _mm256_srlv_epi32(low, each([h, h + 4, h + 8, h + 12]));
            // Two bits of each, four above their place.
            let top = _mm256_slli_epi32::<4>(words(top_a, top_b));
            let h = h / 2;
            let top = _mm256_srlv_epi32(top, each([h, h + 2, h + 4, h + 6]));
            let scales = _mm256_or_si256(
                _mm256_and_si256(low, _mm256_set1_epi32(15)),
                _mm256_and_si256(top, _mm256_set1_epi32(0x30)),
            );
            let d = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_sub_epi32(scales, _mm256_set1_epi32(32))));
            Factors { d: [d, d], m: [_mm256_setzero_ps(); 2] }
        }
    }
}
