//! Decode with AVX512: four or eight rows at a time, beside the generic form that its tests compare it with.
//!
//! Integer sums of a block may be added in any order, so the bytes of a group of blocks are unpacked to where
//! few instructions can put them and the activations are laid out to match, once for all rows. A group of 128
//! values ends as a vector of 16 sums: the 128-bit lane is the class, the dword in it the row. One conversion,
//! one product and one multiply-add then serve four rows. To get there, sums of each row are added up across dwords;
//! or, where a byte holds parts of several values, the bytes of four rows are transposed before they are unpacked.
use super::Rows;
use crate::acts::Row;
use crate::format::Quantised;
use crate::isa::{Avx512Vnni, Op, Simd, four, two};
use std::arch::x86_64::*;

/// Wraps intrinsics: see `isa::x86`.
macro_rules! op {
    ($($body:tt)*) => {
        // SAFETY: an `Avx512Vnni` token is at hand, which proves the instructions; memory is reached only where
        // the function's own contract allows.
        unsafe { $($body)* }
    };
}
pub(super) use op;

/// A format with a form of its own for rows in fours.
pub(crate) trait Wide: Quantised {
    /// Values of a step: 128, or 256 for formats whose halves are unpacked together.
    const STEP: usize;
    /// Which 16 activations of a step, counted in sixteens, each lane of the layout holds.
    const ORDER: &'static [usize];
    /// Whether the dwords of a lane are of four rows: then four vectors take the place of one, in each of which a dword of
    /// every lane fills the lane.
    const TRANSPOSED: bool = false;
    /// Vectors of activations of a step.
    const VECTORS: usize = Self::ORDER.len() / 4 * if Self::TRANSPOSED { 4 } else { 1 };
    /// The class of each lane of the sums.
    const CLASSES: [usize; 4] = [0, 1, 2, 3];
    /// What is subtracted from the unpacked weights of each vector of sums.
    const LESS: [i32; 4] = [Self::BIAS; 4];
    /// For each vector of sums of a step which consecutive sixteens, from and how many, a lane adds up; none when
    /// nothing is subtracted.
    const SUMS: &'static [[(usize, usize); 4]];

    /// The chains of four rows with the products of step `s` added. A format has this or [`Wide::steps`].
    ///
    /// # Safety
    /// Each of `rows` points to the blocks of the step, and `acts` has it too.
    #[inline(always)]
    unsafe fn step(simd: Avx512Vnni, rows: [*const u8; 4], acts: &Layout, s: usize, acc: __m512) -> __m512 {
        let mut acc = [acc];
        op!(Self::steps(simd, [rows], acts, s, &mut acc));
        acc[0]
    }

    /// Adds the products of step `s` to the chains of N times four rows.
    ///
    /// # Safety
    /// As [`Wide::step`].
    #[inline(always)]
    unsafe fn steps<const N: usize>(
        simd: Avx512Vnni,
        rows: [[*const u8; 4]; N],
        acts: &Layout,
        s: usize,
        acc: &mut [__m512; N],
    ) {
        for (rows, acc) in rows.into_iter().zip(acc) {
            *acc = op!(Self::step(simd, rows, acts, s, *acc));
        }
    }
}

/// One token's activations, laid out for a format.
pub(crate) struct Layout {
    /// `[steps][VECTORS]`
    q: *const __m512i,
    /// [groups] scales, each class in all dwords of its lane.
    d: *const __m512,
    /// `[steps][SUMS]` vectors −LESS · Σ quants, in the first dword of each lane, or in all.
    init: *const __m512i,
    /// `[MINS][groups]` scaled sums, laid out as `d`.
    scaled: *const __m512,
    groups: usize,
}

impl Layout {
    /// Vector `i` of the activations.
    #[inline(always)]
    pub unsafe fn q(&self, i: usize) -> __m512i {
        op!(_mm512_load_si512(self.q.add(i)))
    }

    /// What the sums of vector `i` start with.
    #[inline(always)]
    pub unsafe fn init(&self, i: usize) -> __m512i {
        op!(_mm512_load_si512(self.init.add(i)))
    }

    /// acc + sum · d · (scale of the activations) for group `g`.
    #[inline(always)]
    pub unsafe fn chain(&self, g: usize, sum: __m512i, d: __m512, acc: __m512) -> __m512 {
        op!(self.chain_value(g, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), d), acc))
    }

    /// acc + value · (scale of the activations) for group `g`.
    #[inline(always)]
    pub unsafe fn chain_value(&self, g: usize, value: __m512, acc: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(value, _mm512_load_ps(self.d.add(g).cast()), acc))
    }

    /// The scaled sums for min `i` of group `g`.
    #[inline(always)]
    pub unsafe fn scaled(&self, i: usize, g: usize) -> __m512 {
        op!(_mm512_load_ps(self.scaled.add(i * self.groups + g).cast()))
    }
}

