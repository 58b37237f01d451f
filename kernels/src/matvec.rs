//! Decode: rows of a quantised matrix times one token's activations.
//!
//! The order of summation is the one all quantised products share. Block b of 32 values belongs to class
//! b mod 4, and each class has one chain of f32 sums in ascending b:
//!
//! ```text
//!     t = scale · Σ (weight − BIAS) · activation      the sum is exact, in integers
//!     t = scale1 · Σ over the second half + t         only with two scales per block
//!     acc = t · (activation scale) + acc              fused, as the next
//!     acc = min · (scaled sum of activations) + acc   once for each min
//! ```
//!
//! and the result is (acc0 + acc1) + (acc2 + acc3). Here the four classes are the four lanes of a vector.
#[cfg(target_arch = "x86_64")]
mod pair;
#[cfg(target_arch = "x86_64")]
mod pair256;
#[cfg(target_arch = "x86_64")]
pub(crate) mod wide;
#[cfg(target_arch = "x86_64")]
mod wide256;
#[cfg(target_arch = "x86_64")]
mod wide32;

use crate::acts::{BLOCK, GROUP, Row};
use crate::ahead::{Ahead, Stream};
#[cfg(target_arch = "x86_64")]
use crate::format::blocks;
use crate::format::{Group, Quantised, TensorType, as_blocks, with_quantised};
use crate::isa::{Isa, Op, Simd};
use crate::matrix::Matrix;
use crate::out::Out;
use crate::panel::unpack_rest;
use crate::team::Scratch;
use std::ops::Range;

/// Rows that are finished together: a vector of products.
const AT_ONCE: usize = 16;

/// Computes `rows` of `w` times `acts`.
pub(crate) fn matvec(
    isa: Isa,
    w: &Matrix,
    rows: Range<usize>,
    acts: Row,
    out: &Out,
    scratch: &mut Scratch,
    ahead: Ahead,
) {
    #[cfg(target_arch = "x86_64")]
    {
        // Of these formats several rows together.
        macro_rules! together {
            ($simd:ident, $several:path: $($format:ident)*) => {
                match w.ty() {
                    $(TensorType::$format => {
                        let rows = Rows::<blocks::$format>::new(w, rows, acts, out, scratch, ahead);
                        return $simd.run($several(rows));
                    })*
                    _ => {}
                }
            };
        }
        if let (Isa::Avx512Vnni, Some(simd)) = (isa, crate::isa::Avx512Vnni::new()) {
            together!(simd, wide::WideRows: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Iq4Nl Q2K Q3K Q4K Q5K Q6K Iq4Xs);
        }
        if let (Isa::Avx2, Some(simd)) = (isa, crate::isa::Avx2::new()) {
            // Q8_0, which memory limits, is slower in pairs.
            together!(simd, pair::PairRows: Q4_0 Q4_1 Q5_0 Q5_1 Iq4Nl Q2K Q3K Q4K Q5K Q6K Iq4Xs);
        }
    }
    with_quantised!(w.ty(), Q => isa.dispatch(Rows::<Q>::new(w, rows, acts, out, scratch, ahead)),
        else => unreachable!("float weights have their own kernels"));
}

pub(crate) struct Rows<'a, Q> {
    ty: TensorType,
    /// `[rows][cols / BLOCK_LEN]`
    blocks: &'a [Q],
    row_blocks: usize,
    rows: Range<usize>,
    acts: Row<'a>,
    out: &'a Out<'a>,
    scratch: &'a mut Scratch,
    ahead: Ahead<'a>,
}

impl<'a, Q: Quantised> Rows<'a, Q> {
    pub fn new(
        w: &Matrix<'a>,
        rows: Range<usize>,
        acts: Row<'a>,
        out: &'a Out<'a>,
        scratch: &'a mut Scratch,
        ahead: Ahead<'a>,
    ) -> Self {
        let row_blocks = w.cols() / Q::BLOCK_LEN;
        Rows { ty: w.ty(), blocks: as_blocks(w.data()), row_blocks, rows, acts, out, scratch, ahead }
    }
}

impl<Q: Quantised> Op for Rows<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let t = self.acts.t;
        let less = Q::BIAS - simd.offset(Q::MAX);
        let acts = Prepared::new(self.ty, less, self.acts, self.scratch);
        for first in self.rows.clone().step_by(AT_ONCE) {
            let mut y = [0.0; AT_ONCE];
            let y = &mut y[..(self.rows.end - first).min(AT_ONCE)];
            for (r, y) in (first..).zip(y.iter_mut()) {
                let before = (r - self.rows.start) * self.row_blocks * Q::BLOCK_BYTES;
                let ahead = self.ahead.after::<S>(before, 0);
                *y = row::<S, Q>(simd, &self.blocks[r * self.row_blocks..], self.row_blocks, &acts, ahead);
            }
            // SAFETY: this thread owns the rows it was given.
            unsafe { self.out.put(simd, t, first, y) };
        }
    }
}

