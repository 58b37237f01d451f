//! Where products go, and what is done to finished values on the way.
use crate::ahead::{WRITE, prefetch};
use crate::isa::{Floats, Op, Simd};
use crate::team::SharedMut;
use std::ops::Range;

/// Where a product goes. Threads write the rows they own.
pub(crate) struct Out<'a> {
    /// Row of the product that `out` begins with.
    pub first_row: usize,
    pub out: SharedMut<'a, f32>,
    pub stride: usize,
    pub bias: Option<&'a [f32]>,
    pub add: bool,
    /// On every value, before bias and residual.
    pub factor: f32,
}

impl<'a> Out<'a> {
    /// Output of a [`Product`](crate::linear::Product).
    pub fn new(out: &'a mut [f32], stride: usize, bias: Option<&'a [f32]>, add: bool) -> Self {
        Out { first_row: 0, out: SharedMut::new(out), stride, bias, add, factor: 1.0 }
    }

    /// Asks for the memory where token `t` has these rows: another core may have it.
    #[inline(always)]
    pub fn ask(&self, t: usize, rows: Range<usize>) {
        let at = t * self.stride + rows.start - self.first_row;
        prefetch::<WRITE>(self.out.as_ptr().wrapping_add(at).cast(), 4 * rows.len());
    }

    /// Finishes the values of consecutive rows from `row` of token `t`: adds bias and residual and stores.
    ///
    /// # Safety
    /// The calling thread owns these rows of the product, or this token.
    #[inline(always)]
    pub unsafe fn put<S: Floats>(&self, s: S, t: usize, row: usize, y: &[f32]) {
        let at = t * self.stride + row - self.first_row;
        // SAFETY: rows have one owner each.
        let out = unsafe { self.out.slice(at..at + y.len()) };
        let bias = self.bias.map(|bias| &bias[row..row + y.len()]);
        let whole = y.len() / 16 * 16;
        for i in (0..whole).step_by(16) {
            let out: &mut [f32; 16] = out[i..].first_chunk_mut().expect("whole vectors");
            let mut v = s.mul(s.splat(self.factor), s.load(lanes(&y[i..])));
            if let Some(bias) = bias {
                v = s.add(v, s.load(lanes(&bias[i..])));
            }
            if self.add {
                v = s.add(s.load(out), v);
            }
            s.store(v, out);
        }
        for i in whole..y.len() {
            let y = self.factor * y[i];
            let y = match bias {
                Some(bias) => y + bias[i],
                None => y,
            };
            out[i] = if self.add { out[i] + y } else { y };
        }
    }

    /// Adds `x` times the values in `column`, of consecutive rows from `row`, to those of token `t`, rounded once.
    ///
    /// # Safety
    /// As [`Out::put`].
    #[inline(always)]
    pub unsafe fn add_scaled<S: Floats>(&self, s: S, t: usize, row: usize, x: f32, column: &[f32]) {
        let at = t * self.stride + row - self.first_row;
        // SAFETY: rows have one owner each.
        let out = unsafe { self.out.slice(at..at + column.len()) };
        let x = s.splat(self.factor * x);
        let (columns, rest) = column.as_chunks::<16>();
        let (outs, out) = out.as_chunks_mut::<16>();
        for (out, column) in outs.iter_mut().zip(columns) {
            s.store(s.fma(x, s.load(column), s.load(out)), out);
        }
        s.store_part(s.fma(x, s.load_part(rest), s.load_part(out)), out);
    }
}

/// The first 16.
#[inline(always)]
pub(crate) fn lanes(values: &[f32]) -> &[f32; 16] {
    values.first_chunk().expect("whole vectors")
}

/// Puts a tile of finished rows, `[tokens][stride]`.
pub(crate) struct PutTile<'a> {
    pub out: &'a Out<'a>,
    pub rows: Range<usize>,
    pub tile: &'a [f32],
    pub stride: usize,
}

impl Op for PutTile<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        for (t, y) in self.tile.chunks_exact(self.stride).enumerate() {
            // SAFETY: the thread that has the tile owns its rows.
            unsafe { self.out.put(simd, t, self.rows.start, &y[..self.rows.len()]) };
        }
    }
}
