//! Matrix products of quantised or float weights with activations.
use crate::acts::{Acts, MATVEC_TOKENS};
use crate::ahead::Ahead;
use crate::format::TensorType;
use crate::isa::Isa;
use crate::linear_float::float_rows;
use crate::low_rank::{Apply, LowRank};
use crate::matvec::matvec;
use crate::panel::matmul;
use crate::team::{Scratch, SharedMut, Team, Worker, pause};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

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

impl<'a> Matrix<'a> {
    /// The bytes of some rows.
    fn part(&self, rows: &Range<usize>) -> &'a [u8] {
        &self.data[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }
}

/// One product of [`linear`]: `out[t][r] = Σ w[r]·x[t] + bias[r]`, added to what `out` holds when `add`.
pub struct Product<'a> {
    /// The weights.
    pub w: Matrix<'a>,
    /// One value per row.
    pub bias: Option<&'a [f32]>,
    /// `[tokens][out_stride]`, of which the first `w.rows()` of a row are written.
    pub out: &'a mut [f32],
    /// Values from one token's output to the next, at least `w.rows()`.
    pub out_stride: usize,
    /// Add to `out` (a residual) in place of overwriting it.
    pub add: bool,
    /// Low-rank deltas on the weights, in the order in which they are summed.
    pub low_rank: &'a [LowRank<'a>],
}

/// Rows are handed to the threads in units of this many, so that no two threads write one cache line of
/// an aligned output.
const UNIT: usize = 32;

/// Computes all products of the same activations in one phase of the team: q, k and v together, or gate
/// and up. `x` are the `[tokens][cols]` values that `acts` was set with; float weights read them.
///
/// The value of `out[t][r]` depends only on row r, token t and the instruction set: not on the number of
/// threads, on the other tokens, or on the other products.
///
/// `next` are the weights that the next call will read: near its end this one asks memory for the first of them.
///
/// # Panics
/// When shapes do not fit: every `w.cols()` must be `acts.cols()`, and `out` must hold every token.
pub fn linear(team: &Team, acts: &Acts, x: &[f32], products: &mut [Product], next: &[Matrix]) {
    let n = acts.tokens();
    assert_eq!(x.len(), n * acts.cols(), "x is what acts was set with");
    for p in &*products {
        assert_eq!(p.w.cols, acts.cols(), "columns of weights and activations");
        assert!(p.bias.is_none_or(|b| b.len() == p.w.rows), "one bias per row");
        for d in p.low_rank {
            let fits = d.first_row.is_multiple_of(UNIT) && d.first_row + p.w.rows <= d.factors.rows();
            assert!(fits && d.factors.cols() == p.w.cols, "a delta has the shape of its weights");
            assert!(d.gain.is_none_or(|g| g.len() == d.factors.rows()), "one gain per row");
        }
        assert!(p.out_stride >= p.w.rows && (n == 0 || p.out.len() >= (n - 1) * p.out_stride + p.w.rows));
    }
    if n == 0 {
        return;
    }
    let ranks: usize = products.iter().flat_map(|p| p.low_rank).map(|d| d.factors.rank()).sum();
    let mut t = vec![0.0; n * ranks];
    let deltas = Deltas::new(products, &mut t, n);
    let jobs: Vec<Job> = products
        .iter_mut()
        .map(|p| Job { w: p.w, low_rank: p.low_rank, out: Out::new(p.out, p.out_stride, p.bias, p.add) })
        .collect();
    team.run(|mut worker| {
        let input = Input { isa: team.isa(), acts, x };
        deltas.multiply(input, &mut worker);
        let mut mine = parts(jobs.iter().map(|job| job.w), &worker).peekable();
        while let Some((i, rows)) = mine.next() {
            let then = match mine.peek() {
                Some((i, rows)) => jobs[*i].w.part(rows),
                None => {
                    let first = parts(next.iter().copied(), &worker).next();
                    first.map_or(&[][..], |(i, rows)| next[i].part(&rows))
                }
            };
            let ahead = Ahead { here: jobs[i].w.part(&rows), next: then };
            let first_delta = jobs[..i].iter().map(|job| job.low_rank.len()).sum();
            jobs[i].run(input, rows, &deltas, first_delta, &mut worker, ahead);
        }
    });
}

