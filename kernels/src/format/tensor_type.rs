//! The element types a tensor may have on disk, with their sizes.

macro_rules! tensor_types {
    ($($variant:ident = $id:literal, $name:literal, $len:literal values in $bytes:literal bytes;)*) => {
        /// Element type of a tensor. Source: the GGUF specification, `ggml_type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum TensorType { $($variant,)* }

        impl TensorType {
            /// Every supported type, in the order of their ids.
            pub const ALL: &'static [TensorType] = &[$(TensorType::$variant,)*];

            /// The id in a GGUF file.
            pub const fn id(self) -> u32 { match self { $(TensorType::$variant => $id,)* } }

            /// The type with this GGUF id, if supported.
            pub const fn from_id(id: u32) -> Option<Self> { match id { $($id => Some(TensorType::$variant),)* _ => None } }

            /// Lower-case name, as on the command line.
            pub const fn name(self) -> &'static str { match self { $(TensorType::$variant => $name,)* } }

            /// The type of this name (case is ignored).
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
            }

            /// Values in one block.
            pub const fn block_len(self) -> usize { match self { $(TensorType::$variant => $len,)* } }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize { match self { $(TensorType::$variant => $bytes,)* } }
        }
    };
}

tensor_types! {
    F32 = 0, "f32", 1 values in 4 bytes;
    F16 = 1, "f16", 1 values in 2 bytes;
    Q4_0 = 2, "q4_0", 32 values in 18 bytes;
    Q4_1 = 3, "q4_1", 32 values in 20 bytes;
    Q5_0 = 6, "q5_0", 32 values in 22 bytes;
    Q5_1 = 7, "q5_1", 32 values in 24 bytes;
    Q8_0 = 8, "q8_0", 32 values in 34 bytes;
    Q2K = 10, "q2_k", 256 values in 84 bytes;
    Q3K = 11, "q3_k", 256 values in 110 bytes;
    Q4K = 12, "q4_k", 256 values in 144 bytes;
    Q5K = 13, "q5_k", 256 values in 176 bytes;
    Q6K = 14, "q6_k", 256 values in 210 bytes;
    Iq4Nl = 20, "iq4_nl", 32 values in 18 bytes;
    Iq4Xs = 23, "iq4_xs", 256 values in 136 bytes;
    Bf16 = 30, "bf16", 1 values in 2 bytes;
}

impl TensorType {
    /// Bytes of a row of `cols` values; `None` when `cols` is not a multiple of the block or the size overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether values are stored as quants with block scales (not as f32, f16 or bf16).
    pub const fn is_quantised(self) -> bool {
        self.block_len() > 1
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::TensorType;

    #[test]
    fn ids_names_and_sizes_agree() {
        for &t in TensorType::ALL {
            assert_eq!(TensorType::from_id(t.id()), Some(t));
            assert_eq!(TensorType::from_name(&t.name().to_uppercase()), Some(t));
            assert_eq!(t.row_bytes(t.block_len() * 3), Some(t.block_bytes() * 3));
        }
        assert_eq!(TensorType::Q4_0.row_bytes(33), None);
        assert_eq!(TensorType::F32.row_bytes(usize::MAX), None);
        assert_eq!(TensorType::from_id(4), None);
    }
}