/// Activations cut into groups of 128 values; a lane of each array is a class.
struct Prepared<'a> {
    q: &'a [[i8; GROUP]],
    d: &'a [[f32; 4]],
    /// −less · Σ quants: of first halves, second halves, whole blocks.
    init: [&'a [[i32; 4]]; 3],
    /// scale · Σ quants, likewise.
    scaled: [&'a [[f32; 4]]; 3],
}

impl<'a> Prepared<'a> {
    /// For weights from which `less` is to be subtracted.
    #[inline(always)]
    fn new(ty: TensorType, less: i32, row: Row<'a>, scratch: &'a mut Scratch) -> Self {
        let (init, fresh) = scratch.lay_out::<i32>(ty, row.sums.len());
        if fresh {
            for (init, &sum) in init.iter_mut().zip(row.sums) {
                *init = -less * sum;
            }
        }
        let init = &*init;
        let blocks = row.q.len() / BLOCK;
        let q = row.q.as_chunks().0;
        // The same length for all, so that one check of an index is enough.
        let groups = q.len();
        Prepared {
            q,
            d: &row.d.as_chunks().0[..groups],
            init: std::array::from_fn(|i| &init[i * blocks..].as_chunks().0[..groups]),
            scaled: std::array::from_fn(|i| &row.scaled[i * blocks..].as_chunks().0[..groups]),
        }
    }
}

/// The product of the row that `blocks` begins with; as many bytes from `ahead` on will be needed later.
#[inline(always)]
fn row<S: Simd, Q: Quantised>(
    simd: S,
    blocks: &[Q],
    row_blocks: usize,
    acts: &Prepared,
    ahead: Stream,
) -> f32 {
    let mut acc = simd.f4_splat(0.0);
    // Added a group later: the processor does not look far enough ahead to find other work while it waits for the sums.
    let mut last = Products::none(simd);
    let mut g = 0;
    let units = blocks[..row_blocks].chunks_exact(Q::UNIT);
    let rest = units.remainder().len();
    for (i, unit) in units.enumerate() {
        ahead.ask(i * size_of_val(unit), size_of_val(unit));
        for half in 0..Q::HALVES {
            let next = Products::new::<Q>(simd, Q::unpack128(simd, unit, half), acts, g);
            acc = last.add::<Q>(simd, acc);
            last = next;
            g += 1;
        }
    }
    if rest > 0 {
        // The activations there are zero: it does not matter that the blocks behind a row are the next's.
        let mut group = match blocks.get(row_blocks - rest..row_blocks - rest + Q::UNIT) {
            Some(unit) => Q::unpack128(simd, unit, 0),
            None => unpack_rest::<S, Q>(simd, &blocks[row_blocks - rest..]),
        };
        let next = if rest <= 2 {
            // Known zeros, which the compiler does not multiply.
            let zero = simd.b_splat(simd.offset(Q::MAX) as u8);
            group.q[2..].fill(zero);
            Products::new::<Q>(simd, group, acts, g)
        } else {
            Products::new::<Q>(simd, group, acts, g)
        };
        acc = last.add::<Q>(simd, acc);
        last = next;
    }
    simd.f4_sum(last.add::<Q>(simd, acc))
}

/// The products of a group of a row.
struct Products<'a, S: Simd> {
    /// Of the whole blocks, or of each half.
    sums: [S::I4; 2],
    d: [S::F4; 2],
    m: [S::F4; 2],
    /// Of the group's activations: scales, and scaled sums as in [`Prepared`].
    acts: &'a [f32; 4],
    scaled: [&'a [f32; 4]; 3],
}

impl<'a, S: Simd> Products<'a, S> {
    /// Of a group of zeros.
    #[inline(always)]
    fn none(simd: S) -> Self {
        let (zero, none) = (simd.f4_splat(0.0), &[0.0; 4]);
        Products {
            sums: [simd.i4_load(&[0; 4]); 2],
            d: [zero; 2],
            m: [zero; 2],
            acts: none,
            scaled: [none; 3],
        }
    }

    #[inline(always)]
    fn new<Q: Quantised>(simd: S, group: Group<S>, acts: &Prepared<'a>, g: usize) -> Self {
        let [lo, hi] = simd.dots(Q::MAX, group.q, &acts.q[g]);
        let init = |i: usize| simd.i4_load(&acts.init[i][g]);
        let sums = if Q::SCALES == 1 {
            [simd.i4_add(simd.i4_add(lo, hi), init(2)); 2]
        } else {
            [simd.i4_add(lo, init(0)), simd.i4_add(hi, init(1))]
        };
        Products {
            sums,
            d: group.d,
            m: group.m,
            acts: &acts.d[g],
            scaled: acts.scaled.map(|scaled| &scaled[g]),
        }
    }

    /// Adds the products to the chains.
    #[inline(always)]
    fn add<Q: Quantised>(self, simd: S, acc: S::F4) -> S::F4 {
        let mut t = simd.f4_mul(simd.i4_float(self.sums[0]), self.d[0]);
        if Q::SCALES == 2 {
            t = simd.f4_fma(simd.i4_float(self.sums[1]), self.d[1], t);
        }
        let acc = simd.f4_fma(t, simd.f4_load(self.acts), acc);
        let scaled = self.scaled.map(|scaled| simd.f4_load(scaled));
        match Q::MINS {
            0 => acc,
            1 => simd.f4_fma(self.m[0], scaled[2], acc),
            _ => simd.f4_fma(self.m[1], scaled[1], simd.f4_fma(self.m[0], scaled[0], acc)),
        }
    }
}
