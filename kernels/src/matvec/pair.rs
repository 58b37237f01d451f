//! Decode with AVX2: two rows at a time, beside the generic form that its tests compare it with.
//!
//! A lane of a vector holds sixteen values of a row, so that both rows meet the same activations, and a group of 128
//! values ends as a vector of eight sums: the lane is the row, the dword in it the class. One conversion, one product
//! and one multiply-add then serve two rows; and the sums of a block are added up in 16 bits as far as they fit.
//! Where sixteens have scales of their own, a vector holds a block of one row instead, and the sums change lanes.
use super::{Prepared, Rows};
use crate::ahead::prefetch_stream;
use crate::format::blocks::{Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1};
use crate::format::{IQ4_LUT, Quantised, as_blocks_mut};
use crate::isa::{Avx2, Dots, Op, Simd, WIDE_OFFSET, four, own_bits, two};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// Wraps intrinsics: see `isa::x86`.
macro_rules! op {
    ($($body:tt)*) => {
        // SAFETY: an `Avx2` token is at hand, which proves the instructions; memory is reached only through references
        // to arrays of the size that is read or written.
        unsafe { $($body)* }
    };
}
pub(super) use op;

/// A format whose groups are unpacked for two rows together.
pub(crate) trait Pair: Quantised {
    /// The largest of the unpacked values.
    const LARGEST: u8 = Self::MAX;
    /// What is to be subtracted from them.
    const LESS: i32 = if Self::MAX > Avx2::NARROW_MAX { Self::BIAS - WIDE_OFFSET } else { Self::BIAS };
    /// Whether [`Pair::scales`] are multiplied with the sums of each sixteen.
    const SCALED: bool = false;
    /// Whether sixteens have factors of their own. A vector then holds both sixteens of a block of one row.
    const SPLIT: bool = Self::SCALED || Self::SCALES == 2;

    /// The values of a group of both rows, `[block][half]`: sixteen of the first row, then of the second; those larger
    /// than what the instructions multiply are signed, less [`WIDE_OFFSET`]. Arguments are those of
    /// [`Quantised::unpack128`].
    #[inline(always)]
    fn unpack_pair(simd: Avx2, rows: [&[Self]; 2], half: usize) -> [[__m256i; 2]; 4] {
        let q = two!(r => Self::unpack128(simd, rows[r], half).q);
        op!(four!(b => [
            _mm256_permute2x128_si256::<0x20>(q[0][b], q[1][b]),
            _mm256_permute2x128_si256::<0x31>(q[0][b], q[1][b]),
        ]))
    }

    /// If the format is [`Pair::SPLIT`], the values of a group of one row, a block to a vector.
    #[inline(always)]
    fn unpack_row(simd: Avx2, row: &[Self], half: usize) -> [__m256i; 4] {
        Self::unpack128(simd, row, half).q
    }

    /// If the format is [`Pair::SCALED`], the integer scale of each sixteen of a row: of the first ones of the group's
    /// blocks in one lane, of the second ones in the other; words 2b and 2b + 1 for block b.
    #[inline(always)]
    fn scales(_row: &[Self], _half: usize) -> __m256i {
        unreachable!("a format without integer scales")
    }

    /// The scales and the mins of the group's blocks, a row to a lane.
    #[inline(always)]
    fn factors(simd: Avx2, rows: [&[Self]; 2], half: usize) -> Factors {
        // The values are not used and so not computed.
        let [a, b] = two!(r => Self::unpack128(simd, rows[r], half));
        op!(Factors {
            d: two!(i => _mm256_set_m128(b.d[i], a.d[i])),
            m: two!(i => _mm256_set_m128(b.m[i], a.m[i]))
        })
    }
}

/// Factors of a group of two rows, as [`Group`](crate::format::Group) has them of one.
pub(crate) struct Factors {
    pub d: [__m256; 2],
    pub m: [__m256; 2],
}

/// Sixteen bytes of each row.
#[inline(always)]
pub(super) fn lanes(a: &[u8; 16], b: &[u8; 16]) -> __m256i {
    op! {
        let a = _mm256_castsi128_si256(_mm_loadu_si128(a.as_ptr().cast()));
        _mm256_inserti128_si256::<1>(a, _mm_loadu_si128(b.as_ptr().cast()))
    }
}

