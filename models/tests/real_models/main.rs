//! Tests on real models and on golden data too large for this repository; `common` says where they are found.
mod bits;
mod common;
mod golden;
mod llama_cpp;
mod lora;
mod real;
mod tokens;
