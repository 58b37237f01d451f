//! The meaning of model files: GGUF, tokenisers, chat templates, architectures and the decoder.
//!
//! Uses `lapwing-kernels` for all arithmetic. Never touches threads, instruction sets or the terminal.
pub mod error;

pub use error::{Class, Error, Result};
