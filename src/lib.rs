//! lapwing: a self-contained CPU runtime for quantised language models.
//!
//! The library half has no terminal in it: an engine holds a model and its worker team, a session holds
//! tokens and their cache. The program half (`commands`) is built with the default feature `cli`.
//!
//! # Example: two sessions over one model, with different adapters
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//!
//! use lapwing::engine::{Engine, EngineOptions};
//! use lapwing::sampler::{Chain, Settings};
//! use lapwing::session::{Cancel, Limits, Session, SessionOptions};
//! use lapwing::synthetic;
//! use lapwing_models::lora::DEFAULT_FACTORS;
//!
//! # fn main() -> lapwing_models::Result<()> {
//! // A model and an adapter of random numbers; `Engine::open` and `Adapter::open` read files.
//! let model = synthetic::model("tiny-llama:q4_0", 1, 1)?;
//! let engine = Arc::new(Engine::new(model, &EngineOptions::default())?);
//! let adapter = synthetic::adapter("tiny-llama:f16", 8, 1)?;
//! let bard = Arc::new(engine.model().fit(adapter, DEFAULT_FACTORS, engine.team())?);
//!
//! let mut plain = Session::new(engine.clone(), &SessionOptions::default())?;
//! let mut tuned = Session::new(engine.clone(), &SessionOptions::default())?;
//! tuned.change_stack(|stack| stack.add("bard", bard, 0.8))?;
//!
//! let prompt = engine.model().tokenizer().encode("Once upon a time", false);
//! let limits = Limits { predict: Some(8), ..Limits::default() };
//! for session in [&mut plain, &mut tuned] {
//!     session.eval(&prompt, &Cancel::default(), &mut |_done, _of| {})?;
//!     let mut chain = Chain::new(&Settings::default(), engine.model().tokenizer());
//!     let answer = session.generate(&mut chain, &limits, &Cancel::default(), &mut |piece| {
//!         let _streamed = piece.text;
//!         ControlFlow::Continue(())
//!     })?;
//!     assert!(answer.ids.len() <= 8);
//! }
//!
//! // Rescaled, the prompt is read again; back at the old scale, nothing is.
//! tuned.change_stack(|stack| stack.set_scale("bard", 0.2))?;
//! tuned.eval(&prompt, &Cancel::default(), &mut |_, _| {})?;
//! assert_eq!(tuned.stats().n_eval, prompt.len());
//! tuned.change_stack(|stack| stack.set_scale("bard", 0.8))?;
//! tuned.eval(&prompt, &Cancel::default(), &mut |_, _| {})?;
//! assert_eq!(tuned.stats().n_eval, 0);
//! # Ok(())
//! # }
//! ```
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
