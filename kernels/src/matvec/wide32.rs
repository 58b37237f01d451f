//! Four rows of formats with blocks of 32 values.
use super::wide::{Layout, Wide, op, reduce};
use crate::format::Quantised;
use crate::format::blocks::{Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use crate::isa::{Avx512Vnni, four};
use std::arch::x86_64::*;

/// How a block of 32 values is laid out; the f16 scale comes first, then the min if there is one.
trait Short: Quantised {
    /// Where the quants start.
    const QS: usize;
    /// Where the 32 fifth bits start.
    const QH: Option<usize> = None;
    /// The value of each nibble, where it is not the nibble.
    const TABLE: Option<&'static [u8; 32]> = None;
}

impl Short for Q4_0 {
    const QS: usize = 2;
}

impl Short for Q4_1 {
    const QS: usize = 4;
}

impl Short for Q5_0 {
    const QS: usize = 6;
    const QH: Option<usize> = Some(2);
}

impl Short for Q5_1 {
    const QS: usize = 8;
    const QH: Option<usize> = Some(4);
}

impl Short for Q8_0 {
    const QS: usize = 2;
}

impl Short for Iq4Nl {
    const QS: usize = 2;
    const TABLE: Option<&'static [u8; 32]> = Some(&crate::format::IQ4_BIASED);
}

/// (a & b) | c, as ternary logic.
pub(super) const AND_OR: i32 = 0xea;

/// Byte j of each lane: bit `first + j` of 64.
const fn bits_from(first: usize) -> Aligned<[u8; 64]> {
    let mut bits = [0; 64];
    let mut i = 0;
    while i < 64 {
        bits[i] = ((first + i % 16) % 64) as u8;
        i += 1;
    }
    Aligned(bits)
}

/// A vector in memory.
#[repr(align(64))]
pub(super) struct Aligned<T>(pub T);

/// Where to find things in four blocks of `Q`, of which two loads see the first 64 bytes and the last 64 bytes
/// (of Q8_0 the first 128 bytes, and for the second halves of the quants the last 128).
struct Places<Q>(std::marker::PhantomData<Q>);

impl<Q: Short> Places<Q> {
    const BYTES: usize = 4 * Q::BLOCK_BYTES;
    /// Where the second load starts.
    const SECOND: usize = if Self::BYTES > 128 { 64 } else { Self::BYTES - 64 };

    /// The index of byte `at` in the two loads.
    const fn find(at: usize, second: usize) -> u8 {
        (if at < 64 { at } else { 64 + at - second }) as u8
    }

    /// Lane b: 16 bytes of the quants of block b, from `skip` on; `shift` is how far both loads are moved.
    const fn quants(skip: usize, shift: usize) -> Aligned<[u8; 64]> {
        let mut index = [0; 64];
        let mut i = 0;
        while i < 64 {
            index[i] = Self::find(i / 16 * Q::BLOCK_BYTES + Q::QS + skip + i % 16 - shift, Self::SECOND);
            i += 1;
        }
        Aligned(index)
    }

    /// Lane b: the four bytes of fifth bits of block b, once in each half.
    const FIFTHS: Aligned<[u8; 64]> = {
        let mut index = [0; 64];
        let mut i = 0;
        while i < 64 {
            let qh = match Q::QH {
                Some(qh) => qh,
                None => 0,
            };
            index[i] = Self::find(i / 16 * Q::BLOCK_BYTES + qh + i % 4, Self::SECOND);
            i += 1;
        }
        Aligned(index)
    };

    /// Words 4b and 4b + 1 of the lower half: the scales of block b of two rows whose first loads are given; of
    /// the upper half: their mins. Words 4b + 2 and 4b + 3 likewise.
    const PAIRS: Aligned<[u16; 32]> = {
        let mut index = [0; 32];
        let mut i = 0;
        while i < 32 {
            let (min, block, row) = (i / 16, i % 16 / 4, i % 2);
            index[i] = (block * Q::BLOCK_BYTES / 2 + min + 32 * row) as u16 & 63;
            i += 1;
        }
        Aligned(index)
    };

    /// The same of one row whose two loads are given, four times.
    const SINGLE: Aligned<[u16; 32]> = {
        let mut index = [0; 32];
        let mut i = 0;
        while i < 32 {
            let (min, block) = (i / 16, i % 16 / 4);
            index[i] = (Self::find(block * Q::BLOCK_BYTES + 2 * min, Self::SECOND) / 2) as u16;
            i += 1;
        }
        Aligned(index)
    };

    const LOW: Aligned<[u8; 64]> = Self::quants(0, 0);
    const HIGH: Aligned<[u8; 64]> = Self::quants(16, Self::BYTES - 64 - Self::SECOND);
    /// Whether the first load sees the scales and mins of all blocks.
    const ALL_IN_FIRST: bool = 3 * Q::BLOCK_BYTES + 2 + 2 * Q::MINS <= 64;
}

/// Loads a table.
#[inline(always)]
pub(super) fn table<T>(table: &'static Aligned<T>) -> __m512i {
    op!(_mm512_load_si512(std::ptr::from_ref(table).cast()))
}

macro_rules! impl_wide {
    ($($format:ident)*) => {$(
        impl Wide for $format {
            const STEP: usize = 128;
            const ORDER: &'static [usize] = &[0, 2, 4, 6, 1, 3, 5, 7];
            const SUMS: &'static [[(usize, usize); 4]] =
                if Self::MINS == 0 { &[[(0, 2), (2, 2), (4, 2), (6, 2)]] } else { &[] };

            #[inline(always)]
            unsafe fn step(_: Avx512Vnni, rows: [*const u8; 4], acts: &Layout, s: usize, acc: __m512) -> __m512 {
                op! {
                    let loads = four!(r => (
                        _mm512_loadu_si512(rows[r].cast()),
                        _mm512_loadu_si512(rows[r].add(Places::<$format>::SECOND).cast()),
                    ));
                    let sums = four!(r => {
                        let [low, high] = unpack::<$format>(rows[r], loads[r]);
                        let sum = if $format::MINS == 0 { acts.init(s) } else { _mm512_setzero_si512() };
                        let sum = _mm512_dpbusd_epi32(sum, low, acts.q(2 * s));
                        _mm512_dpbusd_epi32(sum, high, acts.q(2 * s + 1))
                    });
                    let [d, m] = factors::<$format>(loads);
                    let acc = acts.chain(s, reduce(sums), d, acc);
                    if $format::MINS == 0 { acc } else { _mm512_fmadd_ps(m, acts.scaled(0, s), acc) }
                }
            }
        }
    )*};
}

impl_wide! { Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Iq4Nl }

/// The first and the second 16 values of four blocks, a block to a lane.
#[inline(always)]
unsafe fn unpack<Q: Short>(row: *const u8, (a, b): (__m512i, __m512i)) -> [__m512i; 2] {
    op! {
        if Q::MAX == 255 && Q::TABLE.is_none() {
            let flip = _mm512_set1_epi8(-128);
            let low = _mm512_permutex2var_epi8(a, table(const { &Places::<Q>::LOW }), b);
            let shift = Places::<Q>::BYTES - 64 - Places::<Q>::SECOND;
            let (a, b) = (
                _mm512_loadu_si512(row.add(shift).cast()),
                _mm512_loadu_si512(row.add(Places::<Q>::SECOND + shift).cast()),
            );
            let high = _mm512_permutex2var_epi8(a, table(const { &Places::<Q>::HIGH }), b);
            return [_mm512_xor_si512(low, flip), _mm512_xor_si512(high, flip)];
        }
        let mask = _mm512_set1_epi8(15);
        let qs = _mm512_permutex2var_epi8(a, table(const { &Places::<Q>::LOW }), b);
        let mut low = _mm512_and_si512(qs, mask);
        let mut high = _mm512_and_si512(_mm512_srli_epi16::<4>(qs), mask);
        if let Some(values) = Q::TABLE {
            let values = _mm512_broadcast_i32x4(_mm_loadu_si128(values.as_ptr().cast()));
            low = _mm512_shuffle_epi8(values, low);
            high = _mm512_shuffle_epi8(values, high);
        }
        if Q::QH.is_some() {
            let fifths = _mm512_permutex2var_epi8(a, table(const { &Places::<Q>::FIFTHS }), b);
            let sixteen = _mm512_set1_epi8(16);
            // Eight bits from bit e − 4 on have bit e as their fifth.
            let bits = _mm512_multishift_epi64_epi8(table(const { &bits_from(60) }), fifths);
            low = _mm512_ternarylogic_epi32::<AND_OR>(bits, sixteen, low);
            let bits = _mm512_multishift_epi64_epi8(table(const { &bits_from(12) }), fifths);
            high = _mm512_ternarylogic_epi32::<AND_OR>(bits, sixteen, high);
        }
        [low, high]
    }
}

/// Scales and mins of four blocks of four rows: the lane is the block, the dword the row.
#[inline(always)]
unsafe fn factors<Q: Short>(loads: [(__m512i, __m512i); 4]) -> [__m512; 2] {
    op! {
        let words = if Places::<Q>::ALL_IN_FIRST {
            let index = table(const { &Places::<Q>::PAIRS });
            let low = _mm512_permutex2var_epi16(loads[0].0, index, loads[1].0);
            let high = _mm512_permutex2var_epi16(loads[2].0, index, loads[3].0);
            _mm512_mask_blend_epi32(0xaaaa, low, high)
        } else {
            let index = table(const { &Places::<Q>::SINGLE });
            let words = four!(r => _mm512_permutex2var_epi16(loads[r].0, index, loads[r].1));
            let low = _mm512_mask_blend_epi16(0xaaaa_aaaa, words[0], words[1]);
            let high = _mm512_mask_blend_epi16(0xaaaa_aaaa, words[2], words[3]);
            _mm512_mask_blend_epi32(0xaaaa, low, high)
        };
        let d = _mm512_cvtph_ps(_mm512_castsi512_si256(words));
        let m = if Q::MINS == 0 { d } else { _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(words)) };
        [d, m]
    }
}
