//! Four rows of formats with blocks of 256 values.
use super::wide::{Layout, Wide, lanes_of, op, reduce};
use super::wide32::{AND_OR, Aligned, table};
use crate::format::IQ4_BIASED;
use crate::format::blocks::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};
use crate::isa::{Avx512Vnni, four, two};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// Lanes 0 and 2, or 1 and 3, of two vectors.
const EVEN: i32 = 0x88;
const ODD: i32 = 0xdd;
/// The lower, or the upper, two lanes of two vectors.
const LOWER: i32 = 0x44;
const UPPER: i32 = 0xee;

/// Sixteen bytes of each row, a row to a lane.
#[inline(always)]
unsafe fn gather(rows: [*const u8; 4], offset: usize) -> __m512i {
    op!(lanes_of(four!(r => rows[r].add(offset))))
}

/// The f16 at `offset` of row r as dword r of each lane.
#[inline(always)]
unsafe fn halves(rows: [*const u8; 4], offset: usize) -> __m512 {
    op! {
        let [a, b, c, d] = four!(r => u64::from(rows[r].add(offset).cast::<u16>().read_unaligned()));
        let words = _mm_cvtsi64_si128((a | b << 16 | c << 32 | d << 48) as i64);
        _mm512_broadcast_f32x4(_mm_cvtph_ps(words))
    }
}

/// Byte `byte` of dword r of lane l: byte `first + at[l]` of lane r of a vector of rows.
const fn from_rows(first: u8, at: [u8; 4], byte: usize) -> Aligned<[u8; 64]> {
    let mut index = [0; 64];
    let mut i = 0;
    while i < 16 {
        index[4 * i + byte] = 16 * (i % 4) as u8 + first + at[i / 4];
        i += 1;
    }
    Aligned(index)
}

/// The bytes that a table of [`from_rows`] with byte 0 names, as dwords.
#[inline(always)]
fn dwords(index: &'static Aligned<[u8; 64]>, bytes: __m512i) -> __m512i {
    op!(_mm512_maskz_permutexvar_epi8(0x1111_1111_1111_1111, table(index), bytes))
}

/// Those bytes as f32.
#[inline(always)]
fn floats(index: &'static Aligned<[u8; 64]>, bytes: __m512i) -> __m512 {
    op!(_mm512_cvtepi32_ps(dwords(index, bytes)))
}

/// Of Q4_K and Q5_K, scales and mins of the runs of each half, in the order of classes 0, 2, 1, 3.
#[inline(always)]
unsafe fn scales_and_mins(rows: [*const u8; 4]) -> [(__m512, __m512); 2] {
    static SCALES: [Aligned<[u8; 64]>; 2] = [from_rows(0, [0, 2, 1, 3], 0), from_rows(8, [0, 2, 1, 3], 0)];
    static MINS: [Aligned<[u8; 64]>; 2] = [from_rows(4, [0, 2, 1, 3], 0), from_rows(12, [0, 2, 1, 3], 0)];
    op! {
        // Of each row: d and dmin, then three words of packed scales and mins.
        let head = gather(rows, 0);
        let each = |a, b, c, d| _mm512_broadcast_i32x4(_mm_setr_epi32(a, b, c, d));
        let low = _mm512_srlv_epi32(_mm512_shuffle_epi32::<0b11_11_10_01>(head), each(0, 0, 0, 4));
        let low = _mm512_and_si512(low, each(0x3f3f_3f3f, 0x3f3f_3f3f, 0x0f0f_0f0f, 0x0f0f_0f0f));
        let high = _mm512_srli_epi32::<2>(_mm512_shuffle_epi32::<0b10_01_01_01>(head));
        // Of each row: the first four scales and mins, then the other four.
        let bytes = _mm512_ternarylogic_epi32::<AND_OR>(high, each(0, 0, 0x3030_3030, 0x3030_3030), low);
        let (d, dmin) = (halves(rows, 0), halves(rows, 2));
        two!(h => (_mm512_mul_ps(floats(&SCALES[h], bytes), d), _mm512_mul_ps(floats(&MINS[h], bytes), dmin)))
    }
}

