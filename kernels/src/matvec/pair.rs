//! Decode with AVX2: two rows at a time, beside the generic form that its tests compare it with.
//!
//! A group of 128 values of both rows ends as a vector of eight sums, so that one conversion, one product and one
//! multiply-add serve two rows; and the sums of a block are added up in 16 bits as far as they fit. To get there with few
//! instructions, a lane of a vector holds sixteen values of a block of a row, and the activations are laid out to match,
//! once for all rows. Where sixteens have scales of their own, a vector holds a block instead, and the sums change lanes.
use super::{AT_ONCE, Rows};
use crate::TensorType;
use crate::acts::{GROUP, Row};
use crate::ahead::Stream;
use crate::format::blocks::{Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1};
use crate::format::{IQ4_LUT, Quantised, as_blocks_mut};
use crate::isa::{Avx2, Dots, Op, Simd, WIDE_OFFSET, four, own_bits, two};
use crate::team::Scratch;
use std::arch::x86_64::*;
use std::mem::offset_of;

/// Wraps intrinsics: see `isa::x86`.
macro_rules! op {
    ($($body:tt)*) => {
        // SAFETY: an `Avx2` token is at hand, which proves the instructions; memory is reached only through references
        // to arrays of the size, and where it matters the alignment, that is read or written.
        unsafe { $($body)* }
    };
}
pub(super) use op;

/// Classes of the sums where a vector is a block.
const IN_ORDER: [usize; 8] = [0, 1, 2, 3, 0, 1, 2, 3];
/// Classes where a vector holds neighbouring blocks.
pub(super) const NEIGHBOURS: [usize; 8] = [0, 2, 0, 2, 1, 3, 1, 3];
/// Classes where a vector holds every other block.
pub(super) const OTHERS: [usize; 8] = [0, 1, 0, 1, 2, 3, 2, 3];

/// A format whose groups are computed for two rows together.
pub(crate) trait Pair: Quantised {
    /// The largest of the unpacked values.
    const LARGEST: u8 = Self::MAX;
    /// What is to be subtracted from them.
    const LESS: i32 = if Self::MAX > Avx2::NARROW_MAX { Self::BIAS - WIDE_OFFSET } else { Self::BIAS };
    /// Whether [`Pair::scales`] are multiplied with the sums of each sixteen.
    const SCALED: bool = false;
    /// Whether sixteens have factors of their own. A vector then holds both sixteens of a block.
    const SPLIT: bool = Self::SCALED || Self::SCALES == 2;
    /// The class of each dword of the sums: [`IN_ORDER`] of a format that is [`Pair::SPLIT`], the first row in the first
    /// lane. Else dwords 0 and 1 of each lane are of the first row.
    const CLASSES: [usize; 8] = IN_ORDER;

    /// The values of a group of a row; those larger than what the instructions multiply are signed, less
    /// [`WIDE_OFFSET`]. If the format is [`Pair::SPLIT`], each vector is a block. Else the lanes of the first vector are
    /// the first sixteens of those blocks whose sums will be in dword 0 of each lane, of the second vector their second
    /// sixteens; then the same for dword 1. Arguments are those of [`Quantised::unpack128`].
    fn unpack(simd: Avx2, row: &[Self], half: usize) -> [__m256i; 4];

    /// If the format is [`Pair::SCALED`], the integer scale of each sixteen of a row: of the first ones of the group's
    /// blocks in one lane, of the second ones in the other; words 2b and 2b + 1 for block b.
    #[inline(always)]
    fn scales(_row: &[Self], _half: usize) -> __m256i {
        unreachable!("a format without integer scales")
    }

    /// The scales and the mins of the group's blocks.
    fn factors(simd: Avx2, rows: [&[Self]; 2], half: usize) -> Factors;
}

/// Factors of a group of two rows, as [`Group`](crate::format::Group) has them of one, by [`Pair::CLASSES`].
pub(crate) struct Factors {
    pub d: [__m256; 2],
    pub m: [__m256; 2],
}