/// Low and high nibbles.
#[inline(always)]
pub(super) fn nibbles(x: __m256i) -> [__m256i; 2] {
    op! {
        let mask = _mm256_set1_epi8(15);
        [_mm256_and_si256(x, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask)]
    }
}

/// The signed values of the nibbles of IQ4_NL and IQ4_XS.
#[inline(always)]
pub(super) fn looked_up(x: __m256i) -> [__m256i; 2] {
    op! {
        let values = _mm256_broadcastsi128_si256(_mm_loadu_si128(IQ4_LUT.as_ptr().cast()));
        let [low, high] = nibbles(x);
        [_mm256_shuffle_epi8(values, low), _mm256_shuffle_epi8(values, high)]
    }
}

/// The first sixteen bytes of block `b` of each row.
#[inline(always)]
fn heads<Q: Pair>(rows: [&[Q]; 2], b: usize) -> __m256i {
    const { assert!(size_of::<Q>() >= 16) };
    let [one, other]: [*const __m128i; 2] = two!(r => std::ptr::from_ref(&rows[r][b]).cast());
    // SAFETY: blocks are bytes without padding, at least sixteen; see `op` for the instructions.
    unsafe {
        let one = _mm256_castsi128_si256(_mm_loadu_si128(one));
        _mm256_inserti128_si256::<1>(one, _mm_loadu_si128(other))
    }
}

/// Of formats that store the min behind the scale: both of four blocks of two rows.
macro_rules! scale_and_min {
    () => {
        #[inline(always)]
        fn factors(_: Avx2, rows: [&[Self]; 2], _: usize) -> Factors {
            let pair = |r: usize, b: usize| {
                let Self { d: [a, b], m: [c, d], .. } = rows[r][b];
                i32::from_le_bytes([a, b, c, d])
            };
            op! {
                let both = two!(r => {
                    let pairs = _mm_setr_epi32(pair(r, 0), pair(r, 1), pair(r, 2), pair(r, 3));
                    // The scales, then the mins.
                    let order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
                    _mm_shuffle_epi8(pairs, order)
                });
                Factors {
                    d: [_mm256_cvtph_ps(_mm_unpacklo_epi64(both[0], both[1])); 2],
                    m: [_mm256_cvtph_ps(_mm_unpackhi_epi64(both[0], both[1])); 2],
                }
            }
        }
    };
}

/// The same dwords in both lanes.
#[inline(always)]
pub(super) fn each(x: [i32; 4]) -> __m256i {
    let [a, b, c, d] = x;
    op!(_mm256_setr_epi32(a, b, c, d, a, b, c, d))
}

/// The values of both halves: nibbles with the fifth bits that begin at byte `at` of the `heads`.
#[inline(always)]
fn fives(nibbles: [__m256i; 2], heads: __m256i, at: usize) -> [__m256i; 2] {
    op!(two!(h => {
        let [low, high] = two!(i => 0x0101_0101 * (at + 2 * h + i) as i32);
        let fifth = own_bits(_mm256_shuffle_epi8(heads, each([low, low, high, high])));
        _mm256_or_si256(nibbles[h], _mm256_and_si256(fifth, _mm256_set1_epi8(16)))
    }))
}

/// Formats of 32 values whose nibbles are those of the halves.
macro_rules! short {
    ($($format:ident: $unpack:ident $($factors:ident)?;)*) => {$(
        impl Pair for $format {
            #[inline(always)]
            fn unpack_pair(_: Avx2, rows: [&[Self]; 2], _: usize) -> [[__m256i; 2]; 4] {
                four!(b => $unpack(lanes(&rows[0][b].qs, &rows[1][b].qs)))
            }
            $($factors! {})?
        }
    )*};
}

short! { Q4_0: nibbles; Q4_1: nibbles scale_and_min; Iq4Nl: looked_up; }

impl Pair for Q5_0 {
    #[inline(always)]
    fn unpack_pair(_: Avx2, rows: [&[Self]; 2], _: usize) -> [[__m256i; 2]; 4] {
        four!(b => fives(nibbles(lanes(&rows[0][b].qs, &rows[1][b].qs)), heads(rows, b), offset_of!(Self, qh)))
    }

