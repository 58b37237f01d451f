//! What running a model costs, told from its file alone.
use lapwing_models::arch::{DecoderSpec, FeedForward};
use lapwing_models::gguf::Gguf;
use lapwing_models::kv_cache::{KvCache, KvType};
use lapwing_models::model::Model;

use crate::session::{DEFAULT_BATCH, Session};

/// Bytes of weights, cache and reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// All weights, which stay in the map.
    pub weights: u64,
    /// Weights read to evaluate one token.
    pub per_token: u64,
    /// Cache of one position.
    pub per_position: u64,
    /// Context that the next figure is for, in tokens.
    pub context: usize,
    /// Cache of that context.
    pub cache: u64,
}

impl Cost {
    /// The cost with a cache of `ty` for `context` tokens.
    pub fn new(gguf: &Gguf, spec: &DecoderSpec, ty: KvType, context: usize) -> Self {
        let bytes = |n: usize| KvCache::bytes_for(spec, ty, n).map_or(u64::MAX, |b| b as u64);
        Self {
            weights: gguf.tensors().map(|t| t.data.len() as u64).sum(),
            per_token: bytes_per_token(gguf),
            // Caches come in blocks of positions: the difference over many of them is what one costs.
            per_position: bytes(1 << 16) >> 16,
            context,
            cache: bytes(context),
        }
    }
}

/// Bytes of memory that a session takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Weights: in the map, where the system may drop them and read them again, unless they are read into memory.
    pub weights: u64,
    /// Cache of the whole context.
    pub cache: u64,
    /// Cache of one position.
    pub per_position: u64,
    /// Factors of adapters.
    pub adapters: u64,
    /// What is computed with: activations of a batch and logits, estimated.
    pub buffers: u64,
}

/// Contexts that advice does not go below, in tokens.
const LEAST_ADVISED: u64 = 512;

impl Memory {
    /// What a session of `context` tokens with a cache of `ty` will take, with adapters of so many bytes.
    pub fn estimate(model: &Model, ty: KvType, context: usize, batch: usize, adapters: usize) -> Self {
        let spec = model.spec();
        let cost = Cost::new(model.gguf(), spec, ty, context);
        // What a layer holds of each token: in and out of attention and feed-forward, as floats and as bytes.
        let hidden = match spec.feed_forward {
            FeedForward::Dense { width, .. } => width,
            FeedForward::Moe { .. } => 0,
        };
        let row = spec.width * 4 + hidden * 2 + (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
        let buffers = batch as u64 * row as u64 * 5 + spec.vocab as u64 * 8;
        let Cost { weights, cache, per_position, .. } = cost;
        Self { weights, cache, per_position, adapters: adapters as u64, buffers }
    }

    /// What an existing session takes when its context is full.
    pub fn of(model: &Model, session: &Session) -> Self {
        let entries = session.stack().entries().iter();
        let adapters = entries.map(|entry| entry.fitted.bytes()).sum();
        let batch = DEFAULT_BATCH.min(session.context());
        Self::estimate(model, session.cache().shape().ty, session.context(), batch, adapters)
    }

    /// All together.
    pub fn total(&self) -> u64 {
        [self.weights, self.cache, self.adapters, self.buffers].into_iter().fold(0, u64::saturating_add)
    }

    /// What to do about a shortage when so many bytes are free; `None` when there is none. The weights alone may be
    /// larger than memory: then they are read from the disk again for every token.
    pub fn advice(&self, free: u64) -> Option<String> {
        if self.total() <= free {
            return None;
        }
        let fixed = self.weights.saturating_add(self.adapters).saturating_add(self.buffers);
        let context = free.saturating_sub(fixed) / self.per_position.max(1) / 256 * 256;
        Some(if context >= LEAST_ADVISED {
            format!("--ctx-size {context} would fit")
        } else {
            "the weights will be read from the disk again for every token; a smaller model or type would be faster"
                .to_owned()
        })
    }
}

/// Bytes of weights that are read to evaluate one token: all matrices, but of the embedding one row, unless it is
/// the output, too.
pub fn bytes_per_token(gguf: &Gguf) -> u64 {
    let tied = gguf.tensor("output.weight").is_none();
    gguf.tensors()
        .map(|t| if t.name == "token_embd.weight" && !tied { t.data.len() / t.rows() } else { t.data.len() } as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_fits_what_is_free() {
        let needs = Memory { weights: 4000, cache: 4096, per_position: 1, adapters: 100, buffers: 200 };
        assert_eq!(needs.total(), 8396);
        assert_eq!(needs.advice(8396), None);
        // 7000 - 4300 = 2700, in steps of 256.
        assert_eq!(needs.advice(7000).unwrap(), "--ctx-size 2560 would fit");
        assert!(needs.advice(4500).unwrap().contains("a smaller model"));
        assert!(needs.advice(0).unwrap().contains("a smaller model"));
    }
}