/// Sixteen bytes to a lane.
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

/// The first sixteen bytes of a block.
#[inline(always)]
fn head<Q: Pair>(block: &Q) -> __m128i {
    const { assert!(size_of::<Q>() >= 16) };
    // SAFETY: blocks are bytes without padding, at least sixteen; see `op` for the instructions.
    unsafe { _mm_loadu_si128(std::ptr::from_ref(block).cast()) }
}

/// The first word of each block of both rows by [`NEIGHBOURS`], and the second.
#[inline(always)]
fn first_words<Q: Pair>(rows: [&[Q]; 2]) -> [__m128i; 2] {
    op! {
        // Blocks i and 2 + i of both rows: their first words, then their second ones.
        let [even, odd] = two!(i => {
            let [a, b] = two!(r => _mm_unpacklo_epi16(head(&rows[r][i]), head(&rows[r][2 + i])));
            _mm_unpacklo_epi32(a, b)
        });
        [_mm_unpacklo_epi64(even, odd), _mm_unpackhi_epi64(even, odd)]
    }
}

/// The same dwords in both lanes.
#[inline(always)]
pub(super) fn each(x: [i32; 4]) -> __m256i {
    let [a, b, c, d] = x;
    op!(_mm256_setr_epi32(a, b, c, d, a, b, c, d))
}

/// The values of both halves of two blocks: nibbles with the fifth bits that begin at byte `at` of the `blocks`.
#[inline(always)]
fn fives<Q: Pair>(nibbles: [__m256i; 2], blocks: [&Q; 2], at: usize) -> [__m256i; 2] {
    op! {
        let heads = _mm256_set_m128i(head(blocks[1]), head(blocks[0]));
        two!(h => {
            let [low, high] = two!(i => 0x0101_0101 * (at + 2 * h + i) as i32);
            let fifth = own_bits(_mm256_shuffle_epi8(heads, each([low, low, high, high])));
            _mm256_or_si256(nibbles[h], _mm256_and_si256(fifth, _mm256_set1_epi8(16)))
        })
    }
}

/// Formats of 32 values whose nibbles are those of the halves, with their first words.
macro_rules! short {
    ($($format:ident: $a:ident, $b:ident, $nibbles:ident => $unpack:expr;)*) => {$(
        impl Pair for $format {
            const CLASSES: [usize; 8] = NEIGHBOURS;

            #[inline(always)]
            fn unpack(_: Avx2, row: &[Self], _: usize) -> [__m256i; 4] {
                let [[p, q], [r, s]] = two!(i => {
                    let ($a, $b) = (&row[2 * i], &row[2 * i + 1]);
                    let $nibbles = lanes(&$a.qs, &$b.qs);
                    $unpack
                });
                [p, q, r, s]
            }

            #[inline(always)]
            fn factors(_: Avx2, rows: [&[Self]; 2], _: usize) -> Factors {
                let [d, m] = first_words(rows);
                op! {
                    let m = if Self::MINS == 0 { _mm256_setzero_ps() } else { _mm256_cvtph_ps(m) };
                    Factors { d: [_mm256_cvtph_ps(d); 2], m: [m; 2] }
                }
            }
        }
    )*};
}