    #[inline(always)]
    fn factors(_: Avx2, rows: [&[Self]; 2], _: usize) -> Factors {
        let [a, b, c, d] = four!(b => heads(rows, b));
        op! {
            let all = _mm256_unpacklo_epi32(_mm256_unpacklo_epi16(a, b), _mm256_unpacklo_epi16(c, d));
            let all = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(all));
            Factors { d: [_mm256_cvtph_ps(all); 2], m: [_mm256_setzero_ps(); 2] }
        }
    }
}

impl Pair for Q5_1 {
    #[inline(always)]
    fn unpack_pair(_: Avx2, rows: [&[Self]; 2], _: usize) -> [[__m256i; 2]; 4] {
        four!(b => fives(nibbles(lanes(&rows[0][b].qs, &rows[1][b].qs)), heads(rows, b), offset_of!(Self, qh)))
    }

    scale_and_min! {}
}

/// In each lane: words 2b and 2b + 1 together are the sum of the words in that lane of `s[b]`.
#[inline(always)]
fn gather(s: [__m256i; 4]) -> __m256i {
    let [even, odd] = even_odd(pairs(s));
    op!(_mm256_add_epi16(even, odd))
}

/// In each lane: the first four words together are the sum of the words in that lane of `s[0]` or `s[2]`, the others of
/// `s[1]` or `s[3]`.
#[inline(always)]
fn pairs(s: [__m256i; 4]) -> [__m256i; 2] {
    op!(two!(i => {
        let (a, b) = (s[2 * i], s[2 * i + 1]);
        _mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
    }))
}

/// Words 2i and 2i + 1 added up.
#[inline(always)]
fn wide(x: __m256i) -> __m256i {
    op!(_mm256_madd_epi16(x, _mm256_set1_epi16(1)))
}

/// In each lane: dword b is the sum of the words in that lane of `s[b]`. As many words as `room` tells, which is at least
/// two, may be added up in 16 bits.
#[inline(always)]
fn reduce(s: [__m256i; 4], room: usize) -> __m256i {
    if room >= 4 {
        return wide(gather(s));
    }
    let pairs = pairs(s);
    let [even, odd] = even_odd(two!(i => wide(pairs[i])));
    op!(_mm256_add_epi32(even, odd))
}

/// As [`reduce`], of dwords.
#[inline(always)]
fn reduce_wide(s: [__m256i; 4]) -> __m256i {
    op! {
        let pairs = two!(i => {
            let (a, b) = (s[2 * i], s[2 * i + 1]);
            _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
        });
        let [even, odd] = even_odd(pairs);
        _mm256_add_epi32(even, odd)
    }
}

/// Dwords 0 and 2 of each lane of both vectors, and dwords 1 and 3.
#[inline(always)]
fn even_odd([a, b]: [__m256i; 2]) -> [__m256i; 2] {
    op! {
        let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
        [
            _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b)),
            _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)),
        ]
    }
}

/// Four values in both lanes.
#[inline(always)]
fn twice(x: &[f32; 4]) -> __m256 {
    op!(_mm256_broadcast_ps(&_mm_loadu_ps(x.as_ptr())))
}

/// Four values in each lane.
#[inline(always)]
fn ints(low: &[i32; 4], high: &[i32; 4]) -> __m256i {
    op!(_mm256_loadu2_m128i(high.as_ptr().cast(), low.as_ptr().cast()))
}

/// Words: sums of two products of weights and activations.
#[inline(always)]
fn words<Q: Pair>(simd: Avx2, w: __m256i, a: __m256i) -> __m256i {
    op! {
        if simd.offset(Q::LARGEST) == WIDE_OFFSET {
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w))
        } else {
            _mm256_maddubs_epi16(w, a)
        }
    }
}

/// The products of a group of both rows.
struct Products<'a> {
    /// A row to a lane of the first vector; of a format that is [`Pair::SPLIT`] a row to a vector, its first sixteens to
    /// the first lane.
    sums: [__m256i; 2],
    factors: Factors,
    /// Of the group's activations: scales, and scaled sums as in [`Prepared`].
    d: &'a [f32; 4],
    scaled: [&'a [f32; 4]; 3],
}

