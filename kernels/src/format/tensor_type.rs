//! The registry of element types: each line ties a GGUF type to its block, and everything that lists or dispatches
//! over formats comes from these lines.
use super::Format;

// `$d` is the dollar sign, which a macro that writes macros cannot spell otherwise.
macro_rules! registry {
    (($d:tt) plain { $($plain:tt)* } quantised { $($quantised:tt)* }) => {
        registry!(@types $($plain)* $($quantised)*);
        registry!(@dispatch ($d) with_format $($plain)* $($quantised)*);
        registry!(@dispatch ($d) with_quantised $($quantised)*);
        registry!(@dispatch ($d) with_plain $($plain)*);
    };
    (@types $($variant:ident = $id:literal, $name:literal, in $file:ident;)*) => {
        /// The blocks, each under the name of its [`TensorType`].
        pub mod blocks {
            $(pub use crate::format::$file::$variant;)*
        }

        /// Element type of a tensor. Source: the GGUF specification, `ggml_type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum TensorType { $($variant,)* }

        impl TensorType {
            /// Every supported type: the plain ones, then the quantised ones.
            pub const ALL: &'static [TensorType] = &[$(TensorType::$variant,)*];

            /// The id in a GGUF file.
            pub const fn id(self) -> u32 { match self { $(TensorType::$variant => $id,)* } }

            /// The type with this GGUF id, if supported.
            pub const fn from_id(id: u32) -> Option<Self> { match id { $($id => Some(TensorType::$variant),)* _ => None } }

            /// Lower-case name, as on the command line.
            pub const fn name(self) -> &'static str { match self { $(TensorType::$variant => $name,)* } }

            /// Values in one block.
            pub const fn block_len(self) -> usize { match self { $(TensorType::$variant => blocks::$variant::BLOCK_LEN,)* } }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize { match self { $(TensorType::$variant => blocks::$variant::BLOCK_BYTES,)* } }

            /// Whether [`encode_row`](super::encode_row) can make this type.
            pub const fn can_encode(self) -> bool { match self { $(TensorType::$variant => blocks::$variant::CAN_ENCODE,)* } }
        }

        // Each block belongs to the line that names it.
        const _: () = { $(assert!(<blocks::$variant as Format>::TYPE.id() == $id);)* };
    };
    (@dispatch ($d:tt) $name:ident $($variant:ident = $id:literal, $type_name:literal, in $file:ident;)*) => {
        /// `(ty, F => body)`: evaluates `body` with `F` standing for the block type of `ty`. `with_format` covers every
        /// type; `with_plain` and `with_quantised` cover their half and take `, else => other` for the rest.
        #[allow(unused_macros)]
        macro_rules! $name {
            ($d ty:expr, $d format:ident => $d body:expr $d(, else => $d other:expr)?) => {
                match $d ty {
                    $($crate::format::TensorType::$variant => {
                        type $d format = $crate::format::blocks::$variant;
                        $d body
                    })*
                    $d(_ => $d other,)?
                }
            };
        }
        #[allow(unused_imports)]
        pub(crate) use $name;
    };
}

registry! { ($)
    plain {
        F32 = 0, "f32", in plain;
        F16 = 1, "f16", in plain;
        Bf16 = 30, "bf16", in plain;
    }
    quantised {
        Q4_0 = 2, "q4_0", in q4_0;
        Q4_1 = 3, "q4_1", in q4_1;
        Q5_0 = 6, "q5_0", in q5_0;
        Q5_1 = 7, "q5_1", in q5_1;
        Q8_0 = 8, "q8_0", in q8_0;
        Q2K = 10, "q2_k", in q2_k;
        Q3K = 11, "q3_k", in q3_k;
        Q4K = 12, "q4_k", in q4_k;
        Q5K = 13, "q5_k", in q5_k;
        Q6K = 14, "q6_k", in q6_k;
        Iq4Nl = 20, "iq4_nl", in iq4_nl;
        Iq4Xs = 23, "iq4_xs", in iq4_xs;
    }
}

impl TensorType {
    /// The type of this name (case is ignored).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

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