/// Four rows' partial sums to whole ones: dword r of a lane is the sum of that lane of `s[r]`.
#[inline(always)]
pub(super) fn reduce(s: [__m512i; 4]) -> __m512i {
    op! {
        let [low, high] = two!(i => {
            let (a, b) = (s[2 * i], s[2 * i + 1]);
            _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b))
        });
        _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high))
    }
}

/// The product of the rows of a matrix with one token.
pub(crate) struct WideRows<'a, Q>(pub Rows<'a, Q>);

impl<Q: Wide> WideRows<'_, Q> {
    #[inline(always)]
    pub fn call(mut self, simd: Avx512Vnni) {
        let Rows { ty, acts, ref mut scratch, .. } = self.0;
        let (groups, steps) = (acts.d.len() / 4, acts.q.len() / Q::STEP);
        let size = steps * (Q::VECTORS + Q::SUMS.len()) + groups * (1 + Q::MINS);
        let (memory, fresh) = scratch.lay_out(ty, size * 64);
        let layout = lay_out::<Q>(acts, memory, fresh);
        // Four times the activations are best loaded for twice the rows.
        if const { Q::TRANSPOSED } {
            self.walk::<2>(simd, &layout);
        } else {
            self.walk::<1>(simd, &layout);
        }
    }

    /// Takes N times four rows at once.
    #[inline(always)]
    fn walk<const N: usize>(&self, simd: Avx512Vnni, layout: &Layout) {
        let Rows { blocks, row_blocks, ref rows, acts, out, ahead, .. } = self.0;
        let bytes = row_blocks * Q::BLOCK_BYTES;
        let unit = Q::STEP / Q::BLOCK_LEN;
        let step_bytes = unit * Q::BLOCK_BYTES;
        let steps = row_blocks / unit;
        let rest = bytes - steps * step_bytes;
        let end = blocks.as_ptr_range().end.cast::<u8>();
        let mut padded = [[[0u8; 4 * 34]; 4]; N];
        for first in rows.clone().step_by(4 * N) {
            let count = (rows.end - first).min(4 * N);
            let mut starts = [[blocks.as_ptr().cast::<u8>(); 4]; N];
            for (i, start) in starts.as_flattened_mut().iter_mut().enumerate() {
                let r = first + i.min(count - 1);
                *start = blocks[r * row_blocks..(r + 1) * row_blocks].as_ptr().cast();
            }
            let ahead = ahead.after::<Avx512Vnni>((first - rows.start) * bytes, (4 * N - 1) * bytes);
            let mut acc = [op!(_mm512_setzero_ps()); N];
            for s in 0..steps {
                let at = s * step_bytes;
                ahead.ask(4 * N * at, 4 * N * step_bytes);
                let here = starts.map(|four| four.map(|row| row.wrapping_add(at)));
                op!(Q::steps(simd, here, layout, s, &mut acc));
            }
            if rest > 0 {
                // The activations there are zero: it does not matter that the blocks behind a row are the next's.
                // Behind the last they are made up.
                let mut last = starts.map(|four| four.map(|row| row.wrapping_add(bytes - rest)));
                for (row, padded) in last.as_flattened_mut().iter_mut().zip(padded.as_flattened_mut()) {
                    if row.wrapping_add(step_bytes) > end {
                        op!(std::ptr::copy_nonoverlapping(*row, padded.as_mut_ptr(), rest));
                        *row = padded.as_ptr();
                    }
                }
                op!(Q::steps(simd, last, layout, steps, &mut acc));
            }
            let mut y = [[0.0; 4]; N];
            for (y, &acc) in y.iter_mut().zip(&acc) {
                op! {
                    let lanes = [
                        _mm512_castps512_ps128(acc),
                        _mm512_extractf32x4_ps::<1>(acc),
                        _mm512_extractf32x4_ps::<2>(acc),
                        _mm512_extractf32x4_ps::<3>(acc),
                    ];
                    let class = |c: usize| lanes[Q::CLASSES[c]];
                    // The orders of classes in use are their own inverses: lane c' of class c has class c' in lane c.
                    let sum = _mm_add_ps(_mm_add_ps(class(0), class(1)), _mm_add_ps(class(2), class(3)));
                    _mm_storeu_ps(y.as_mut_ptr(), sum);
                }
            }
            // SAFETY: this thread owns the rows it was given.
            unsafe { out.put(simd, acts.t, first, &y.as_flattened()[..count]) };
        }
    }
}

/// Sixteen bytes to a lane.
///
/// # Safety
/// Each of `x` points to as many.
#[inline(always)]
pub(super) unsafe fn lanes_of(x: [*const u8; 4]) -> __m512i {
    op! {
        let [a, b, c, d] = four!(i => _mm_loadu_si128(x[i].cast()));
        let ab = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
        _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(ab, c), d)
    }
}

