//! The whole program, as people and scripts use it: the real binary on a real model.
#![forbid(unsafe_code)]

mod bad_input;
mod chat;
mod common;
mod forms;
#[cfg(unix)]
mod interrupted;
mod lookup;
#[cfg(unix)]
mod lora;
mod perplexity;
mod pipes;
#[cfg(unix)]
mod privacy;
mod schemas;
mod sessions;
mod settings;
#[cfg(unix)]
mod terminal;
mod turns;