/// Which rows of which of the matrices a thread computes when the team shares them all.
fn parts<'a, M: Iterator<Item = Matrix<'a>> + Clone>(
    matrices: M,
    worker: &Worker,
) -> impl Iterator<Item = (usize, Range<usize>)> + use<'a, M> {
    let mine = worker.share(matrices.clone().map(|w| w.rows.div_ceil(UNIT)).sum());
    let mut first = 0;
    matrices.enumerate().filter_map(move |(i, w)| {
        let units = w.rows.div_ceil(UNIT);
        let part = mine.start.max(first)..mine.end.min(first + units);
        let rows =
            part.start.saturating_sub(first) * UNIT..(part.end.saturating_sub(first) * UNIT).min(w.rows);
        first += units;
        (part.start < part.end).then_some((i, rows))
    })
}

/// What all products of a call share.
#[derive(Clone, Copy)]
struct Input<'a> {
    isa: Isa,
    acts: &'a Acts,
    x: &'a [f32],
}

impl Input<'_> {
    /// Computes the rows `rows` of `w` for all tokens. With one token, weights are asked for `ahead`.
    fn multiply(self, w: &Matrix, rows: Range<usize>, out: &Out, scratch: &mut Scratch, ahead: Ahead) {
        let Input { isa, acts, x } = self;
        if !w.ty.is_quantised() {
            return float_rows(isa, w, rows, x, out, scratch, ahead);
        }
        if acts.tokens() > MATVEC_TOKENS {
            return matmul(isa, w, rows, acts, out, scratch);
        }
        for t in 0..acts.tokens() {
            matvec(isa, w, rows.clone(), acts.row(t), out, scratch, ahead);
        }
    }
}

/// The products t = s·A·x of all deltas, which the threads compute before the rows that need them. There is
/// no barrier: a thread waits, if at all, when its first rows are done.
struct Deltas<'a> {
    /// A of every delta, in the order of the products, and its t, `[tokens][rank]`.
    jobs: Vec<(Matrix<'a>, Out<'a>)>,
    /// Threads that have done their part.
    done: AtomicUsize,
}

impl<'a> Deltas<'a> {
    fn new(products: &[Product<'a>], t: &'a mut [f32], n: usize) -> Self {
        let (mut jobs, mut rest) = (Vec::new(), t);
        for delta in products.iter().flat_map(|p| p.low_rank) {
            let rank = delta.factors.rank();
            let (part, others) = rest.split_at_mut(n * rank);
            rest = others;
            let (out, factor) = (SharedMut::new(part), delta.scale);
            jobs.push((
                delta.factors.a(),
                Out { first_row: 0, out, stride: rank, bias: None, add: false, factor },
            ));
        }
        Self { jobs, done: AtomicUsize::new(0) }
    }

    /// This thread's part of all t.
    fn multiply(&self, input: Input<'_>, worker: &mut Worker) {
        if self.jobs.is_empty() {
            return;
        }
        // Told also when this thread panics, or the others would wait for ever.
        let _done = Told(&self.done);
        // Panels start at multiples of `UNIT`; a matrix times one token is cut finer, to share one delta.
        let unit = if input.acts.tokens() > MATVEC_TOKENS { UNIT } else { 4 };
        let units: usize = self.jobs.iter().map(|(a, _)| a.rows.div_ceil(unit)).sum();
        let mine = worker.share(units);
        let mut first = 0;
        for (a, out) in &self.jobs {
            let count = a.rows.div_ceil(unit);
            let part = mine.start.max(first)..mine.end.min(first + count);
            if part.start < part.end {
                let rows = (part.start - first) * unit..((part.end - first) * unit).min(a.rows);
                let ahead = Ahead { here: &a.data[rows.start * a.row_bytes..], next: &[] };
                input.multiply(a, rows, out, worker.scratch, ahead);
            }
            first += count;
        }
    }

    /// t of delta `i`, `[tokens][rank]`, once every thread has done its part.
    fn t(&self, i: usize, threads: usize) -> &[f32] {
        let mut spins = 0;
        while self.done.load(Ordering::Acquire) < threads {
            pause(&mut spins);
        }
        // SAFETY: all writes came before the counts that were acquired, and none come after.
        unsafe { self.jobs[i].1.out.all() }
    }
}

struct Told<'a>(&'a AtomicUsize);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Values of a tile whose rows are finished together: 256 KiB, a part of the L2 cache.
const TILE: usize = 1 << 16;

