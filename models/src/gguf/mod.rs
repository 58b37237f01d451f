//! GGUF files: bounded reader, writer and the memory map.
//!
//! Versions 2 and 3, little-endian, whole or split. Source: the GGUF specification
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
mod get;
mod layout;
mod open;
mod read;
mod split;
mod value;
mod write;

pub use open::{Gguf, OpenOptions, Tensor, TensorId, Unsupported};
pub(crate) use read::shown;
pub use value::{Array, Strings, Value};
pub use write::{Split, Stream, Writer};

/// The names of all types that lapwing computes with.
fn supported_types() -> String {
    let names: Vec<_> = lapwing_kernels::TensorType::ALL.iter().map(|t| t.name()).collect();
    names.join(", ")
}
