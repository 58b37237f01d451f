//! How the next token is chosen: a chain of samplers with llama.cpp's names, defaults and order.
//!
//! A sampler is one file with a [`Kind`] and one line in [`KINDS`]; its options on the command line, in the chat's
//! `/set` and in a model's `general.sampling.*` keys come from the parameters that its `Kind` lists.
mod candidates;
mod chain;
mod rng;
mod settings;

mod min_p;
mod penalties;
mod temperature;
mod top_k;
mod top_p;

pub use candidates::{Candidate, Candidates};
pub use chain::{Chain, Choice};
pub use rng::Rng;
pub use settings::{Param, Preset, Settings, Value};

/// Every sampler, in the order in which the default chain applies them.
pub static KINDS: &[&Kind] =
    &[&penalties::KIND, &top_k::KIND, &top_p::KIND, &min_p::KIND, &temperature::KIND];

/// One sort of sampler.
#[derive(Debug)]
pub struct Kind {
    /// Name in `--samplers`, as llama.cpp spells it.
    pub name: &'static str,
    /// Parameters, each an option.
    pub params: &'static [Param],
    /// Makes the sampler, or `None` when its settings make it do nothing.
    pub build: fn(&Settings, &dyn Vocab) -> Option<Box<dyn Sampler>>,
}

/// What samplers may know about the vocabulary.
pub trait Vocab {
    /// Number of tokens.
    fn n_tokens(&self) -> usize;
    /// The bytes a token stands for; empty for control tokens.
    fn bytes(&self, id: u32) -> Vec<u8>;
}

/// One step of the chain: changes logits or removes candidates, but never all of them.
pub trait Sampler: Send + std::fmt::Debug {
    /// Acts on the candidates for the token that follows `past`.
    fn apply(&mut self, candidates: &mut Candidates, past: &[u32], rng: &mut Rng);

    /// Learns which token the chain chose and its probability among the candidates that were left.
    fn accept(&mut self, _choice: &Choice) {}

    /// Forgets what was learnt, at the start of an answer.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests;
