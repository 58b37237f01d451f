//! How the next token is chosen: a chain of samplers with llama.cpp's names, defaults and order.
//!
//! A sampler is one file with a [`Kind`] and one line in [`KINDS`]; its options on the command line, in the chat's
//! `/set` and in a model's `general.sampling.*` keys come from the parameters that its `Kind` lists.
mod candidates;
mod chain;
mod mask;
mod rng;
mod settings;

mod dry;
mod logit_bias;
mod min_p;
mod mirostat;
mod penalties;
mod temperature;
mod top_k;
mod top_n_sigma;
mod top_p;
mod typical;
mod xtc;

pub use candidates::{Candidate, Candidates};
pub use chain::{Chain, Choice};
pub use mask::Mask;
pub use rng::Rng;
pub use settings::{Param, Preset, Settings, Value, params};

/// Every sampler, in the order in which the default chain applies them.
pub static KINDS: &[&Kind] = &[
    &logit_bias::KIND,
    &penalties::KIND,
    &dry::KIND,
    &top_n_sigma::KIND,
    &top_k::KIND,
    &typical::KIND,
    &top_p::KIND,
    &min_p::KIND,
    &xtc::KIND,
    &temperature::KIND,
    &mirostat::KIND,
];

/// Where in the chain a sampler stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before all others, whatever the order.
    First,
    /// Where the order of the settings has it.
    Listed,
    /// After all others; when it acts, it takes the place of all listed ones but temperature.
    Last,
}

/// One sort of sampler.
#[derive(Debug)]
pub struct Kind {
    /// Name in `--samplers`, as llama.cpp spells it.
    pub name: &'static str,
    /// Where it stands in the chain.
    pub place: Place,
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

impl Vocab for lapwing_models::tokenizer::Tokenizer {
    fn n_tokens(&self) -> usize {
        self.n_vocab()
    }

    fn bytes(&self, id: u32) -> Vec<u8> {
        self.token_bytes(id)
    }
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