/// The activations as the low and high nibbles of Q4_K and Q5_K meet them: the first sixteens of the even runs,
/// the second ones, and the same of the odd runs.
const NIBBLE_ORDER: &[usize] = &[0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

/// Steps of Q4_K and Q5_K: `unpack` gives the four vectors in that order.
macro_rules! nibble_step {
    ($format:ident, $unpack:expr) => {
        impl Wide for $format {
            const STEP: usize = 256;
            const ORDER: &'static [usize] = NIBBLE_ORDER;
            const CLASSES: [usize; 4] = [0, 2, 1, 3];
            const SUMS: &'static [[(usize, usize); 4]] = &[];

            #[inline(always)]
            unsafe fn step(
                _: Avx512Vnni,
                rows: [*const u8; 4],
                acts: &Layout,
                s: usize,
                acc: __m512,
            ) -> __m512 {
                op! {
                    let sums = four!(r => {
                        let w = $unpack(rows[r]);
                        let even = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[0], acts.q(4 * s));
                        let odd = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[2], acts.q(4 * s + 2));
                        (
                            _mm512_dpbusd_epi32(even, w[1], acts.q(4 * s + 1)),
                            _mm512_dpbusd_epi32(odd, w[3], acts.q(4 * s + 3)),
                        )
                    });
                    let even = reduce(four!(r => sums[r].0));
                    let odd = reduce(four!(r => sums[r].1));
                    let [(d0, m0), (d1, m1)] = scales_and_mins(rows);
                    let acc = acts.chain(2 * s, _mm512_shuffle_i32x4::<LOWER>(even, odd), d0, acc);
                    let acc = _mm512_fnmadd_ps(m0, acts.scaled(0, 2 * s), acc);
                    let acc = acts.chain(2 * s + 1, _mm512_shuffle_i32x4::<UPPER>(even, odd), d1, acc);
                    _mm512_fnmadd_ps(m1, acts.scaled(0, 2 * s + 1), acc)
                }
            }
        }
    };
}

nibble_step!(Q4K, |row: *const u8| nibbles(row.add(offset_of!(Q4K, qs))));
nibble_step!(Q5K, |row: *const u8| fives(row));

/// The nibbles of 128 bytes: low ones of the first sixteens, of the second sixteens, and the high ones.
#[inline(always)]
unsafe fn nibbles(qs: *const u8) -> [__m512i; 4] {
    op! {
        let (a, b) = (_mm512_loadu_si512(qs.cast()), _mm512_loadu_si512(qs.add(64).cast()));
        let (first, second) = (_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<ODD>(a, b));
        let mask = _mm512_set1_epi8(15);
        [
            _mm512_and_si512(first, mask),
            _mm512_and_si512(second, mask),
            _mm512_and_si512(_mm512_srli_epi16::<4>(first), mask),
            _mm512_and_si512(_mm512_srli_epi16::<4>(second), mask),
        ]
    }
}

/// Vectors of counts for a rotation: one count for each lane.
#[inline(always)]
fn counts(a: i64, b: i64, c: i64, d: i64) -> __m512i {
    op!(_mm512_setr_epi64(a & 63, a & 63, b & 63, b & 63, c & 63, c & 63, d & 63, d & 63))
}

/// The values of Q5_K in the order of [`nibbles`].
#[inline(always)]
unsafe fn fives(row: *const u8) -> [__m512i; 4] {
    op! {
        let w = nibbles(row.add(offset_of!(Q5K, qs)));
        let qh = row.add(offset_of!(Q5K, qh));
        let first = _mm512_broadcast_i32x4(_mm_loadu_si128(qh.cast()));
        let second = _mm512_broadcast_i32x4(_mm_loadu_si128(qh.add(16).cast()));
        // Bit `run` of a byte becomes its bit 4.
        let (even, odd, sixteen) = (counts(4, 2, 0, -2), counts(3, 1, -1, -3), _mm512_set1_epi8(16));
        let bits = [(first, even), (second, even), (first, odd), (second, odd)];
        four!(i => {
            _mm512_ternarylogic_epi32::<AND_OR>(_mm512_rolv_epi64(bits[i].0, bits[i].1), sixteen, w[i])
        })
    }
}

impl Wide for Q6K {
    const STEP: usize = 256;
    const ORDER: &'static [usize] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const SUMS: &'static [[(usize, usize); 4]] = &[
        [(0, 1), (1, 1), (2, 1), (3, 1)],
        [(4, 1), (5, 1), (6, 1), (7, 1)],
        [(8, 1), (9, 1), (10, 1), (11, 1)],
        [(12, 1), (13, 1), (14, 1), (15, 1)],
    ];

