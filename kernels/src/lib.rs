//! Number kernels of lapwing: quantised block formats, matrix products, attention.
//!
//! This crate knows numbers only. It never opens files, knows no metadata keys and prints nothing.
//! All instruction-set specific code, all threads and nearly all `unsafe` of the project live here.
// Closures around vector operations can end up outside the instruction set's context, ten times slower; loops cannot.
#![allow(clippy::needless_range_loop)]

pub mod activation;
pub mod acts;
mod ahead;
pub mod attention;
mod buffer;
pub mod format;
pub mod hadamard;
pub mod isa;
pub mod kv;
pub mod linear;
mod linear_float;
pub mod low_rank;
mod math;
pub mod matrix;
mod matvec;
pub mod norm;
mod out;
mod outlier;
mod panel;
pub mod probe;
pub mod rope;
pub mod team;
#[cfg(test)]
mod testing;

pub use format::{EncodeError, TensorType, decode_row, encode_row, not_finite, random_row};
