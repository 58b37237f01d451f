//! What sessions have evaluated under stacks of adapters that are not in use now, kept for a swap back.
use lapwing_models::kv_cache::KvCache;
use lapwing_models::lora::StackKey;

/// Tokens evaluated under one stack, and what came of it.
pub(crate) struct Evaluated {
    /// Keys and values of the first `cache.len()` tokens.
    pub cache: KvCache,
    /// The sequence; a few tokens at its end may not be in the cache.
    pub tokens: Vec<u32>,
    /// Logits after the last token in the cache, `[n_vocab]`; empty before the first evaluation.
    pub logits: Vec<f32>,
    /// Logits after the first so many tokens, those of the last prompt: answering it again needs no evaluation.
    pub after_prompt: Option<(usize, Vec<f32>)>,
}

impl Evaluated {
    /// Nothing yet, for as many positions as `cache` has room for.
    pub fn empty_like(cache: &KvCache) -> Self {
        let mut cache = cache.fork();
        cache.truncate(0);
        Self { cache, tokens: Vec::new(), logits: Vec::new(), after_prompt: None }
    }

    /// Forgets the tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len < self.tokens.len() {
            self.tokens.truncate(len);
            self.cache.truncate(len);
            self.logits.clear();
            self.after_prompt.take_if(|(at, _)| *at > len);
        }
    }

    /// Memory held, in bytes.
    fn bytes(&self) -> usize {
        let after_prompt = self.after_prompt.as_ref().map_or(0, |(_, logits)| logits.len());
        self.cache.bytes() + (self.tokens.len() + self.logits.len() + after_prompt) * 4
    }
}

/// The states of other stacks, those unused for longest first; together no larger than a limit.
pub(crate) struct Snapshots {
    limit: usize,
    kept: Vec<(StackKey, Evaluated)>,
}

impl Snapshots {
    /// None yet; at most `limit` bytes later.
    pub fn new(limit: usize) -> Self {
        Self { limit, kept: Vec::new() }
    }

    /// Keeps `state` under `key`, and forgets those unused for longest where all would be too large.
    pub fn put(&mut self, key: StackKey, state: Evaluated) {
        self.take(&key);
        self.kept.push((key, state));
        while self.bytes() > self.limit {
            self.kept.remove(0);
        }
    }

    /// The state kept under `key`, which is then no longer here.
    pub fn take(&mut self, key: &StackKey) -> Option<Evaluated> {
        let at = self.kept.iter().position(|(k, _)| k == key)?;
        Some(self.kept.remove(at).1)
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.kept.iter().map(|(_, state)| state.bytes()).sum()
    }

    /// Number of states kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }
}
