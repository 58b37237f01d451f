//! What a decoder is, as data. An architecture file writes one of these, the decoder reads it.
use crate::{Error, Result};

pub use lapwing_kernels::activation::Activation;
pub use lapwing_kernels::rope::RopeKind;

/// Everything the forward pass needs to know about a model besides its weights.
///
/// All values are range-checked when an architecture builds the spec, so that the decoder may rely on
/// them: counts are not 0, `kv_heads` divides `heads`, numbers are finite, `layers` is not empty.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Name of the architecture, as in `general.architecture`.
    pub architecture: &'static str,
    /// Context the model was trained for, in tokens.
    pub context: usize,
    /// Tokens in the vocabulary: rows of the embedding and of the logits.
    pub vocab: usize,
    /// Values in the residual stream of one token.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values of one head (queries, keys and values alike). Not always `width / heads`.
    pub head_dim: usize,
    /// What differs from layer to layer; one entry for each.
    pub layers: Vec<LayerSpec>,
    /// The feed-forward half of every layer.
    pub feed_forward: FeedForward,
    /// Where the root-mean-square norms of a layer stand.
    pub norms: NormPlacement,
    /// Added to the mean square before its root.
    pub norm_eps: f32,
    /// Whether each head of q and k is normed (with its own weights) before the rotation.
    pub qk_norms: bool,
    /// Rotary embeddings; `LayerSpec::rope` is an index into this.
    pub ropes: Vec<RopeSpec>,
    /// Factor of q·k before the soft cap and the softmax.
    pub attention_scale: f32,
    /// `c·tanh(score/c)` on attention scores.
    pub attention_soft_cap: Option<f32>,
    /// Factor of the embedding of a token (gemma: √width).
    pub embedding_scale: f32,
    /// Factor of the logits.
    pub logit_scale: f32,
    /// `c·tanh(logit/c)` on logits, after the scale.
    pub logit_soft_cap: Option<f32>,
}

/// What one layer has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// A query at position p sees positions p−window+1 ..= p; `None`: all up to p.
    pub window: Option<usize>,
    /// Which of `DecoderSpec::ropes` rotates q and k.
    pub rope: usize,
}

/// The feed-forward half of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// One gated network for every token.
    Dense {
        /// Values between the two products.
        width: usize,
        /// Activation of the gate: `down(act(gate·x) ∘ up·x)`.
        activation: Activation,
    },
    /// Several networks of which a router picks some for each token. Described, not yet computed.
    Moe {
        /// Networks in a layer.
        experts: usize,
        /// Networks used for one token.
        used: usize,
    },
}

/// Where the norms of the two halves of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// `x += f(norm(x))`.
    Before,
    /// `x += norm(f(norm(x)))` (gemma 2 and 3).
    BeforeAndAfter,
}

/// One rotary position embedding: pair i of position p turns by `p · frequency(i)`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Which values form a pair.
    pub kind: RopeKind,
    /// How many values at the start of each head are rotated; even, at most `head_dim`.
    pub dim: usize,
    /// frequency(i) = base^(−2i/dim) before scaling.
    pub base: f32,
    /// How frequencies are stretched for contexts longer than the original one.
    pub scaling: RopeScaling,
    /// Where per-pair divisors of the frequencies come from.
    pub divisors: RopeDivisors,
    /// Factor of sine and cosine, besides what YaRN adds by itself.
    pub amplitude: f32,
}

/// Stretching of rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Greater than 1 to stretch.
        factor: f32,
    },
    /// YaRN (arXiv 2309.00071): low frequencies divided by `factor`, high ones kept, a ramp between.
    Yarn {
        /// How many times longer than `original_context` the context became.
        factor: f32,
        /// Context before stretching, in tokens.
        original_context: usize,
        /// Pairs that turn more often than this within the original context keep their frequency.
        beta_fast: f32,
        /// Pairs that turn less often than this are divided by `factor` in full.
        beta_slow: f32,
        /// Multiplier of the attention temperature that `amplitude` already holds (0: none).
        log_multiplier: f32,
    },
}

/// Per-pair divisors of rotary frequencies, kept as tensors of dim/2 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeDivisors {
    /// `rope_freqs.weight` when the file has it (Llama 3.1 and later).
    Optional,
    /// `rope_factors_short.weight` or, in a session whose context exceeds `original_context`,
    /// `rope_factors_long.weight` (LongRoPE, phi3); none when the file has neither.
    ByContext {
        /// Longest context of the short factors, in tokens.
        original_context: usize,
    },
    /// Never.
    None,
}

impl DecoderSpec {
    /// Values of all query heads of one token.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Values of all key (or value) heads of one token.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Width and activation of the feed-forward.
    ///
    /// # Errors
    /// A mixture of experts, which is not computed yet.
    pub fn dense(&self) -> Result<(usize, Activation)> {
        match self.feed_forward {
            FeedForward::Dense { width, activation } => Ok((width, activation)),
            FeedForward::Moe { experts, used } => {
                Err(Error::bad_file("models with a mixture of experts are not supported yet")
                    .at(format!("{}.expert_count", self.architecture))
                    .expected_got("a dense feed-forward", format!("{experts} experts, {used} used"))
                    .advice("use a dense model of this family"))
            }
        }
    }
}
