//! Two rows of formats with blocks of 256 values.
use super::pair::{Factors, NEIGHBOURS, OTHERS, Pair, each, lanes, looked_up, nibbles, op};
use crate::format::blocks::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};
use crate::format::{Quantised, three_bits, two_bits};
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
    fn unpack(simd: Avx2, row: &[Self], half: usize) -> [__m256i; 4] {
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
    fn unpack(simd: Avx2, row: &[Self], half: usize) -> [__m256i; 4] {
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

/// The bytes at four offsets from each place of a half's classes, as dwords: the first row's offset, then the second's.
#[inline(always)]
fn by_class(bytes: __m128i, classes: [usize; 8], offsets: [usize; 2]) -> __m256i {
    let [a, b, c, d, e, f, g, h] =
        std::array::from_fn(|i| !0xff_i32 | (classes[i] + offsets[i % 4 / 2]) as i32);
    op!(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), _mm256_setr_epi32(a, b, c, d, e, f, g, h)))
}

/// Four dwords.
#[inline(always)]
fn dwords(x: [[u8; 4]; 4]) -> __m128i {
    let [a, b, c, d] = x.map(i32::from_le_bytes);
    op!(_mm_setr_epi32(a, b, c, d))
}

/// The words of both rows.
#[inline(always)]
fn both([a, b]: [u8; 2], [c, d]: [u8; 2]) -> [u8; 4] {
    [a, b, c, d]
}

/// Scales and negative mins of the four runs of a half, as Q4_K and Q5_K pack them; a type's `d` and `dmin`.
macro_rules! packed_factors {
    () => {
        const CLASSES: [usize; 8] = OTHERS;

        #[inline(always)]
        fn factors(_: Avx2, [a, b]: [&[Self]; 2], half: usize) -> Factors {
            let (a, b) = (&a[0], &b[0]);
            let ([low_a, high_a, top_a], [low_b, high_b, top_b]) = (words(&a.scales), words(&b.scales));
            op! {
                // Both rows' scales, then their mins.
                let first = dwords([low_a, low_b, high_a, high_b]);
                let bytes = if half == 0 {
                    _mm_and_si128(first, _mm_set1_epi8(0x3f))
                } else {
                    let top = _mm_srlv_epi32(dwords([top_a, top_b, top_a, top_b]), _mm_setr_epi32(0, 0, 4, 4));
                    let high = _mm_and_si128(_mm_srli_epi32::<2>(first), _mm_set1_epi8(0x30));
                    _mm_or_si128(_mm_and_si128(top, _mm_set1_epi8(15)), high)
                };
                let both = _mm_cvtph_ps(dwords([both(a.d, b.d), both(a.dmin, b.dmin), [0; 4], [0; 4]]));
                let (d, dmin) = (_mm_unpacklo_ps(both, both), _mm_unpackhi_ps(both, both));
                let (d, dmin) = (_mm256_set_m128(d, d), _mm256_set_m128(dmin, dmin));
                let dmin = _mm256_xor_ps(dmin, _mm256_set1_ps(-0.0));
                let d = _mm256_mul_ps(d, _mm256_cvtepi32_ps(by_class(bytes, Self::CLASSES, [0, 4])));
                let m = _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(by_class(bytes, Self::CLASSES, [8, 12])));
                Factors { d: [d, d], m: [m, m] }
            }
        }
    };
}

/// The three words of twelve bytes.
#[inline(always)]
fn words(x: &[u8; 12]) -> [[u8; 4]; 3] {
    let x = x.as_chunks().0;
    [x[0], x[1], x[2]]
}

/// The nibbles of a half, as Q4_K and Q5_K order them: the first and second sixteens of the even runs, then of the odd.
#[inline(always)]
fn runs(qs: &[u8; 128], half: usize) -> [__m256i; 4] {
    let qs = qs.as_chunks().0;
    let [[even, odd], [even2, odd2]] = two!(i => nibbles(lanes(&qs[4 * half + i], &qs[4 * half + 2 + i])));
    [even, even2, odd, odd2]
}

impl Pair for Q4K {
    #[inline(always)]
    fn unpack(_: Avx2, row: &[Self], half: usize) -> [__m256i; 4] {
        runs(&row[0].qs, half)
    }

    packed_factors! {}
}

impl Pair for Q5K {
    #[inline(always)]
    fn unpack(_: Avx2, row: &[Self], half: usize) -> [__m256i; 4] {
        let low = runs(&row[0].qs, half);
        let qh: &[[u8; 16]] = row[0].qh.as_chunks().0;
        op! {
            // The even runs' bits at bit 4 · half of a lane each, the odd runs' behind them.
            let fifth = two!(h => {
                let qh = _mm_loadu_si128(qh[h].as_ptr().cast());
                let qh = _mm256_set_m128i(_mm_srli_epi16::<2>(qh), qh);
                if half == 0 {
                    [_mm256_slli_epi16::<4>(qh), _mm256_slli_epi16::<3>(qh)]
                } else {
                    [qh, _mm256_srli_epi16::<1>(qh)]
                }
            });
            let mask = _mm256_set1_epi8(16);
            four!(i => _mm256_or_si256(low[i], _mm256_and_si256(fifth[i % 2][i / 2], mask)))
        }
    }

    packed_factors! {}
}

impl Pair for Q6K {
    #[inline(always)]
    fn unpack(simd: Avx2, row: &[Self], half: usize) -> [__m256i; 4] {
        Self::unpack128(simd, row, half).q
    }

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
    const CLASSES: [usize; 8] = NEIGHBOURS;

    #[inline(always)]
    fn unpack(_: Avx2, row: &[Self], half: usize) -> [__m256i; 4] {
        let qs = row[0].qs.as_chunks().0;
        let [[p, q], [r, s]] = two!(i => looked_up(lanes(&qs[4 * half + 2 * i], &qs[4 * half + 2 * i + 1])));
        [p, q, r, s]
    }

    #[inline(always)]
    fn factors(_: Avx2, [a, b]: [&[Self]; 2], half: usize) -> Factors {
        let (a, b) = (&a[0], &b[0]);
        // By class, a row's bits: shifts of four, and of two.
        let shifts = |bits: usize| Self::CLASSES.map(|class| (bits * (4 * half + class)) as i32);
        op! {
            let of_rows = |a: i32, b: i32| _mm256_setr_epi32(a, a, b, b, a, a, b, b);
            let low = of_rows(i32::from_le_bytes(a.scales_l), i32::from_le_bytes(b.scales_l));
            let [top_a, top_b] = [a.scales_h, b.scales_h].map(|x| i32::from(u16::from_le_bytes(x)));
            let [fours, twos] = [shifts(4), shifts(2)];
            let low = _mm256_srlv_epi32(low, _mm256_loadu_si256(fours.as_ptr().cast()));
            // Two bits of each, four above their place.
            let top = _mm256_srlv_epi32(of_rows(top_a << 4, top_b << 4), _mm256_loadu_si256(twos.as_ptr().cast()));
            let scales = _mm256_or_si256(
                _mm256_and_si256(low, _mm256_set1_epi32(15)),
                _mm256_and_si256(top, _mm256_set1_epi32(0x30)),
            );
            let d = _mm_cvtph_ps(dwords([both(a.d, b.d), [0; 4], [0; 4], [0; 4]]));
            let d = _mm_unpacklo_ps(d, d);
            let d = _mm256_set_m128(d, d);
            let d = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_sub_epi32(scales, _mm256_set1_epi32(32))));
            Factors { d: [d, d], m: [_mm256_setzero_ps(); 2] }
        }
    }
}