impl<'a> Products<'a> {
    /// Of a group of zeros. With an option in its place there is a branch in the loop, before which the compiler loads
    /// all activations, and so puts them on the stack.
    const NONE: Self = {
        // SAFETY: a vector of zero bits is one of zeros.
        let (zero, none): (__m256, _) = unsafe { (std::mem::zeroed(), &[0.0; 4]) };
        let factors = Factors { d: [zero; 2], m: [zero; 2] };
        // SAFETY: as above.
        Products { sums: unsafe { std::mem::zeroed() }, factors, d: none, scaled: [none; 3] }
    };

    /// The first `BLOCKS` blocks count; the activations of the others are zero.
    #[inline(always)]
    fn new<Q: Pair, const BLOCKS: usize>(
        simd: Avx2,
        rows: [&[Q]; 2],
        half: usize,
        acts: &Prepared<'a>,
        g: usize,
    ) -> Self {
        // As many products of a weight and an activation add up in 16 bits; a word begins with two.
        let most = i16::MAX as usize / (127 * Q::LARGEST as usize);
        let init = |i: usize| &acts.init[i][g];
        let sums = op! {
            if Q::SPLIT {
                let init = || ints(init(0), init(1));
                two!(r => {
                    let w = Q::unpack_row(simd, rows[r], half);
                    let a = acts.q[g].as_chunks::<32>().0;
                    let words = four!(b => words::<Q>(simd, w[b], _mm256_loadu_si256(a[b].as_ptr().cast())));
                    if Q::SCALED {
                        const { assert!(!Q::SCALED || 127 * 8 * Q::LARGEST as usize <= i16::MAX as usize) };
                        let mut sums = gather(words);
                        if Q::LESS != 0 {
                            // Added to one word of two.
                            sums = _mm256_add_epi16(sums, _mm256_and_si256(init(), _mm256_set1_epi32(0xffff)));
                        }
                        _mm256_madd_epi16(sums, Q::scales(rows[r], half))
                    } else {
                        _mm256_add_epi32(reduce(words, most / 2), init())
                    }
                })
            } else {
                let w = Q::unpack_pair(simd, rows, half);
                let a = acts.q[g].as_chunks::<16>().0;
                let words = four!(b => if b < BLOCKS {
                    two!(h => {
                        let a = _mm_loadu_si128(a[2 * b + h].as_ptr().cast());
                        words::<Q>(simd, w[b][h], _mm256_broadcastsi128_si256(a))
                    })
                } else {
                    [_mm256_setzero_si256(); 2]
                });
                let sum = if most >= 4 {
                    reduce(four!(b => _mm256_add_epi16(words[b][0], words[b][1])), most / 4)
                } else {
                    reduce_wide(four!(b => _mm256_add_epi32(wide(words[b][0]), wide(words[b][1]))))
                };
                let sum = if Q::LESS != 0 { _mm256_add_epi32(sum, ints(init(2), init(2))) } else { sum };
                [sum, _mm256_setzero_si256()]
            }
        };
        Products {
            sums,
            factors: Q::factors(simd, rows, half),
            d: &acts.d[g],
            scaled: acts.scaled.map(|scaled| &scaled[g]),
        }
    }

    /// Adds the products to the chains of both rows; the arithmetic of `super::Products::add`.
    #[inline(always)]
    fn add<Q: Pair>(self, acc: __m256) -> __m256 {
        let Products { sums: [first, second], factors: Factors { d, m }, d: acts, scaled } = self;
        op! {
            let t = if Q::SPLIT {
                // The first sixteens of both rows, and the second ones.
                let low = _mm256_permute2x128_si256::<0x20>(first, second);
                let high = _mm256_permute2x128_si256::<0x31>(first, second);
                if Q::SCALED {
                    _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(low, high)), d[0])
                } else {
                    let low = _mm256_mul_ps(_mm256_cvtepi32_ps(low), d[0]);
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(high), d[1], low)
                }
            } else {
                _mm256_mul_ps(_mm256_cvtepi32_ps(first), d[0])
            };
            let acc = _mm256_fmadd_ps(t, twice(acts), acc);
            match Q::MINS {
                0 => acc,
                1 => _mm256_fmadd_ps(m[0], twice(scaled[2]), acc),
                _ => {
                    let acc = _mm256_fmadd_ps(m[0], twice(scaled[0]), acc);
                    _mm256_fmadd_ps(m[1], twice(scaled[1]), acc)
                }
            }
        }
    }
}

