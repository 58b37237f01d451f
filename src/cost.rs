//! What running a model costs, told from its file alone.
use lapwing_models::arch::DecoderSpec;
use lapwing_models::gguf::Gguf;
use lapwing_models::kv_cache::{KvCache, KvType};

/// The context that commands take when none is asked for, in tokens: the model's own, but at most this.
pub const DEFAULT_CONTEXT: usize = 4096;

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

/// Bytes of weights that are read to evaluate one token: all matrices, but of the embedding one row, unless it is
/// the output, too.
pub fn bytes_per_token(gguf: &Gguf) -> u64 {
    let tied = gguf.tensor("output.weight").is_none();
    gguf.tensors()
        .map(|t| if t.name == "token_embd.weight" && !tied { t.data.len() / t.rows() } else { t.data.len() } as u64)
        .sum()
}

/// The context to use when none is asked for.
pub fn default_context(spec: &DecoderSpec) -> usize {
    spec.context.min(DEFAULT_CONTEXT)
}
