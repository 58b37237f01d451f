//! What sessions have evaluated and left: under stacks of adapters that are not in use now, on other branches of a
//! conversation, answers taken back. It is kept for when the person returns there; caches share the blocks of their
//! common start, so that most of it costs little.
use lapwing_models::kv_cache::KvCache;
use lapwing_models::lora::StackKey;

/// Tokens evaluated under one stack, and what came of it.
#[derive(Clone)]
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

    /// Length of the start that this has in common with `tokens`.
    pub fn common(&self, tokens: &[u32]) -> usize {
        let evaluated = &self.tokens[..self.cache.len().min(self.tokens.len())];
        evaluated.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    /// Memory held besides the cache, in bytes.
    fn bytes(&self) -> usize {
        let after_prompt = self.after_prompt.as_ref().map_or(0, |(_, logits)| logits.len());
        (self.tokens.len() + self.logits.len() + after_prompt) * 4
    }
}

/// States that are not in use, those unused for longest first; together no larger than a limit.
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
        // What is only the start of another one adds nothing.
        let within = |part: &Evaluated, all: &Evaluated| all.common(&part.tokens) >= part.cache.len();
        if self.kept.iter().any(|(k, old)| *k == key && old.tokens != state.tokens && within(&state, old)) {
            return;
        }
        self.kept.retain(|(k, old)| *k != key || !within(old, &state));
        self.kept.push((key, state));
        while self.bytes() > self.limit {
            self.kept.remove(0);
        }
    }

    /// The state kept last under `key`, which is then no longer here.
    pub fn take(&mut self, key: &StackKey) -> Option<Evaluated> {
        let at = self.kept.iter().rposition(|(k, _)| k == key)?;
        Some(self.kept.remove(at).1)
    }

    /// A copy of the state kept under `key` that has most of the start of `tokens`, if that is more than `n`.
    pub fn longer(&mut self, key: &StackKey, tokens: &[u32], n: usize) -> Option<Evaluated> {
        let fitting = self.kept.iter().enumerate().filter(|(_, (k, _))| k == key);
        let (best, at) = fitting.map(|(at, (_, state))| (state.common(tokens), at)).max()?;
        (best > n).then(|| {
            let used = self.kept.remove(at);
            let copy = used.1.clone();
            self.kept.push(used);
            copy
        })
    }

    /// Gives all of them room for `context` tokens, and forgets those that need more.
    pub fn set_context(&mut self, context: usize) {
        self.kept.retain_mut(|(_, state)| {
            state.cache.len() <= context && state.cache.set_capacity(context).is_ok()
        });
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.kept.clear();
    }

    /// Memory held, in bytes; a block that several caches share counts once.
    pub fn bytes(&self) -> usize {
        let caches = KvCache::bytes_together(self.kept.iter().map(|(_, state)| &state.cache));
        caches + self.kept.iter().map(|(_, state)| state.bytes()).sum::<usize>()
    }

    /// Number of states kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use crate::engine::{Engine, EngineOptions};
    use crate::sampler::{Chain, Settings};
    use crate::session::{Cancel, Limits, Session, SessionOptions};

    /// Evaluates `prompt`; returns how much was known, and five greedy tokens.
    fn go(session: &mut Session, prompt: &[u32]) -> (usize, Vec<u32>) {
        session.eval(prompt, &Cancel::default(), &mut |_, _| {}).unwrap();
        let mut greedy = Settings::default();
        greedy.set("temp", "0").unwrap();
        let mut chain = Chain::new(&greedy, session.engine().model().tokenizer());
        let limits = Limits { predict: Some(5), ignore_eos: true, ..Limits::default() };
        let n_cached = session.stats().n_cached;
        assert_eq!(n_cached + session.stats().n_eval, prompt.len());
        let answer =
            session.generate(&mut chain, &limits, &Cancel::default(), &mut |_| ControlFlow::Continue(()));
        (n_cached, answer.unwrap().ids)
    }

    #[test]
    fn what_was_left_is_found_again_with_the_same_answers() {
        let model = crate::synthetic::model("tiny-llama:q8_0", 1, 1).unwrap();
        let options = EngineOptions { threads: Some(1), ..EngineOptions::default() };
        let engine = Arc::new(Engine::new(model, &options).unwrap());
        let session = |bytes| {
            let options = SessionOptions {
                context: Some(256),
                snapshot_bytes: Some(bytes),
                ..SessionOptions::default()
            };
            Session::new(engine.clone(), &options).unwrap()
        };
        let prompt = |from: u32| (0..80).chain(from..from + 60).collect::<Vec<u32>>();
        let (a, b, c) = (prompt(100), prompt(200), prompt(300));
        let fresh: Vec<_> = [&a, &b, &c].iter().map(|p| go(&mut session(0), p).1).collect();
        let mut one = session(1 << 30);
        assert_eq!(go(&mut one, &a), (0, fresh[0].clone()));
        assert_eq!(go(&mut one, &b), (80, fresh[1].clone()));
        assert_eq!(go(&mut one, &c), (80, fresh[2].clone()));
        assert_eq!(go(&mut one, &a), (140, fresh[0].clone()));
        // Of what was answered all but the last token is known, too.
        let more = [a.clone(), fresh[0].clone(), vec![7]].concat();
        assert_eq!(go(&mut one, &more).0, 144);
        assert_eq!(go(&mut one, &b), (140, fresh[1].clone()));
        assert_eq!(go(&mut one, &c), (140, fresh[2].clone()));
        // Each has three blocks; the first, with the common start, is held once.
        let block = one.cache().shape().block_bytes().unwrap();
        let (n, bytes) = one.snapshots();
        assert!(n >= 3 && bytes < (2 * n + 2) * block, "{n} states in {bytes} bytes, blocks of {block}");

        let mut none = session(0);
        for p in [&a, &b, &a] {
            go(&mut none, p);
        }
        assert_eq!((none.snapshots(), none.stats().n_cached), ((0, 0), 80));
    }
}
