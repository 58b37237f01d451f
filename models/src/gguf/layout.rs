//! Sizes and offsets of tensors in a file: the only place where numbers read from a file are multiplied
//! or added.
use lapwing_kernels::TensorType;

/// Alignment of a file that names none, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// Longest tensor name that is read, in bytes. Source: the GGUF specification.
pub const MAX_NAME: usize = 64;

/// Most dimensions a tensor may have.
pub const MAX_DIMS: usize = 4;

/// How the values of a type lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Name as in other programs' listings.
    pub name: &'static str,
    /// Values in a block.
    pub block_len: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

/// Types which exist in GGUF files but which lapwing does not compute with: (id, name, values, bytes).
/// Their sizes are known so that a file that holds them can still be listed. Source: `ggml.c`, `type_traits`.
const OTHERS: [(u32, &str, u64, u64); 18] = [
    (9, "q8_1", 32, 36),
    (15, "q8_k", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (19, "iq1_s", 256, 50),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (29, "iq1_m", 256, 56),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
    (39, "mxfp4", 32, 17),
    (40, "nvfp4", 64, 36),
];

/// The packing of the type with this id, supported or not; `None` when nothing is known of it.
pub fn packing(id: u32) -> Option<Packing> {
    if let Some(ty) = TensorType::from_id(id) {
        return Some(Packing {
            name: ty.name(),
            block_len: ty.block_len() as u64,
            block_bytes: ty.block_bytes() as u64,
        });
    }
    let &(_, name, block_len, block_bytes) = OTHERS.iter().find(|other| other.0 == id)?;
    Some(Packing { name, block_len, block_bytes })
}

/// Why a shape has no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// A dimension is zero.
    Zero,
    /// The first dimension is no multiple of the block.
    Partial,
    /// More bytes than a machine word counts.
    Overflow,
}

/// Bytes of a tensor of `shape` (in the file's order: the row length first).
pub fn tensor_bytes(packing: Packing, shape: &[u64]) -> Result<u64, SizeError> {
    if shape.contains(&0) {
        return Err(SizeError::Zero);
    }
    let cols = shape.first().copied().unwrap_or(1);
    if !cols.is_multiple_of(packing.block_len) {
        return Err(SizeError::Partial);
    }
    let mut bytes = (cols / packing.block_len).checked_mul(packing.block_bytes).ok_or(SizeError::Overflow)?;
    for &dim in shape.iter().skip(1) {
        bytes = bytes.checked_mul(dim).ok_or(SizeError::Overflow)?;
    }
    // Values are counted in usize and bytes are sliced by isize, so neither may pass them.
    let values = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim)).ok_or(SizeError::Overflow)?;
    if isize::try_from(bytes).is_err() || isize::try_from(values).is_err() {
        return Err(SizeError::Overflow);
    }
    Ok(bytes)
}

/// `n` rounded up to a multiple of `alignment` (a power of two); `None` on overflow.
pub fn align_up(n: u64, alignment: u64) -> Option<u64> {
    n.checked_next_multiple_of(alignment)
}

/// Whether `alignment` is one that a file may ask for.
pub fn alignment_allowed(alignment: u64) -> bool {
    alignment.is_power_of_two() && (8..=65536).contains(&alignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        let q4 = packing(TensorType::Q4_0.id()).unwrap();
        assert_eq!(tensor_bytes(q4, &[64, 3, 2]), Ok(2 * 18 * 6));
        assert_eq!(tensor_bytes(q4, &[33]), Err(SizeError::Partial));
        assert_eq!(tensor_bytes(q4, &[32, 0]), Err(SizeError::Zero));
        assert_eq!(tensor_bytes(q4, &[1 << 40, 1 << 40]), Err(SizeError::Overflow));
        assert_eq!(tensor_bytes(q4, &[1 << 63, 1]), Err(SizeError::Overflow));
        // 2^63 values in fewer bytes would still overflow counters of values.
        assert_eq!(tensor_bytes(q4, &[1 << 32, 1 << 31]), Err(SizeError::Overflow));
        let f32 = packing(0).unwrap();
        assert_eq!(tensor_bytes(f32, &[u64::MAX, 1]), Err(SizeError::Overflow));
        assert_eq!(align_up(33, 32), Some(64));
        assert_eq!(align_up(u64::MAX - 1, 32), None);
    }

    #[test]
    fn no_type_is_listed_twice() {
        for (i, other) in OTHERS.iter().enumerate() {
            assert_eq!(TensorType::from_id(other.0), None, "{}", other.1);
            assert!(OTHERS[..i].iter().all(|o| o.0 != other.0 && o.1 != other.1));
        }
    }
}
