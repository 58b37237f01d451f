//! Matrix products of quantised or float weights with activations.
use crate::acts::{Acts, MATVEC_TOKENS};
use crate::format::TensorType;
use crate::linear_float::float_rows;
use crate::matvec::matvec;
use crate::panel::matmul;
use crate::team::{SharedMut, Team, Worker};
use std::ops::Range;

/// A weight matrix where it lies, for example in a mapped file: `rows` rows of `cols` values, each row
/// `ty.row_bytes(cols)` bytes. y = W·x has `rows` values.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    ty: TensorType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: &'a [u8],
}

/// The bytes do not hold a matrix of this shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes are not {rows} rows of {cols} {ty} values")]
pub struct ShapeError {
    /// Element type.
    pub ty: TensorType,
    /// Rows asked for.
    pub rows: usize,
    /// Values per row asked for.
    pub cols: usize,
    /// Bytes given.
    pub len: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix over exactly its bytes.
    ///
    /// # Errors
    /// `data` does not have the length of `rows` rows, or `cols` is not a whole number of blocks.
    pub fn new(ty: TensorType, rows: usize, cols: usize, data: &'a [u8]) -> Result<Matrix<'a>, ShapeError> {
        let row_bytes = ty.row_bytes(cols).filter(|bytes| bytes.checked_mul(rows) == Some(data.len()));
        match row_bytes {
            Some(row_bytes) => Ok(Matrix { ty, rows, cols, row_bytes, data }),
            None => Err(ShapeError { ty, rows, cols, len: data.len() }),
        }
    }

    /// Element type.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Number of rows: values of y.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row: values of x.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// All bytes, row after row.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The bytes of row `r`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, r: usize) -> &'a [u8] {
        &self.data[r * self.row_bytes..(r + 1) * self.row_bytes]
    }
}

/// One product of [`linear`]: `out[t][r] = Σ w[r]·x[t] + bias[r]`, added to what `out` holds when `add`.
pub struct Product<'a> {
    /// The weights.
    pub w: Matrix<'a>,
    /// One value per row.
    pub bias: Option<&'a [f32]>,
    /// [tokens][out_stride], of which the first `w.rows()` of a row are written.
    pub out: &'a mut [f32],
    /// Values from one token's output to the next, at least `w.rows()`.
    pub out_stride: usize,
    /// Add to `out` (a residual) in place of overwriting it.
    pub add: bool,
}

/// Rows are handed to the threads in units of this many, so that no two threads write one cache line of
/// an aligned output.
const UNIT: usize = 32;

/// Computes all products of the same activations in one phase of the team: q, k and v together, or gate
/// and up. `x` are the [tokens][cols] values that `acts` was set with; float weights read them.
///
/// The value of out\[t\]\[r\] depends only on row r, token t and the instruction set: not on the number of
/// threads, on the other tokens, or on the other products.
///
/// # Panics
/// When shapes do not fit: every `w.cols()` must be `acts.cols()`, and `out` must hold every token.
pub fn linear(team: &Team, acts: &Acts, x: &[f32], products: &mut [Product]) {
    let n = acts.tokens();
    assert_eq!(x.len(), n * acts.cols(), "x is what acts was set with");
    for p in &*products {
        assert_eq!(p.w.cols, acts.cols(), "columns of weights and activations");
        assert!(p.bias.is_none_or(|b| b.len() == p.w.rows), "one bias per row");
        assert!(p.out_stride >= p.w.rows && (n == 0 || p.out.len() >= (n - 1) * p.out_stride + p.w.rows));
    }
    if n == 0 {
        return;
    }
    let jobs: Vec<Job> = products
        .iter_mut()
        .map(|p| Job { w: p.w, out: Out::new(p.out, p.out_stride, p.bias, p.add) })
        .collect();
    team.run(|mut worker| {
        let units: usize = jobs.iter().map(Job::units).sum();
        let mine = worker.share(units);
        let mut first = 0;
        for job in &jobs {
            let part = mine.start.max(first)..mine.end.min(first + job.units());
            if part.start < part.end {
                let rows = (part.start - first) * UNIT..((part.end - first) * UNIT).min(job.w.rows);
                job.run(team, acts, x, rows, &mut worker);
            }
            first += job.units();
        }
    });
}

/// A product while threads share it.
struct Job<'a> {
    w: Matrix<'a>,
    out: Out<'a>,
}

impl Job<'_> {
    fn units(&self) -> usize {
        self.w.rows.div_ceil(UNIT)
    }

    /// Computes the rows `rows` for all tokens.
    fn run(&self, team: &Team, acts: &Acts, x: &[f32], rows: Range<usize>, worker: &mut Worker) {
        let (isa, scratch) = (team.isa(), &mut *worker.scratch);
        if !self.w.ty.is_quantised() {
            return float_rows(isa, &self.w, rows, x, &self.out, scratch);
        }
        if acts.tokens() > MATVEC_TOKENS {
            return matmul(isa, &self.w, rows, acts, &self.out, scratch);
        }
        for t in 0..acts.tokens() {
            matvec(isa, &self.w, rows.clone(), acts.row(t), t, &self.out, scratch);
        }
    }
}

/// Where a product goes. Threads write the rows they own.
pub(crate) struct Out<'a> {
    out: SharedMut<'a, f32>,
    stride: usize,
    bias: Option<&'a [f32]>,
    add: bool,
}

impl<'a> Out<'a> {
    /// Output of a [`Product`].
    pub fn new(out: &'a mut [f32], stride: usize, bias: Option<&'a [f32]>, add: bool) -> Self {
        Out { out: SharedMut::new(out), stride, bias, add }
    }

    /// Finishes the values of consecutive rows from `row` of token `t`: adds bias and residual and stores.
    ///
    /// # Safety
    /// The calling thread owns these rows of the product.
    #[inline(always)]
    pub unsafe fn put(&self, t: usize, row: usize, y: &[f32]) {
        let at = t * self.stride + row;
        // SAFETY: rows have one owner each.
        let out = unsafe { self.out.slice(at..at + y.len()) };
        for (i, (out, &y)) in out.iter_mut().zip(y).enumerate() {
            let y = match self.bias {
                Some(bias) => y + bias[row + i],
                None => y,
            };
            *out = if self.add { *out + y } else { y };
        }
    }
}

#[cfg(test)]
mod tests;