    #[inline(always)]
    unsafe fn step(_: Avx512Vnni, rows: [*const u8; 4], acts: &Layout, s: usize, mut acc: __m512) -> __m512 {
        // [half of the block][half of a run]: scales go to the top byte of a dword, to keep their sign.
        static SCALES: [[Aligned<[u8; 64]>; 2]; 2] = [
            [from_rows(0, [0, 2, 4, 6], 3), from_rows(1, [0, 2, 4, 6], 3)],
            [from_rows(8, [0, 2, 4, 6], 3), from_rows(9, [0, 2, 4, 6], 3)],
        ];
        op! {
            let d = halves(rows, offset_of!(Q6K, d));
            let scales = gather(rows, offset_of!(Q6K, scales));
            for h in 0..2 {
                let sums = four!(r => {
                    let w = sixes(rows[r], h);
                    let j = 4 * s + 2 * h;
                    (
                        _mm512_dpbusd_epi32(acts.init(j), w[0], acts.q(j)),
                        _mm512_dpbusd_epi32(acts.init(j + 1), w[1], acts.q(j + 1)),
                    )
                });
                let low = reduce(four!(r => sums[r].0));
                let high = reduce(four!(r => sums[r].1));
                let scale = two!(half => {
                    let top = 0x8888_8888_8888_8888;
                    let sc = _mm512_maskz_permutexvar_epi8(top, table(&SCALES[h][half]), scales);
                    _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(sc)), d)
                });
                let first = _mm512_cvtepi32_ps(_mm512_shuffle_i32x4::<EVEN>(low, high));
                let second = _mm512_cvtepi32_ps(_mm512_shuffle_i32x4::<ODD>(low, high));
                let value = _mm512_fmadd_ps(second, scale[1], _mm512_mul_ps(first, scale[0]));
                acc = acts.chain_value(2 * s + h, value, acc);
            }
            acc
        }
    }
}

/// Half `h` of the values of Q6_K in their order.
#[inline(always)]
unsafe fn sixes(row: *const u8, h: usize) -> [__m512i; 2] {
    op! {
        let low = _mm512_loadu_si512(row.add(offset_of!(Q6K, ql) + 64 * h).cast());
        let bits = _mm512_broadcast_i64x4(_mm256_loadu_si256(row.add(offset_of!(Q6K, qh) + 32 * h).cast()));
        let (mask, upper) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        // Bits 2k and 2k + 1 of a byte become its bits 4 and 5, for runs k = 0, 1 and k = 2, 3.
        let first = _mm512_rolv_epi64(bits, counts(4, 4, 2, 2));
        let second = _mm512_rolv_epi64(bits, counts(0, 0, -2, -2));
        [
            _mm512_ternarylogic_epi32::<AND_OR>(first, upper, _mm512_and_si512(low, mask)),
            _mm512_ternarylogic_epi32::<AND_OR>(
                second,
                upper,
                _mm512_and_si512(_mm512_srli_epi16::<4>(low), mask),
            ),
        ]
    }
}

impl Wide for Iq4Xs {
    const STEP: usize = 256;
    const ORDER: &'static [usize] = &[0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15];
    const SUMS: &'static [[(usize, usize); 4]] =
        &[[(0, 2), (2, 2), (4, 2), (6, 2)], [(8, 2), (10, 2), (12, 2), (14, 2)]];