short! {
    Q4_0: a, b, qs => nibbles(qs);
    Q4_1: a, b, qs => nibbles(qs);
    Q5_0: a, b, qs => fives(nibbles(qs), [a, b], offset_of!(Self, qh));
    Q5_1: a, b, qs => fives(nibbles(qs), [a, b], offset_of!(Self, qh));
    Iq4Nl: a, b, qs => looked_up(qs);
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

/// A group of activations, laid out for a format.
#[repr(C, align(64))]
struct Acts {
    /// What the vectors of [`Pair::unpack`] meet.
    q: [[i8; 32]; 4],
    /// −LESS · Σ quants: where the sums start. If the format is [`Pair::SPLIT`], of the first sixteens of each block, then
    /// of the second ones; if it is [`Pair::SCALED`], in the lower word of each dword. Else by [`Pair::CLASSES`].
    init: [i32; 8],
    /// Scales, by [`Pair::CLASSES`].
    d: [f32; 8],
    /// scale · Σ quants, likewise, for each min.
    scaled: [[f32; 8]; 2],
}

impl Acts {
    const NONE: Self = Acts { q: [[0; 32]; 4], init: [0; 8], d: [0.0; 8], scaled: [[0.0; 8]; 2] };

    /// Sets what the format uses to group `g` of a token.
    #[inline(always)]
    fn set<Q: Pair>(&mut self, row: &Row, g: usize) {
        let blocks = row.d.len();
        let sixteens = row.q[g * GROUP..][..GROUP].as_chunks::<16>().0;
        for (i, q) in self.q.iter_mut().enumerate() {
            let (halves, _) = q.as_chunks_mut::<16>();
            for (lane, to) in halves.iter_mut().enumerate() {
                let class = Q::CLASSES[4 * lane + i / 2];
                *to = sixteens[if Q::SPLIT { 2 * i + lane } else { 2 * class + i % 2 }];
            }
        }
        self.d = by_class::<Q>(&row.d.as_chunks().0[g]);
        for i in 0..Q::MINS {
            self.scaled[i] =
                by_class::<Q>(&row.scaled[if Q::MINS == 1 { 2 } else { i } * blocks..].as_chunks().0[g]);
        }
        if Q::LESS != 0 {
            let sums = |from: usize| &row.sums[from * blocks..].as_chunks::<4>().0[g];
            op! {
                let sums = if Q::SPLIT {
                    _mm256_loadu2_m128i(sums(1).as_ptr().cast(), sums(0).as_ptr().cast())
                } else {
                    let whole = _mm_loadu_si128(sums(2).as_ptr().cast());
                    _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(whole), classes::<Q>())
                };
                let init = _mm256_mullo_epi32(sums, _mm256_set1_epi32(-Q::LESS));
                let init = if Q::SCALED { _mm256_and_si256(init, _mm256_set1_epi32(0xffff)) } else { init };
                _mm256_store_si256(self.init.as_mut_ptr().cast(), init)
            }
        }
    }
}

/// Four values by [`Pair::CLASSES`].
#[inline(always)]
fn by_class<Q: Pair>(x: &[f32; 4]) -> [f32; 8] {
    let mut out = [0.0; 8];
    op! {
        let x = _mm256_castps128_ps256(_mm_loadu_ps(x.as_ptr()));
        _mm256_storeu_ps(out.as_mut_ptr(), _mm256_permutevar8x32_ps(x, classes::<Q>()));
    }
    out
}

/// [`Pair::CLASSES`] as an index.
#[inline(always)]
fn classes<Q: Pair>() -> __m256i {
    let [a, b, c, d, e, f, g, h] = Q::CLASSES.map(|class| class as i32);
    op!(_mm256_setr_epi32(a, b, c, d, e, f, g, h))
}

/// Eight numbers.
#[inline(always)]
fn floats(x: &[f32; 8]) -> __m256 {
    op!(_mm256_loadu_ps(x.as_ptr()))
}

/// The products of a group of both rows.
struct Products<'a> {
    /// Of a format that is [`Pair::SPLIT`] a row to a vector, its first sixteens to the first lane; else one vector by
    /// [`Pair::CLASSES`].
    sums: [__m256i; 2],
    factors: Factors,
    acts: &'a Acts,
}

impl<'a> Products<'a> {
    /// Of a group of zeros. With an option in its place there is a branch in the loop, before which the compiler loads
    /// all activations, and so puts them on the stack.
    const NONE: Self = {
        // SAFETY: a vector of zero bits is one of zeros.
        let zero: __m256 = unsafe { std::mem::zeroed() };
        let factors = Factors { d: [zero; 2], m: [zero; 2] };
        // SAFETY: as above.
        Products { sums: unsafe { std::mem::zeroed() }, factors, acts: &Acts::NONE }
    };

