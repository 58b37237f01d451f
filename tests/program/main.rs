//! The whole program, as people and scripts use it: the real binary on a real model.
#![forbid(unsafe_code)]

mod bad_input;
mod chat;
mod common;
#[cfg(unix)]
mod interrupted;
mod perplexity;
mod pipes;
#[cfg(unix)]
mod privacy;
#[cfg(unix)]
mod terminal;
mod turns;
