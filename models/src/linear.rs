//! A frozen matrix of the model, used where it lies in the file.
use crate::gguf::{Gguf, TensorId};
use lapwing_kernels::matrix::{Columns, Matrix};
use std::sync::Arc;

/// The weights of one product `y = W·x + bias`: a tensor of the file, or some of its rows.
///
/// Holds no weights itself, only where they are, and a few columns; the bias is small and copied.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Name of the tensor. Several matrices share it when the file fuses them.
    name: String,
    tensor: TensorId,
    /// First row in the tensor.
    first_row: usize,
    rows: usize,
    cols: usize,
    bias: Option<Vec<f32>>,
    /// Decoded columns, which sessions share.
    columns: Arc<Columns>,
}

impl Linear {
    /// Rows `first_row..first_row + rows` of a tensor of `cols` values a row, which the caller has checked.
    pub(crate) fn new(name: String, tensor: TensorId, first_row: usize, rows: usize, cols: usize) -> Self {
        Self { name, tensor, first_row, rows, cols, bias: None, columns: Arc::default() }
    }

    /// Adds `bias`, one value per row.
    #[must_use]
    pub(crate) fn with_bias(mut self, bias: Option<Vec<f32>>) -> Self {
        debug_assert!(bias.as_ref().is_none_or(|bias| bias.len() == self.rows));
        self.bias = bias;
        self
    }

    /// Name of the tensor in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tensor in the file.
    pub(crate) fn tensor(&self) -> TensorId {
        self.tensor
    }

    /// First row of this matrix in its tensor: not 0 in fused tensors.
    pub fn first_row(&self) -> usize {
        self.first_row
    }

    /// Values of the result.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of the argument.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Added to the result, if anything: `[rows]`.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// The weights in the file that this was made from: `[rows][cols]`.
    ///
    /// # Panics
    /// May panic for another file.
    pub fn matrix<'a>(&'a self, gguf: &'a Gguf) -> Matrix<'a> {
        let tensor = gguf.by_id(self.tensor);
        let row_bytes = tensor.ty.row_bytes(self.cols).unwrap_or_default();
        let data = &tensor.data[self.first_row * row_bytes..][..self.rows * row_bytes];
        Matrix::new(tensor.ty, self.rows, self.cols, data)
            .expect("the shape was checked when the model was opened")
            .with_columns(&self.columns)
    }
}
