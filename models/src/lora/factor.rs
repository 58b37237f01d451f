//! One matrix of an adapter, left where it lies in its file until it is packed.
use std::ops::Range;
use std::sync::Arc;

use lapwing_kernels::{TensorType, decode_row, not_finite};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorId};
use crate::os::Bytes;

/// Where the bytes of a factor lie.
#[derive(Clone, Debug)]
pub enum Source {
    /// A range of a file.
    File(Arc<Bytes>, Range<usize>),
    /// A tensor of a GGUF file.
    Gguf(Arc<Gguf>, TensorId),
}

impl Source {
    fn bytes(&self) -> &[u8] {
        match self {
            Source::File(bytes, range) => bytes.get(range.clone()).unwrap_or(&[]),
            Source::Gguf(file, id) => file.by_id(*id).data,
        }
    }
}

/// Element types of adapter tensors in safetensors and GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
    /// 8-bit float, 4 exponent bits, no infinities (OCP E4M3FN).
    F8E4M3,
    /// 8-bit float, 5 exponent bits (OCP E5M2).
    F8E5M2,
    /// GGUF blocks of 32 with one f16 scale.
    Q8_0,
}

impl Dtype {
    /// Bytes of `count` values; `None` when they do not fill whole blocks or the size overflows.
    pub fn bytes(self, count: usize) -> Option<usize> {
        match self {
            Dtype::F64 => count.checked_mul(8),
            Dtype::F32 => count.checked_mul(4),
            Dtype::F16 | Dtype::Bf16 => count.checked_mul(2),
            Dtype::F8E4M3 | Dtype::F8E5M2 => Some(count),
            Dtype::Q8_0 => count.is_multiple_of(32).then(|| count / 32 * 34),
        }
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F64 => "f64",
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::F8E4M3 => "f8_e4m3",
            Dtype::F8E5M2 => "f8_e5m2",
            Dtype::Q8_0 => "q8_0",
        }
    }
}

/// A matrix `[rows][cols]` in an adapter file; vectors have one column.
#[derive(Clone)]
pub struct Factor {
    /// Rows after transposition.
    pub rows: usize,
    /// Columns after transposition.
    pub cols: usize,
    /// Element type in the file.
    pub dtype: Dtype,
    source: Source,
    transposed: bool,
}

impl std::fmt::Debug for Factor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Factor[{}][{}] {}", self.rows, self.cols, self.dtype.name())
    }
}

impl Factor {
    /// A `[rows][cols]` matrix whose values are all bytes of `source`.
    ///
    /// # Errors
    /// The source does not have the size of the matrix.
    pub fn new(source: Source, dtype: Dtype, rows: usize, cols: usize) -> Result<Self> {
        let needed = rows.checked_mul(cols).and_then(|n| dtype.bytes(n));
        let has = source.bytes().len();
        if needed != Some(has) {
            return Err(Error::bad_file("tensor does not have the size of its shape").expected_got(
                needed.map_or_else(|| "a size that can be represented".into(), |n| format!("{n} bytes")),
                format!("{has} bytes"),
            ));
        }
        Ok(Self { rows, cols, dtype, source, transposed: false })
    }

    /// The same data seen with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Bytes in the file.
    pub fn raw(&self) -> &[u8] {
        self.source.bytes()
    }

    /// The values as f32, `[rows][cols]`.
    pub fn to_f32(&self) -> Vec<f32> {
        let values = self.stored();
        if !self.transposed {
            return values;
        }
        let mut out = vec![0.0; values.len()];
        for (i, v) in values.iter().enumerate() {
            let (stored_row, stored_col) = (i / self.rows, i % self.rows);
            out[stored_col * self.cols + stored_row] = *v;
        }
        out
    }

    fn stored(&self) -> Vec<f32> {
        let raw = self.raw();
        let row = |ty| {
            let mut out = vec![0.0; self.rows * self.cols];
            decode_row(ty, raw, &mut out);
            out
        };
        match self.dtype {
            Dtype::F64 => raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::F32 => row(TensorType::F32),
            Dtype::F16 => row(TensorType::F16),
            Dtype::Bf16 => row(TensorType::Bf16),
            Dtype::F8E4M3 => raw.iter().map(|b| f8(*b, 3, 7, true)).collect(),
            Dtype::F8E5M2 => raw.iter().map(|b| f8(*b, 2, 15, false)).collect(),
            Dtype::Q8_0 => row(TensorType::Q8_0),
        }
    }

    /// # Errors
    /// The first value that is not a finite f32, with its position.
    pub fn check_finite(&self) -> Result<()> {
        // An exponent of ones only is what infinities and NaN have; looking at all of them vectorises.
        macro_rules! below {
            ($word:ident, $exponent:literal) => {
                !self
                    .raw()
                    .as_chunks()
                    .0
                    .iter()
                    .fold(false, |any, bytes| any | ($word::from_le_bytes(*bytes) & $exponent == $exponent))
            };
        }
        let finite = match self.dtype {
            Dtype::F32 => below!(u32, 0x7f80_0000),
            Dtype::F16 => below!(u16, 0x7c00),
            Dtype::Bf16 => below!(u16, 0x7f80),
            _ => false,
        };
        if finite {
            return Ok(());
        }
        match not_finite(&self.stored()) {
            None => Ok(()),
            Some(at) => Err(Error::bad_file("the adapter holds a value that is not a finite number")
                .expected_got("finite numbers", format!("another at element {at}"))),
        }
    }