/// The product of the rows of a matrix with one token.
pub(crate) struct PairRows<'a, Q>(pub Rows<'a, Q>);

impl<Q: Pair> PairRows<'_, Q> {
    #[inline(always)]
    fn call(self, simd: Avx2) {
        let Rows { ty, blocks, row_blocks, rows, acts, out, scratch, ahead } = self.0;
        let t = acts.t;
        let acts = Prepared::new(ty, Q::LESS, acts, scratch);
        let (unit_bytes, steps) = (Q::UNIT * Q::BLOCK_BYTES, row_blocks / Q::UNIT);
        let rest = row_blocks % Q::UNIT;
        let mut made_up = [[0; 4 * 34]; 2];
        for first in rows.clone().step_by(2) {
            let count = (rows.end - first).min(2);
            let two: [&[Q]; 2] = two!(i => &blocks[(first + i.min(count - 1)) * row_blocks..]);
            let ahead = ahead.after::<Avx2>(
                (first - rows.start) * row_blocks * Q::BLOCK_BYTES,
                row_blocks * Q::BLOCK_BYTES,
            );
            let mut acc = op!(_mm256_setzero_ps());
            let [a, b] = two!(i => two[i][..steps * Q::UNIT].chunks_exact(Q::UNIT));
            // Added a group later: the processor does not look far enough ahead to find other work while it waits for the
            // sums.
            let mut last = Products::NONE;
            let mut g = 0;
            for (s, (a, b)) in a.zip(b).enumerate() {
                prefetch_stream::<Avx2>(ahead.wrapping_add(2 * s * unit_bytes), 2 * unit_bytes);
                // Written out, so that what is looked up for each half is constant.
                let mut next = Products::new::<Q, 4>(simd, [a, b], 0, &acts, g);
                acc = last.add::<Q>(acc);
                if Q::HALVES == 2 {
                    let second = Products::new::<Q, 4>(simd, [a, b], 1, &acts, g + 1);
                    acc = next.add::<Q>(acc);
                    next = second;
                }
                last = next;
                g += Q::HALVES;
            }
            if rest > 0 {
                // The activations there are zero: it does not matter that the blocks behind a row are the next's.
                // Behind the last they are made up.
                let [one, other] = &mut made_up;
                let units = [
                    padded(&two[0][steps * Q::UNIT..], rest, one),
                    padded(&two[1][steps * Q::UNIT..], rest, other),
                ];
                let next = if rest <= 2 {
                    Products::new::<Q, 2>(simd, units, 0, &acts, g)
                } else {
                    Products::new::<Q, 4>(simd, units, 0, &acts, g)
                };
                acc = last.add::<Q>(acc);
                last = next;
            }
            acc = last.add::<Q>(acc);
            let y = op! {
                // (0 + 1) + (2 + 3) in each lane
                let pairs = _mm256_add_ps(acc, _mm256_movehdup_ps(acc));
                let sums = _mm256_add_ps(pairs, _mm256_permute_ps::<0b10>(pairs));
                [_mm_cvtss_f32(_mm256_castps256_ps128(sums)), _mm_cvtss_f32(_mm256_extractf128_ps::<1>(sums))]
            };
            // SAFETY: this thread owns the rows it was given.
            unsafe { out.put(simd, t, first, &y[..count]) };
        }
    }
}

/// The unit that `blocks` begins with; with no more than `rest` blocks there, those and zeros behind them.
#[inline(always)]
fn padded<'a, Q: Quantised>(blocks: &'a [Q], rest: usize, bytes: &'a mut [u8; 4 * 34]) -> &'a [Q] {
    match blocks.get(..Q::UNIT) {
        Some(unit) => unit,
        None => {
            let unit = as_blocks_mut::<Q>(&mut bytes[..Q::UNIT * Q::BLOCK_BYTES]);
            unit[..rest].copy_from_slice(&blocks[..rest]);
            unit
        }
    }
}

impl<Q: Pair> Op for PairRows<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        PairRows::call(self, Avx2::new().expect("run with this token"));
    }
}