    #[inline(always)]
    unsafe fn step(_: Avx512Vnni, rows: [*const u8; 4], acts: &Layout, s: usize, mut acc: __m512) -> __m512 {
        op! {
            let values = _mm512_broadcast_i32x4(_mm_loadu_si128(IQ4_BIASED.as_ptr().cast()));
            let mask = _mm512_set1_epi8(15);
            let d = halves(rows, offset_of!(Iq4Xs, d));
            // The upper and the lower bits of the scales of row r in dword r of each lane.
            let high = four!(r => rows[r].cast::<i32>().read_unaligned());
            let low = four!(r => rows[r].add(offset_of!(Iq4Xs, scales_l)).cast::<i32>().read_unaligned());
            let high = _mm512_broadcast_i32x4(_mm_loadu_si128(high.as_ptr().cast()));
            let low = _mm512_broadcast_i32x4(_mm_loadu_si128(low.as_ptr().cast()));
            let lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            for h in 0..2 {
                let sums = four!(r => {
                    let qs = row_vector(rows[r], offset_of!(Iq4Xs, qs) + 64 * h);
                    let first = _mm512_shuffle_epi8(values, _mm512_and_si512(qs, mask));
                    let second = _mm512_and_si512(_mm512_srli_epi16::<4>(qs), mask);
                    let second = _mm512_shuffle_epi8(values, second);
                    let sum = _mm512_dpbusd_epi32(acts.init(2 * s + h), first, acts.q(4 * s + 2 * h));
                    _mm512_dpbusd_epi32(sum, second, acts.q(4 * s + 2 * h + 1))
                });
                // Bits 4b of the lower ones, bits 2b of the upper ones (which start at bit 16) four up.
                let base = _mm512_set1_epi32(4 * h as i32);
                let b = _mm512_add_epi32(lanes, base);
                let low = _mm512_and_si512(_mm512_srlv_epi32(low, _mm512_slli_epi32::<2>(b)), _mm512_set1_epi32(15));
                let shift = _mm512_add_epi32(_mm512_slli_epi32::<1>(b), _mm512_set1_epi32(12));
                let bits = _mm512_srlv_epi32(high, shift);
                let scale = _mm512_ternarylogic_epi32::<AND_OR>(bits, _mm512_set1_epi32(0x30), low);
                let scale = _mm512_cvtepi32_ps(_mm512_sub_epi32(scale, _mm512_set1_epi32(32)));
                acc = acts.chain(2 * s + h, reduce(sums), _mm512_mul_ps(scale, d), acc);
            }
            acc
        }
    }
}

/// 64 bytes of a row.
#[inline(always)]
unsafe fn row_vector(row: *const u8, offset: usize) -> __m512i {
    op!(_mm512_loadu_si512(row.add(offset).cast()))
}

/// The activations as the two-bit planes of Q2_K and Q3_K meet them: run k of both halves together.
const PLANE_ORDER: &[usize] = &[0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15];
/// The sixteens of each plane.
const PLANES: &[[(usize, usize); 4]] = &[
    [(0, 1), (1, 1), (8, 1), (9, 1)],
    [(2, 1), (3, 1), (10, 1), (11, 1)],
    [(4, 1), (5, 1), (12, 1), (13, 1)],
    [(6, 1), (7, 1), (14, 1), (15, 1)],
];

/// Byte 4r + i of lane l: byte `at[i][l]` of lane r of a vector of rows. [`dword`] then finds those of a lane.
const fn to_lanes(at: [[u8; 4]; 4]) -> Aligned<[u8; 64]> {
    let mut index = [0; 64];
    let mut i = 0;
    while i < 64 {
        index[i] = 16 * (i / 4 % 4) as u8 + at[i % 4][i / 16];
        i += 1;
    }
    Aligned(index)
}

/// Number `i` of each row, which [`to_lanes`] put there, as dwords.
#[inline(always)]
fn dword(bytes: __m512i, i: usize) -> __m512i {
    op! {
        // The upper bytes of a dword become 0.
        let first = i as i32 | 0x8080_8000_u32 as i32;
        let index = _mm_setr_epi32(first, first + 4, first + 8, first + 12);
        _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(index))
    }
}

/// Where the scales of the sixteens of each plane are.
static PLANE_SCALES: Aligned<[u8; 64]> =
    to_lanes([[0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]]);

/// From the scaled sums of the sixteens of four planes, those of the runs of both halves.
#[inline(always)]
fn runs(planes: [__m512i; 4]) -> [__m512i; 2] {
    op! {
        let [low, high] = two!(i => {
            let (a, b) = (planes[2 * i], planes[2 * i + 1]);
            _mm512_add_epi32(_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<ODD>(a, b))
        });
        [_mm512_shuffle_i32x4::<EVEN>(low, high), _mm512_shuffle_i32x4::<ODD>(low, high)]
    }
}

