//! Weight matrices where they lie, and columns of them that are kept decoded.
use crate::format::{Quantised, TensorType, as_blocks, with_quantised};
use crate::team::{SharedMut, Team};
use std::ops::Range;
use std::sync::OnceLock;
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
    columns: Option<&'a Columns>,
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
            Some(row_bytes) => Ok(Matrix { ty, rows, cols, row_bytes, data, columns: None }),
            None => Err(ShapeError { ty, rows, cols, len: data.len() }),
        }
    }

    /// With a place where products keep columns of this matrix, and of no other.
    #[must_use]
    pub fn with_columns(self, columns: &'a Columns) -> Self {
        Matrix { columns: Some(columns), ..self }
    }

    /// Columns of this matrix that are kept.
    pub(crate) fn columns(&self) -> Option<&'a Columns> {
        self.columns
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

    /// The bytes of some rows.
    pub(crate) fn part(&self, rows: &Range<usize>) -> &'a [u8] {
        &self.data[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }
}

/// The columns of a quantised matrix that meet outliers, decoded: in decode a row is then read but once. Which channels
/// have outliers hardly changes from token to token, so that few columns serve nearly all.
///
/// They are kept as they are needed, and change no bit of a product.
#[derive(Debug, Default)]
pub struct Columns {
    kept: [OnceLock<Column>; KEPT],
    /// The channel of a column that was missing, plus one.
    missing: AtomicUsize,
}

#[derive(Debug)]
struct Column {
    channel: usize,
    values: Vec<f32>,
}

/// Most columns that are kept of a matrix.
const KEPT: usize = 16;

impl Columns {
    /// The values of all rows in a channel, if they are kept.
    pub(crate) fn get(&self, channel: usize) -> Option<&[f32]> {
        let mut kept = self.kept.iter().map_while(OnceLock::get);
        kept.find(|column| column.channel == channel).map(|column| &column.values[..])
    }

    /// Says that a column was missing.
    pub(crate) fn ask(&self, channel: usize) {
        self.missing.store(channel + 1, Ordering::Relaxed);
    }

    /// Which are kept, in the order in which they came.
    #[cfg(test)]
    pub(crate) fn channels(&self) -> impl Iterator<Item = usize> {
        self.kept.iter().map_while(OnceLock::get).map(|column| column.channel)
    }

    /// Keeps a column of `w` that was missing, if there is room for it.
    pub(crate) fn keep_missing(&self, team: &Team, w: &Matrix) {
        if self.missing.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Another session that shares the columns may have taken it since.
        let Some(channel) = self.missing.swap(0, Ordering::Relaxed).checked_sub(1) else { return };
        let Some(free) = self.kept.iter().find(|kept| kept.get().is_none()) else { return };
        if self.get(channel).is_some() {
            return;
        }
        let mut values = vec![0.0; w.rows()];
        let shared = SharedMut::new(&mut values);
        team.run(|worker| {
            let rows = worker.share(w.rows());
            // SAFETY: the shares of the workers are disjoint.
            let values = unsafe { shared.slice(rows.clone()) };
            with_quantised!(w.ty(), Q => decode_column::<Q>(w, rows.start, channel, values), else => unreachable!());
        });
        // If another session came first, nothing is lost but the work.
        let _ = free.set(Column { channel, values });
    }
}

/// The values of consecutive rows of `w`, from row `first` on, in one channel.
#[inline(always)]
pub(crate) fn decode_column<Q: Quantised>(w: &Matrix, first: usize, channel: usize, values: &mut [f32]) {
    let row_blocks = w.cols() / Q::BLOCK_LEN;
    let blocks = &as_blocks::<Q>(w.data())[first * row_blocks + channel / Q::BLOCK_LEN..];
    for (value, block) in values.iter_mut().zip(blocks.iter().step_by(row_blocks)) {
        *value = block.value(channel % Q::BLOCK_LEN);
    }
}