/// A product while threads share it.
struct Job<'a> {
    w: Matrix<'a>,
    low_rank: &'a [LowRank<'a>],
    out: Out<'a>,
}

impl Job<'_> {
    /// Computes the rows `rows` for all tokens; the deltas of this product are those from `first_delta` on.
    fn run(
        &self,
        input: Input<'_>,
        rows: Range<usize>,
        deltas: &Deltas,
        first_delta: usize,
        worker: &mut Worker,
        ahead: Ahead,
    ) {
        if self.low_rank.is_empty() {
            return input.multiply(&self.w, rows, &self.out, worker.scratch, ahead);
        }
        let n = input.acts.tokens();
        let step = (TILE / n / UNIT * UNIT).clamp(UNIT, 8 * UNIT);
        let mut row = rows.start;
        while row < rows.end {
            let count = step.min(rows.end - row);
            let stride = count.next_multiple_of(16);
            let tile = worker.tile.get::<f32>(n * stride);
            let shared = SharedMut::new(tile);
            let out = Out { first_row: row, out: shared, stride, bias: None, add: false, factor: 1.0 };
            let ahead = Ahead { here: &ahead.here[(row - rows.start) * self.w.row_bytes..], ..ahead };
            input.multiply(&self.w, row..row + count, &out, worker.scratch, ahead);
            for (i, &delta) in self.low_rank.iter().enumerate() {
                let (t, t_stride) = (deltas.t(first_delta + i, worker.count), delta.factors.rank());
                input.isa.dispatch_floats(Apply {
                    delta,
                    t,
                    t_stride,
                    row,
                    rows: count,
                    tile: &mut *tile,
                    stride,
                });
            }
            for (t, y) in tile.chunks_exact(stride).enumerate() {
                // SAFETY: this thread owns the rows it was given.
                unsafe { self.out.put(t, row, &y[..count]) };
            }
            row += count;
        }
    }
}

/// Where a product goes. Threads write the rows they own.
pub(crate) struct Out<'a> {
    /// Row of the product that `out` begins with.
    first_row: usize,
    out: SharedMut<'a, f32>,
    stride: usize,
    bias: Option<&'a [f32]>,
    add: bool,
    /// On every value, before bias and residual.
    factor: f32,
}

impl<'a> Out<'a> {
    /// Output of a [`Product`].
    pub fn new(out: &'a mut [f32], stride: usize, bias: Option<&'a [f32]>, add: bool) -> Self {
        Out { first_row: 0, out: SharedMut::new(out), stride, bias, add, factor: 1.0 }
    }

    /// Finishes the values of consecutive rows from `row` of token `t`: adds bias and residual and stores.
    ///
    /// # Safety
    /// The calling thread owns these rows of the product.
    #[inline(always)]
    pub unsafe fn put(&self, t: usize, row: usize, y: &[f32]) {
        let at = t * self.stride + row - self.first_row;
        // SAFETY: rows have one owner each.
        let out = unsafe { self.out.slice(at..at + y.len()) };
        for (i, (out, &y)) in out.iter_mut().zip(y).enumerate() {
            let y = self.factor * y;
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