/// Transposes dwords: dword r of lane l of vector j is dword j of lane l of `rows[r]`.
#[inline(always)]
fn transpose(rows: [__m512i; 4]) -> [__m512i; 4] {
    op! {
        let [[low_ab, high_ab], [low_cd, high_cd]] = two!(i => {
            let (a, b) = (rows[2 * i], rows[2 * i + 1]);
            [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)]
        });
        [
            _mm512_unpacklo_epi64(low_ab, low_cd),
            _mm512_unpackhi_epi64(low_ab, low_cd),
            _mm512_unpacklo_epi64(high_ab, high_cd),
            _mm512_unpackhi_epi64(high_ab, high_cd),
        ]
    }
}

/// Of rows of which [`transpose`] made `bytes`, two bits of each plane to a byte, the scaled sums of the runs of both
/// halves. Values of three bits have the next bit above those two in `thirds`, but that of plane 3, for which there is no
/// room, one lower.
#[inline(always)]
unsafe fn planes<const N: usize>(
    mut bytes: [[__m512i; 4]; N],
    thirds: Option<[[__m512i; 4]; N]>,
    scales: [__m512i; N],
    acts: &Layout,
    s: usize,
) -> [[__m512i; 2]; N] {
    op! {
        let zero = _mm512_setzero_si512();
        let mut sums = [[zero; 4]; N];
        for k in 0..4 {
            let mut low = 3 << (2 * k);
            if thirds.is_some() && k == 3 {
                low >>= 1;
                for bytes in bytes.as_flattened_mut() {
                    *bytes = _mm512_srli_epi16::<1>(*bytes);
                }
            }
            let third = _mm512_set1_epi8(((low << 1) & !low) as i8);
            let low = _mm512_set1_epi8(low as i8);
            let mut sum = [if thirds.is_some() { acts.init(4 * s + k) } else { zero }; N];
            for j in 0..4 {
                // Once for all rows.
                let q = acts.q(16 * s + 4 * k + j);
                for i in 0..N {
                    let mut w = _mm512_and_si512(bytes[i][j], low);
                    if let Some(thirds) = &thirds {
                        w = _mm512_ternarylogic_epi32::<AND_OR>(thirds[i][j], third, w);
                    }
                    sum[i] = _mm512_dpbusd_epi32(sum[i], w, q);
                }
            }
            for i in 0..N {
                let mut scale = dword(scales[i], k);
                if thirds.is_some() {
                    scale = _mm512_sub_epi32(scale, _mm512_set1_epi32(32));
                }
                sums[i][k] = _mm512_mullo_epi32(sum[i], scale);
            }
        }
        let mut of_runs = [[zero; 2]; N];
        for i in 0..N {
            of_runs[i] = runs(sums[i]);
        }
        of_runs
    }
}

/// The f16 at `offset` of row r as dword r of each lane, over `times` of the plane in lane k: values of plane k are not
/// shifted down, and their sums as many times too large.
#[inline(always)]
unsafe fn plane_halves(rows: [*const u8; 4], offset: usize, times: &[f32; 4]) -> __m512 {
    op! {
        let [a, b, c, d] = times.map(|times| 1.0 / times);
        let over = _mm512_setr_ps(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
        _mm512_mul_ps(halves(rows, offset), over)
    }
}

impl Wide for Q2K {
    const STEP: usize = 256;
    const ORDER: &'static [usize] = PLANE_ORDER;
    const TRANSPOSED: bool = true;
    const SUMS: &'static [[(usize, usize); 4]] = &[];

    #[inline(always)]
    unsafe fn steps<const N: usize>(
        _: Avx512Vnni,
        rows: [[*const u8; 4]; N],
        acts: &Layout,
        s: usize,
        acc: &mut [__m512; N],
    ) {
        // Those of the two halves of a run for each half of the block.
        static MINS: Aligned<[u8; 64]> =
            to_lanes([[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]]);
        op! {
            let (zero, nibble) = (_mm512_setzero_si512(), _mm512_set1_epi8(15));
            let (mut scales, mut mins, mut qs) = ([zero; N], [zero; N], [[zero; 4]; N]);
            for i in 0..N {
                let packed = gather(rows[i], offset_of!(Q2K, scales));
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), nibble);
                scales[i] = _mm512_permutexvar_epi8(table(&PLANE_SCALES), _mm512_and_si512(packed, nibble));
                mins[i] = _mm512_permutexvar_epi8(table(&MINS), high);
                qs[i] = transpose(four!(r => row_vector(rows[i][r], offset_of!(Q2K, qs))));
            }
            let sums = planes(qs, None, scales, acts, s);
            for i in 0..N {
                let d = plane_halves(rows[i], offset_of!(Q2K, d), &[1.0, 4.0, 16.0, 64.0]);
                let dmin = halves(rows[i], offset_of!(Q2K, dmin));
                for h in 0..2 {
                    let g = 2 * s + h;
                    acc[i] = acts.chain(g, sums[i][h], d, acc[i]);
                    for j in 0..2 {
                        let min = _mm512_mul_ps(_mm512_cvtepi32_ps(dword(mins[i], 2 * h + j)), dmin);
                        acc[i] = _mm512_fnmadd_ps(min, acts.scaled(j, g), acc[i]);
                    }
                }
            }
        }
    }
}