    /// The first `BLOCKS` blocks, two or four, count; the activations of the others are zero.
    #[inline(always)]
    fn new<Q: Pair, const BLOCKS: usize>(simd: Avx2, rows: [&[Q]; 2], half: usize, acts: &'a Acts) -> Self {
        // As many products of a weight and an activation add up in 16 bits; a word begins with two.
        let most = i16::MAX as usize / (127 * Q::LARGEST as usize);
        let init = op!(_mm256_load_si256(acts.init.as_ptr().cast()));
        // The words of a row.
        macro_rules! row_words {
            ($row:expr) => {{
                let w = Q::unpack(simd, $row, half);
                four!(i => if i < BLOCKS {
                    words::<Q>(simd, w[i], _mm256_load_si256(acts.q[i].as_ptr().cast()))
                } else {
                    _mm256_setzero_si256()
                })
            }};
        }
        let sums = op! {
            if Q::SPLIT {
                two!(r => if Q::SCALED {
                    const { assert!(!Q::SCALED || 127 * 8 * Q::LARGEST as usize <= i16::MAX as usize) };
                    let mut sums = gather(row_words!(rows[r]));
                    if Q::LESS != 0 {
                        sums = _mm256_add_epi16(sums, init);
                    }
                    _mm256_madd_epi16(sums, Q::scales(rows[r], half))
                } else {
                    _mm256_add_epi32(reduce(row_words!(rows[r]), most / 2), init)
                })
            } else {
                let words = two!(r => row_words!(rows[r]));
                // Vectors i % 2 of rows i / 2.
                let sum = if most >= 4 {
                    let both = four!(i => _mm256_add_epi16(words[i / 2][i % 2 * 2], words[i / 2][i % 2 * 2 + 1]));
                    reduce(both, most / 4)
                } else {
                    reduce_wide(four!(i => {
                        let (first, second) = (words[i / 2][i % 2 * 2], words[i / 2][i % 2 * 2 + 1]);
                        _mm256_add_epi32(wide(first), wide(second))
                    }))
                };
                [if Q::LESS != 0 { _mm256_add_epi32(sum, init) } else { sum }, _mm256_setzero_si256()]
            }
        };
        Products { sums, factors: Q::factors(simd, rows, half), acts }
    }

    /// Adds the products to the chains of both rows; the arithmetic of `super::Products::add`.
    #[inline(always)]
    fn add<Q: Pair>(self, acc: __m256) -> __m256 {
        let Products { sums: [first, second], factors: Factors { d, m }, acts } = self;
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
            let acc = _mm256_fmadd_ps(t, floats(&acts.d), acc);
            match Q::MINS {
                0 => acc,
                1 => _mm256_fmadd_ps(m[0], floats(&acts.scaled[0]), acc),
                _ => {
                    let acc = _mm256_fmadd_ps(m[0], floats(&acts.scaled[0]), acc);
                    _mm256_fmadd_ps(m[1], floats(&acts.scaled[1]), acc)
                }
            }
        }
    }
}

/// A token's groups in `scratch`.
#[inline(always)]
fn lay_out<'a, Q: Pair>(ty: TensorType, row: Row, scratch: &'a mut Scratch) -> &'a [Acts] {
    let groups = row.q.len() / GROUP;
    let (memory, fresh) = scratch.lay_out::<u8>(ty, groups * size_of::<Acts>());
    // SAFETY: as many bytes, aligned to 64; any bytes are numbers.
    let acts = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<Acts>(), groups) };
    if fresh {
        for (g, acts) in acts.iter_mut().enumerate() {
            acts.set::<Q>(&row, g);
        }
    }
    acts
}

