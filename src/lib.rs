//! lapwing: a self-contained CPU runtime for quantised language models.
//!
//! The library half has no terminal in it: an engine holds a model and its worker team, a session holds
//! tokens and their cache. The program half (`commands`) is built with the default feature `cli`.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod branches;
pub mod constraint;
pub mod context;
pub mod conversation;
pub mod cost;
pub mod divergence;
pub mod engine;
mod generate;
pub mod logprobs;
pub mod lookup;
pub mod perplexity;
pub mod sampler;
pub mod saved;
pub mod self_check;
pub mod session;
mod snapshots;
pub mod synthetic;
pub mod text;
pub mod thinking;
