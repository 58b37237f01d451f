//! The meaning of model files: GGUF, tokenisers, chat templates, architectures and the decoder.
//!
//! Uses `lapwing-kernels` for all arithmetic. Never touches threads, instruction sets or the terminal.
pub mod arch;
pub mod cancel;
pub mod chat_template;
pub mod decoder;
pub mod error;
pub mod gguf;
pub mod kv_cache;
pub mod linear;
pub mod lora;
pub mod mix;
pub mod model;
pub mod os;
pub mod synth;
pub mod tokenizer;
pub mod weights;

pub use error::{Class, Error, Result};