/// Output bits 2, 4, 6 and 7 of a byte: its bits from `first` on. A matrix of bits: byte 7 − i gives bit i.
const fn third_bits(first: usize) -> i64 {
    let (to, mut matrix, mut k) = ([2, 4, 6, 7], 0u64, 0);
    while k < 4 {
        matrix |= 1 << (8 * (7 - to[k]) + first + k);
        k += 1;
    }
    matrix as i64
}

impl Wide for Q3K {
    const STEP: usize = 256;
    const ORDER: &'static [usize] = PLANE_ORDER;
    const TRANSPOSED: bool = true;
    // Without the scales the weights are 0..8, four more than their values; in planes as many times.
    const LESS: [i32; 4] = [4, 4 * 4, 4 * 16, 4 * 32];
    const SUMS: &'static [[(usize, usize); 4]] = PLANES;

    #[inline(always)]
    unsafe fn steps<const N: usize>(
        _: Avx512Vnni,
        rows: [[*const u8; 4]; N],
        acts: &Layout,
        s: usize,
        acc: &mut [__m512; N],
    ) {
        op! {
            let zero = _mm512_setzero_si512();
            let (mut scales, mut qs, mut thirds) = ([zero; N], [[zero; 4]; N], [[zero; 4]; N]);
            for i in 0..N {
                // The twelve bytes of scales and d: the last 16 bytes of a block start two before them.
                let packed = gather(rows[i], offset_of!(Q3K, scales) - 2);
                // Bytes 0..4: scales 0..4 low, 8..12 high; 4..8: 4..8 and 12..16; 8..12: upper bits, two for each.
                let bytes = _mm512_bsrli_epi128::<2>(packed);
                let low = _mm512_shuffle_epi32::<0b01_00_01_00>(bytes);
                let each = |a, b, c, d| _mm512_broadcast_i32x4(_mm_setr_epi32(a, b, c, d));
                let low = _mm512_and_si512(_mm512_srlv_epi32(low, each(0, 0, 4, 4)), _mm512_set1_epi8(15));
                let bits = _mm512_shuffle_epi32::<0b10_10_10_10>(bytes);
                let bits = _mm512_rorv_epi32(bits, each(28, 30, 0, 2));
                let bytes = _mm512_ternarylogic_epi32::<AND_OR>(bits, _mm512_set1_epi8(0x30), low);
                scales[i] = _mm512_permutexvar_epi8(table(&PLANE_SCALES), bytes);

                qs[i] = transpose(four!(r => row_vector(rows[i][r], offset_of!(Q3K, qs))));
                // Bit k of a byte is of plane k of the first half, bit k + 4 of the second half.
                let [a, b] = [third_bits(0), third_bits(4)];
                let spread = _mm512_setr_epi64(a, a, a, a, b, b, b, b);
                thirds[i] = transpose(four!(r => {
                    let bits = _mm256_loadu_si256(rows[i][r].add(offset_of!(Q3K, hmask)).cast());
                    _mm512_gf2p8affine_epi64_epi8::<0>(_mm512_broadcast_i64x4(bits), spread)
                }));
            }
            let sums = planes(qs, Some(thirds), scales, acts, s);
            for i in 0..N {
                let d = plane_halves(rows[i], offset_of!(Q3K, d), &[1.0, 4.0, 16.0, 32.0]);
                acc[i] = acts.chain(2 * s + 1, sums[i][1], d, acts.chain(2 * s, sums[i][0], d, acc[i]));
            }
        }
    }
}