    pub(crate) fn update_hash(&self, hash: &mut Sha256) {
        hash.update([self.dtype as u8, u8::from(self.transposed)]);
        hash.update((self.rows as u64).to_le_bytes());
        hash.update((self.cols as u64).to_le_bytes());
        hash.update(self.raw());
    }
}

/// An 8-bit float with `mantissa` bits and exponent bias `bias`; `finite_only` formats spend the top code on NaN alone.
fn f8(byte: u8, mantissa: u32, bias: i32, finite_only: bool) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(byte & ((1 << mantissa) - 1)) / (1u32 << mantissa) as f32;
    let exponent = i32::from((byte & 0x7f) >> mantissa);
    let top = 0x7f >> mantissa;
    match (finite_only, byte & 0x7f) {
        (true, 0x7f) => return f32::NAN,
        (false, _) if exponent == top => {
            return if fraction == 0.0 { sign * f32::INFINITY } else { f32::NAN };
        }
        _ => {}
    }
    sign * if exponent == 0 {
        fraction * 2f32.powi(1 - bias)
    } else {
        (1.0 + fraction) * 2f32.powi(exponent - bias)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use half::{bf16, f16};

    use super::*;

    fn factor(dtype: Dtype, raw: &[u8], rows: usize, cols: usize) -> Result<Factor> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(raw).unwrap();
        let bytes = Bytes::read(&file, raw.len() as u64, Path::new("factor")).unwrap();
        Factor::new(Source::File(Arc::new(bytes), 0..raw.len()), dtype, rows, cols)
    }

    #[test]
    fn every_dtype_decodes() {
        let one = |d, raw: &[u8]| factor(d, raw, 1, 1).unwrap().to_f32()[0];
        assert_eq!(one(Dtype::F64, &(-1.5f64).to_le_bytes()), -1.5);
        assert_eq!(one(Dtype::F32, &0.25f32.to_le_bytes()), 0.25);
        assert_eq!(one(Dtype::F16, &f16::from_f32(-0.5).to_le_bytes()), -0.5);
        assert_eq!(one(Dtype::Bf16, &bf16::from_f32(3.0).to_le_bytes()), 3.0);
        // OCP 8-bit floats: largest, one, smallest subnormal.
        assert_eq!(one(Dtype::F8E4M3, &[0x7e]), 448.0);
        assert_eq!(one(Dtype::F8E4M3, &[0xb8]), -1.0);
        assert_eq!(one(Dtype::F8E4M3, &[0x01]), 2f32.powi(-9));
        assert!(one(Dtype::F8E4M3, &[0xff]).is_nan());
        assert_eq!(one(Dtype::F8E5M2, &[0x7b]), 57344.0);
        assert_eq!(one(Dtype::F8E5M2, &[0x3c]), 1.0);
        assert_eq!(one(Dtype::F8E5M2, &[0x01]), 2f32.powi(-16));
        assert!(one(Dtype::F8E5M2, &[0x7c]).is_infinite());
        let mut block = f16::from_f32(0.5).to_le_bytes().to_vec();
        block.extend((0..32u8).map(|i| i.wrapping_sub(16)));
        let q = factor(Dtype::Q8_0, &block, 1, 32).unwrap().to_f32();
        assert_eq!((q[0], q[31]), (-8.0, 7.5));
    }

    #[test]
    fn transposition_exchanges_rows_and_columns() {
        let raw: Vec<u8> = (0..6u8).flat_map(|v| f32::from(v).to_le_bytes()).collect();
        let t = factor(Dtype::F32, &raw, 2, 3).unwrap().transposed();
        assert_eq!((t.rows, t.cols), (3, 2));
        assert_eq!(t.to_f32(), [0., 3., 1., 4., 2., 5.]);
    }

    #[test]
    fn sizes_and_values_are_checked() {
        assert!(factor(Dtype::F32, &[0; 7], 2, 1).is_err());
        assert!(factor(Dtype::F64, &[0; 8], usize::MAX, 2).is_err());
        let good = |dtype, raw: &[u8]| factor(dtype, raw, 1, 1).unwrap().check_finite().is_ok();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!good(Dtype::F32, &bad.to_le_bytes()));
            assert!(!good(Dtype::F16, &f16::from_f32(bad).to_le_bytes()));
            assert!(!good(Dtype::Bf16, &bf16::from_f32(bad).to_le_bytes()));
        }
        assert!(good(Dtype::F32, &f32::MIN.to_le_bytes()) && good(Dtype::F16, &f16::MIN.to_le_bytes()));
        assert!(good(Dtype::Bf16, &bf16::MIN.to_le_bytes()));
        assert!(factor(Dtype::F64, 1e300f64.to_le_bytes().as_slice(), 1, 1).unwrap().check_finite().is_err());
    }
}