/// The ends of the chains of both rows: (0 + 1) + (2 + 3).
#[inline(always)]
fn ends<Q: Pair>(acc: __m256) -> [f32; 2] {
    op! {
        let (low, high) = (_mm256_castps256_ps128(acc), _mm256_extractf128_ps::<1>(acc));
        // The pairs of each row: in dwords 0 and 1, and 2 and 3.
        let pairs = if Q::CLASSES == NEIGHBOURS { _mm_add_ps(low, high) } else { _mm_hadd_ps(low, high) };
        let pairs = if Q::CLASSES == OTHERS { _mm_shuffle_ps::<0b11_01_10_00>(pairs, pairs) } else { pairs };
        let sums = _mm_hadd_ps(pairs, pairs);
        [_mm_cvtss_f32(sums), _mm_cvtss_f32(_mm_movehdup_ps(sums))]
    }
}

/// The products of the two rows that `rows` begin with, of `row_blocks` blocks; twice as many bytes from `ahead` on will be
/// needed later. What lies behind the last row is made up in `made_up`.
#[inline(always)]
fn two_rows<Q: Pair>(
    simd: Avx2,
    rows: [&[Q]; 2],
    row_blocks: usize,
    acts: &[Acts],
    ahead: Stream,
    made_up: &mut [[u8; 4 * 34]; 2],
) -> [f32; 2] {
    let (unit_bytes, steps) = (Q::UNIT * Q::BLOCK_BYTES, row_blocks / Q::UNIT);
    let rest = row_blocks % Q::UNIT;
    let mut acc = op!(_mm256_setzero_ps());
    let [a, b] = two!(i => rows[i][..steps * Q::UNIT].chunks_exact(Q::UNIT));
    // Added a group later: the processor does not look far enough ahead to find other work while it waits for the sums.
    let mut last = Products::NONE;
    let mut g = 0;
    for (s, (a, b)) in a.zip(b).enumerate() {
        ahead.ask(2 * s * unit_bytes, 2 * unit_bytes);
        // Written out, so that what is looked up for each half is constant.
        let mut next = Products::new::<Q, 4>(simd, [a, b], 0, &acts[g]);
        acc = last.add::<Q>(acc);
        if Q::HALVES == 2 {
            let second = Products::new::<Q, 4>(simd, [a, b], 1, &acts[g + 1]);
            acc = next.add::<Q>(acc);
            next = second;
        }
        last = next;
        g += Q::HALVES;
    }
    if rest > 0 {
        // The activations there are zero: it does not matter that the blocks behind a row are the next's.
        let [one, other] = made_up;
        let units = [
            padded(&rows[0][steps * Q::UNIT..], rest, one),
            padded(&rows[1][steps * Q::UNIT..], rest, other),
        ];
        let next = if rest <= 2 {
            Products::new::<Q, 2>(simd, units, 0, &acts[g])
        } else {
            Products::new::<Q, 4>(simd, units, 0, &acts[g])
        };
        acc = last.add::<Q>(acc);
        last = next;
    }
    ends::<Q>(last.add::<Q>(acc))
}

/// The product of the rows of a matrix with one token.
pub(crate) struct PairRows<'a, Q>(pub Rows<'a, Q>);

impl<Q: Pair> PairRows<'_, Q> {
    #[inline(always)]
    fn call(self, simd: Avx2) {
        let Rows { ty, blocks, row_blocks, rows, acts, out, scratch, ahead } = self.0;
        let t = acts.t;
        let acts = lay_out::<Q>(ty, acts, scratch);
        let row_bytes = row_blocks * Q::BLOCK_BYTES;
        let mut made_up = [[0; 4 * 34]; 2];
        for first in rows.clone().step_by(AT_ONCE) {
            let count = (rows.end - first).min(AT_ONCE);
            let mut y = [0.0; AT_ONCE];
            for i in (0..count).step_by(2) {
                // The last row of an odd number is its own second.
                let two = two!(j => &blocks[(first + (i + j).min(count - 1)) * row_blocks..]);
                let ahead = ahead.after::<Avx2>((first + i - rows.start) * row_bytes, row_bytes);
                [y[i], y[i + 1]] = two_rows(simd, two, row_blocks, acts, ahead, &mut made_up);
            }
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