#[inline(always)]
fn store(to: &mut [u8; 64], x: __m512i) {
    op!(_mm512_storeu_si512(to.as_mut_ptr().cast(), x))
}

/// Puts each class into all dwords of its lane.
#[inline(always)]
fn spread<Q: Wide>(out: &mut [u8; 64], x: &[f32; 4]) {
    let [a, b, c, d] = four!(i => Q::CLASSES[i] as i32);
    op! {
        let index = _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
        let x = _mm512_castps128_ps512(_mm_loadu_ps(x.as_ptr()));
        _mm512_storeu_ps(out.as_mut_ptr().cast(), _mm512_permutexvar_ps(index, x))
    }
}

/// Puts each number into those `dwords` of its lane; the others are zero.
#[inline(always)]
fn in_lanes(out: &mut [u8; 64], dwords: u16, x: [i32; 4]) {
    op! {
        let index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        let x = _mm512_castsi128_si512(_mm_loadu_si128(x.as_ptr().cast()));
        store(out, _mm512_maskz_permutexvar_epi32(dwords, index, x))
    }
}

/// Fills the parts of a [`Layout`].
#[inline(always)]
fn fill<Q: Wide>(
    acts: Row,
    q: &mut [u8],
    d: &mut [[u8; 64]],
    scaled: &mut [[u8; 64]],
    init: &mut [[u8; 64]],
) {
    let blocks = acts.d.len();
    let groups = blocks / 4;
    let sixteens = Q::ORDER.len();
    let (from, _) = acts.q.as_chunks::<16>();
    let vectors = q.as_chunks_mut::<64>().0;
    for (to, from) in vectors.chunks_exact_mut(Q::VECTORS).zip(from.chunks_exact(sixteens)) {
        for (to, order) in to.chunks_exact_mut(4 * Q::VECTORS / sixteens).zip(Q::ORDER.as_chunks::<4>().0) {
            let x = op!(lanes_of(four!(i => from[order[i]].as_ptr().cast())));
            if Q::TRANSPOSED {
                op! {
                    store(&mut to[0], _mm512_shuffle_epi32::<0b00_00_00_00>(x));
                    store(&mut to[1], _mm512_shuffle_epi32::<0b01_01_01_01>(x));
                    store(&mut to[2], _mm512_shuffle_epi32::<0b10_10_10_10>(x));
                    store(&mut to[3], _mm512_shuffle_epi32::<0b11_11_11_11>(x));
                }
            } else {
                store(&mut to[0], x);
            }
        }
    }
    for (out, x) in d.iter_mut().zip(acts.d.as_chunks().0) {
        spread::<Q>(out, x);
    }
    for i in 0..Q::MINS {
        let sums = &acts.scaled[if Q::MINS == 1 { 2 } else { i } * blocks..][..blocks];
        for (out, x) in scaled[i * groups..(i + 1) * groups].iter_mut().zip(sums.as_chunks().0) {
            spread::<Q>(out, x);
        }
    }
    if !Q::SUMS.is_empty() {
        let (halves, whole) = acts.sums.split_at(2 * blocks);
        let halves = halves.split_at(blocks);
        let dwords = if Q::TRANSPOSED { 0xffff } else { 0x1111 };
        for (s, init) in init.chunks_exact_mut(Q::SUMS.len()).enumerate() {
            let from = s * sixteens / 2;
            let halves = (&halves.0[from..][..sixteens / 2], &halves.1[from..][..sixteens / 2]);
            let whole = &whole[from..][..sixteens / 2];
            for ((init, lanes), less) in init.iter_mut().zip(Q::SUMS).zip(Q::LESS) {
                in_lanes(
                    init,
                    dwords,
                    four!(i => -less * match lanes[i] {
                        (at, 2) => whole[at / 2],
                        (at, _) => if at % 2 == 0 { halves.0[at / 2] } else { halves.1[at / 2] },
                    }),
                );
            }
        }
    }
}

/// Lays activations out in `memory`, which holds them already unless it is `fresh`.
#[inline(always)]
fn lay_out<Q: Wide>(acts: Row, memory: &mut [u8], fresh: bool) -> Layout {
    let groups = acts.d.len() / 4;
    let (q, rest) = memory.split_at_mut(acts.q.len() / Q::STEP * Q::VECTORS * 64);
    let (vectors, _) = rest.as_chunks_mut::<64>();
    let (d, vectors) = vectors.split_at_mut(groups);
    let (scaled, init) = vectors.split_at_mut(groups * Q::MINS);

    if fresh {
        fill::<Q>(acts, q, d, scaled, init);
    }
    Layout {
        q: q.as_ptr().cast(),
        d: d.as_ptr().cast(),
        init: init.as_ptr().cast(),
        scaled: scaled.as_ptr().cast(),
        groups,
    }
}

impl<Q: Wide> Op for WideRows<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        WideRows::call(self, Avx512Vnni::new().expect("run with this token"));
    }
}
