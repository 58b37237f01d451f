//! Block formats of GGUF tensors, one file per format.
//!
//! A new format is a new file and a line in `tensor_type.rs` (beside its `mod` line here).
mod block;
mod fit;
mod iq4_nl;
mod iq4_xs;
mod plain;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod tensor_type;
mod unpack;

use crate::isa::{Isa, Op, Simd};
pub use block::{Bytes, as_blocks, as_blocks_mut};
#[cfg(target_arch = "x86_64")]
pub(crate) use iq4_nl::{BIASED as IQ4_BIASED, LUT as IQ4_LUT};
pub(crate) use tensor_type::with_format;
pub use tensor_type::{TensorType, blocks};
#[allow(unused_imports)] // For the kernels.
pub(crate) use tensor_type::{with_plain, with_quantised};
pub use unpack::{Group, Narrow, Quantised};
#[cfg(target_arch = "x86_64")]
pub(crate) use {q2_k::two_bits, q3_k::three_bits};

/// One block format: what its bytes mean.
///
/// Every function accepts any bytes as a block: scales may be infinite or NaN, and then so are the values.
pub trait Format: Bytes {
    /// The type of tensors made of these blocks.
    const TYPE: TensorType;
    /// Values in one block.
    const BLOCK_LEN: usize;
    /// Bytes of one block.
    const BLOCK_BYTES: usize = size_of::<Self>();
    /// Whether [`Format::encode`] is there; else the format is only read.
    const CAN_ENCODE: bool = false;

    /// The `BLOCK_LEN` values of the block, correctly rounded to f32; `out` has exactly that length.
    ///
    /// Mark it and `encode` `#[inline(always)]`: rows are worked on with the instructions of the machine.
    fn decode(&self, out: &mut [f32]);

    /// The block nearest to `BLOCK_LEN` finite values (plain types take any values).
    fn encode(values: &[f32]) -> Option<Self> {
        let _ = values;
        None
    }

    /// A synthetic block: finite values with mean 0 and about the standard deviation `std`, from random bits.
    fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self;
}

/// Why a row could not be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// This format is only read.
    #[error("encoding to {0} is not supported")]
    Unsupported(TensorType),
    /// The output does not have the size of the row, or the row is not a whole number of blocks.
    #[error("a row of {values} values does not fill {bytes} bytes of {ty}")]
    Length {
        /// The target type.
        ty: TensorType,
        /// Values given.
        values: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// A value that no quantised block can hold.
    #[error("value {index} of the row is not finite")]
    NotFinite {
        /// Index in the row.
        index: usize,
    },
}

/// Decodes a row: `src` holds `ty.row_bytes(out.len())` bytes. Any bytes are accepted; infinite or NaN scales give
/// infinite or NaN values.
///
/// # Panics
/// When the lengths do not belong together; rows of a checked matrix always do.
pub fn decode_row(ty: TensorType, src: &[u8], out: &mut [f32]) {
    assert_eq!(ty.row_bytes(out.len()), Some(src.len()), "decode_row: lengths of a {ty} row");
    with_format!(ty, F => Isa::best().dispatch(Decode(as_blocks::<F>(src), out)));
}

/// Row loops run with the best instruction set of the machine for what the compiler makes of them; every one gives the
/// same bits, as no multiplication is fused with an addition unless the source says so.
struct Decode<'a, F>(&'a [F], &'a mut [f32]);

impl<F: Format> Op for Decode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        for (block, out) in self.0.iter().zip(self.1.chunks_exact_mut(F::BLOCK_LEN)) {
            block.decode(out);
        }
    }
}

/// Where the first value is that is infinite or NaN.
pub fn not_finite(values: &[f32]) -> Option<usize> {
    // Looking at all of them vectorises, stopping at the first does not.
    let any = values.iter().fold(false, |any, v| any | !v.is_finite());
    if any { values.iter().position(|v| !v.is_finite()) } else { None }
}

/// Encodes a row of values into `dst`, which holds `ty.row_bytes(values.len())` bytes. f16 and bf16 round to nearest
/// even; quantised blocks minimise the squared error, and hold values beyond the range of their f16 scale at its limit.
///
/// # Errors
/// [`EncodeError`]: a type that is only read, lengths that do not belong together, or a NaN or infinity for a
/// quantised type.
pub fn encode_row(ty: TensorType, values: &[f32], dst: &mut [u8]) -> Result<(), EncodeError> {
    if ty.row_bytes(values.len()) != Some(dst.len()) {
        return Err(EncodeError::Length { ty, values: values.len(), bytes: dst.len() });
    }
    if ty.is_quantised()
        && let Some(index) = not_finite(values)
    {
        return Err(EncodeError::NotFinite { index });
    }
    if !ty.can_encode() {
        return Err(EncodeError::Unsupported(ty));
    }
    with_format!(ty, F => Isa::best().dispatch(Encode(values, as_blocks_mut::<F>(dst))));
    Ok(())
}

/// As [`Decode`].
struct Encode<'a, F>(&'a [f32], &'a mut [F]);

impl<F: Format> Op for Encode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, _simd: S) {
        for (values, block) in self.0.chunks_exact(F::BLOCK_LEN).zip(self.1) {
            if let Some(encoded) = F::encode(values) {
                *block = encoded;
            }
        }
    }
}

/// Fills `dst`, a whole number of blocks of `ty`, with synthetic weights: finite values of mean 0 and about the
/// standard deviation `std`. `rng` gives 64 random bits a call; the same bits give the same row.
///
/// # Panics
/// When `dst` is not a whole number of blocks.
pub fn random_row(ty: TensorType, rng: &mut impl FnMut() -> u64, std: f32, dst: &mut [u8]) {
    assert!(dst.len().is_multiple_of(ty.block_bytes()), "random_row: {} bytes of {ty}", dst.len());
    with_format!(ty, F => {
        for block in as_blocks_mut::<F>(dst) {
            *block = F::random(rng, std);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_do_not_depend_on_the_instruction_set() {
        let mut state = 1u64;
        let mut rng = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            state ^ state >> 29
        };
        let mut bytes = vec![0; 4 * 4096];
        random_row(TensorType::F32, &mut rng, 1.0, &mut bytes);
        let mut values = vec![0.0; 4096];
        decode_row(TensorType::F32, &bytes, &mut values);
        for &ty in TensorType::ALL.iter().filter(|ty| ty.can_encode()) {
            let [mut first, mut other] = [(); 2].map(|()| vec![0; ty.row_bytes(4096).unwrap()]);
            with_format!(ty, F => Isa::Scalar.dispatch(Encode(&values, as_blocks_mut::<F>(&mut first))));
            for isa in Isa::available() {
                with_format!(ty, F => isa.dispatch(Encode(&values, as_blocks_mut::<F>(&mut other))));
                assert!(first == other, "{isa} encodes {ty} in its own way");
            }
        }
    }
}
