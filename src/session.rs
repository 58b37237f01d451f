//! One sequence of tokens with its cache: evaluates prompts, reusing what is already evaluated, and generates answers.
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapwing_models::arch::DecoderSpec;
pub use lapwing_models::cancel::Cancel;
use lapwing_models::decoder::{Want, Workspace, forward};
use lapwing_models::kv_cache::{KvCache, KvType};
use lapwing_models::lora::Stack;
use lapwing_models::{Class, Error, Result, os};

use crate::constraint::Grammar;
use crate::engine::Engine;
use crate::logprobs::TokenLogprob;
use crate::snapshots::{Evaluated, Snapshots};

/// Fewer tokens than this are sooner evaluated again than worth keeping.
const WORTH_KEEPING: usize = 8;

/// Tokens evaluated together at most.
pub const DEFAULT_BATCH: usize = 512;

/// The context when none is asked for, in tokens: the model's own, but at most this.
pub const DEFAULT_CONTEXT: usize = 4096;

/// The context of a session of this model when none is asked for, in tokens.
pub fn default_context(spec: &DecoderSpec) -> usize {
    spec.context.min(DEFAULT_CONTEXT)
}

/// Shape of a session.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Context in tokens; `None` is the model's, at most [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// Type of the numbers in the cache.
    pub kv_type: KvType,
    /// Tokens evaluated together at most.
    pub batch: usize,
    /// Bytes at most of what was evaluated under other stacks of adapters and is kept for a swap back; 0 keeps nothing.
    /// `None` is a quarter of the memory that is available, at most [`MAX_SNAPSHOT_BYTES`].
    pub snapshot_bytes: Option<usize>,
}

/// Bytes of snapshots that are kept where nothing else is asked for: some four thousand positions of a 7B model.
pub const MAX_SNAPSHOT_BYTES: usize = 2 << 30;

impl Default for SessionOptions {
    fn default() -> Self {
        Self { context: None, kv_type: KvType::F16, batch: DEFAULT_BATCH, snapshot_bytes: None }
    }
}

impl SessionOptions {
    fn snapshot_limit(&self) -> usize {
        let usual = || match os::available_memory() {
            Some(bytes) => usize::try_from(bytes / 4).unwrap_or(usize::MAX).min(MAX_SNAPSHOT_BYTES),
            None => MAX_SNAPSHOT_BYTES / 4,
        };
        self.snapshot_bytes.unwrap_or_else(usual)
    }
}

/// What the last prompt and answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Of those, already in the cache.
    pub n_cached: usize,
    /// Of those, evaluated now.
    pub n_eval: usize,
    /// Tokens generated, the end token not counted.
    pub n_gen: usize,
    /// Tokens evaluated between the generated ones; without guesses one in each forward pass.
    pub n_decoded: usize,
    /// Tokens guessed ahead, with [`Limits::lookup`].
    pub n_guessed: usize,
    /// Of those, the ones that came true.
    pub n_guessed_right: usize,
    /// Time to evaluate the prompt.
    pub prefill: Duration,
    /// Time from the first generated token to the end.
    pub decode: Duration,
    /// Time from the start of the evaluation to the first generated token.
    pub first_token: Duration,
}

impl Stats {
    /// Prompt tokens evaluated per second.
    pub fn prefill_speed(&self) -> f64 {
        speed(self.n_eval, self.prefill)
    }

    /// Tokens generated per second.
    pub fn decode_speed(&self) -> f64 {
        speed(self.n_decoded, self.decode)
    }
}

/// Per second; 0 where nothing was measured.
fn speed(n: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}

/// What ends an answer.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Tokens to generate at most.
    pub predict: Option<usize>,
    /// Go on when the model ends its turn.
    pub ignore_eos: bool,
    /// Texts that end the answer, and are not part of it.
    pub stops: Vec<String>,
    /// How many of the most likely tokens to report at each step, with the chosen one.
    pub logprobs: usize,
    /// The form that the answer must have. It then ends where the form does, also with `ignore_eos`, and is brought to
    /// an end where `predict` or the context would cut it.
    pub grammar: Option<Grammar>,
    /// Guess ahead what the text has said before: faster where answers quote, and never another answer.
    pub lookup: bool,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended its turn with this token.
    End(u32),
    /// Nothing may follow in the form asked for.
    Complete,
    /// As many tokens as asked for.
    Limit,
    /// A stop text.
    Text(String),
    /// The context is full.
    Context,
    /// Somebody cancelled it, or the receiver of the tokens had enough.
    Cancelled,
}

impl Stop {
    /// Stable name, as in `run -o json`.
    pub fn name(&self) -> &'static str {
        match self {
            Stop::End(_) | Stop::Complete => "eos",
            Stop::Limit => "length",
            Stop::Text(_) => "stop",
            Stop::Context => "context",
            Stop::Cancelled => "cancelled",
        }
    }
}

/// One step of a streamed answer.
#[derive(Clone, Debug)]
pub struct Piece<'a> {
    /// The token chosen; `None` when only held-back text comes, at the end.
    pub id: Option<u32>,
    /// The text that became certain with it: whole characters, perhaps none. It may hold anything a model can write;
    /// see [`crate::text::safe`].
    pub text: &'a str,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Tokens generated, without the end token.
    pub ids: Vec<u32>,
    /// Their text, without the stop text.
    pub text: String,
    /// Why it ended.
    pub stop: Stop,
    /// For each token of `ids`, when asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// A sequence of tokens, evaluated as far as the cache reaches.
pub struct Session {
    pub(crate) engine: Arc<Engine>,
    pub(crate) workspace: Workspace,
    /// Tokens evaluated together at most, if the context has as many.
    most_batch: usize,
    batch: usize,
    /// The sequence as far as it is evaluated under the present stack. While an answer is generated, its logits are one
    /// row for each token of the last evaluation that needs one.
    pub(crate) now: Evaluated,
    pub(crate) stats: Stats,
    stack: Stack,
    /// What was evaluated under other stacks.
    snapshots: Snapshots,
}

impl Session {
    /// An empty session.
    ///
    /// # Errors
    /// A memory error when the cache does not fit.
    pub fn new(engine: Arc<Engine>, options: &SessionOptions) -> Result<Self> {
        let spec = engine.model().spec();
        let context = options.context.unwrap_or_else(|| default_context(spec));
        let cache = KvCache::new(spec, options.kv_type, context)?;
        let batch = options.batch.clamp(1, context);
        let workspace = Workspace::new(engine.model(), batch)?;
        Ok(Self {
            engine,
            workspace,
            most_batch: options.batch,
            batch,
            now: Evaluated::empty_like(&cache),
            stats: Stats::default(),
            stack: Stack::default(),
            snapshots: Snapshots::new(options.snapshot_limit()),
        })
    }

    /// The adapters in use.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Uses other adapters (fitted to this model) from now on. What was evaluated under a stack that computes
    /// something else is put aside; it comes back when such a stack is used again, unless memory ran out in between.
    /// Otherwise the next prompt is evaluated anew.
    pub fn set_stack(&mut self, stack: Stack) {
        let (old, new) = (self.stack.key(), stack.key());
        if new != old {
            let restored = self.snapshots.take(&new);
            let next = restored.unwrap_or_else(|| Evaluated::empty_like(&self.now.cache));
            let before = std::mem::replace(&mut self.now, next);
            if !before.cache.is_empty() {
                self.snapshots.put(old, before);
            }
        }
        self.workspace.set_stack(&stack);
        self.stack = stack;
    }

    /// Changes the stack: adds, rescales or removes adapters. The others stay as they are in memory.
    ///
    /// # Errors
    /// What `change` returns; the stack is then as it was.
    pub fn change_stack<T>(&mut self, change: impl FnOnce(&mut Stack) -> Result<T>) -> Result<T> {
        let mut stack = self.stack.clone();
        let result = change(&mut stack)?;
        self.set_stack(stack);
        Ok(result)
    }

    /// How many other stacks have a state that can be swapped back, and the bytes it takes.
    pub fn snapshots(&self) -> (usize, usize) {
        (self.snapshots.len(), self.snapshots.bytes())
    }

    /// The model and its team.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The tokens so far: prompt and answer.
    pub fn tokens(&self) -> &[u32] {
        &self.now.tokens
    }

    /// Logits that choose the next token, `[n_vocab]`; empty before the first evaluation.
    pub fn logits(&self) -> &[f32] {
        &self.now.logits
    }

    /// Tokens the context holds.
    pub fn context(&self) -> usize {
        self.now.cache.capacity()
    }

    /// Makes the context larger or smaller. What is evaluated stays, as far as it fits.
    ///
    /// # Errors
    /// As for [`Session::new`]; nothing is changed then.
    pub fn set_context(&mut self, context: usize) -> Result<()> {
        let mut cache = self.now.cache.fork();
        cache.set_capacity(context)?;
        let batch = self.most_batch.clamp(1, context);
        if batch != self.batch {
            self.workspace = Workspace::new(self.engine.model(), batch)?;
            self.workspace.set_stack(&self.stack);
            self.batch = batch;
        }
        self.now.truncate(context);
        self.now.cache = cache;
        self.snapshots.set_context(context);
        Ok(())
    }

    /// Keeps keys and values as numbers of another type; all that was evaluated is forgotten.
    ///
    /// # Errors
    /// As for [`Session::new`]; nothing is changed then.
    pub fn set_kv_type(&mut self, ty: KvType) -> Result<()> {
        if ty != self.now.cache.shape().ty {
            let cache = KvCache::new(self.engine.model().spec(), ty, self.context())?;
            self.now = Evaluated::empty_like(&cache);
            self.snapshots.clear();
        }
        Ok(())
    }

    /// Keys and values of the evaluated tokens.
    pub fn cache(&self) -> &KvCache {
        &self.now.cache
    }

    /// Counters and times of the last prompt and answer.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Begins with `tokens`, whose keys and values under the present stack `fill` puts into the cache.
    ///
    /// # Errors
    /// A bad-file error when the model has no such tokens, a usage error when they are more than the context holds, and
    /// what `fill` returns. The session is then empty.
    pub fn restore(&mut self, tokens: Vec<u32>, fill: impl FnOnce(&mut KvCache) -> Result<()>) -> Result<()> {
        self.now.truncate(0);
        let n_vocab = self.engine.model().tokenizer().n_vocab();
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(Error::bad_file("the model has no such token")
                .expected_got(format!("ids below {n_vocab}"), id));
        }
        if tokens.len() > self.context() {
            return Err(Error::new(Class::Usage, "what was saved is longer than the context")
                .expected_got(format!("at most {} tokens", self.context()), tokens.len())
                .advice("ask for a larger context with --ctx-size"));
        }
        fill(&mut self.now.cache)?;
        debug_assert_eq!(self.now.cache.len(), tokens.len());
        self.now.tokens = tokens;
        Ok(())
    }

    /// How many tokens at the start of `prompt` need no evaluation. The last one does unless this very prompt was
    /// evaluated last, as its logits choose the next token.
    pub fn n_reusable(&self, prompt: &[u32]) -> usize {
        let common = self.now.common(prompt);
        match &self.now.after_prompt {
            Some((at, _)) if *at == prompt.len() && common == *at => common,
            _ => common.min(prompt.len().saturating_sub(1)),
        }
    }

    /// Cuts the sequence to the start of `prompt` that needs no evaluation, after one that was kept has taken its place
    /// where that has more of it. Returns how much that is. What is cut off is kept.
    fn reuse(&mut self, prompt: &[u32]) -> usize {
        let key = self.stack.key();
        if let Some(longer) = self.snapshots.longer(&key, prompt, self.now.common(prompt)) {
            let before = std::mem::replace(&mut self.now, longer);
            self.snapshots.put(key.clone(), before);
        }
        let n = self.n_reusable(prompt);
        if self.now.cache.len() >= n + WORTH_KEEPING {
            self.snapshots.put(key, self.now.clone());
        }
        self.now.truncate(n);
        n
    }

    /// Makes `prompt` the sequence of this session: keeps the longest common start of it in the cache and evaluates
    /// the rest. `progress` hears how many of how many tokens to evaluate are done.
    ///
    /// # Errors
    /// A usage error when the prompt is empty or longer than the context; an interruption, after which the part that
    /// was evaluated stays usable; what the forward pass reports.
    pub fn eval(
        &mut self,
        prompt: &[u32],
        cancel: &Cancel,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        self.check_fits(prompt)?;
        let start = Instant::now();
        let n_cached = self.reuse(prompt);
        self.now.logits.clear();
        self.workspace.set_cancel(cancel);
        self.stats = Stats { n_prompt: prompt.len(), n_cached, ..Stats::default() };
        let n_eval = prompt.len() - n_cached;
        let engine = Arc::clone(&self.engine);
        engine.team().scope(|| {
            progress(0, n_eval);
            let mut rest = &prompt[n_cached..];
            while !rest.is_empty() {
                cancel.check()?;
                let (now, later) = rest.split_at(rest.len().min(self.batch));
                rest = later;
                let want = if rest.is_empty() { Want::Last } else { Want::None };
                self.advance(now, want)?;
                self.stats.n_eval += now.len();
                self.stats.prefill = start.elapsed();
                progress(self.stats.n_eval, n_eval);
            }
            match &self.now.after_prompt {
                Some((at, logits)) if *at == prompt.len() => self.now.logits.clone_from(logits),
                _ => self.now.after_prompt = Some((prompt.len(), self.now.logits.clone())),
            }
            Ok(())
        })
    }

    /// Refuses prompts that cannot be evaluated.
    fn check_fits(&self, prompt: &[u32]) -> Result<()> {
        if prompt.is_empty() {
            return Err(Error::new(Class::Usage, "the prompt is empty").advice("give at least one token"));
        }
        if prompt.len() > self.context() {
            return Err(Error::new(Class::Usage, "the prompt is longer than the context")
                .expected_got(
                    format!("at most {} tokens", self.context()),
                    format!("{} tokens", prompt.len()),
                )
                .advice("shorten it, or ask for a larger context with --ctx-size"));
        }
        Ok(())
    }

    /// Evaluates tokens after those in the cache; keeps the logits wanted.
    pub(crate) fn advance(&mut self, ids: &[u32], want: Want) -> Result<()> {
        let (model, team) = (self.engine.model(), self.engine.team());
        let logits = forward(model, team, &mut self.workspace, &mut self.now.cache, ids, want)?;
        self.now.logits.clear();
        self.now.logits.extend_from_slice(logits);
        let held = self.now.cache.len() - ids.len();
        self.now.tokens.truncate(held);
        self.now.tokens.extend_from_slice(ids);
        Ok(())
    }

    /// Forgets the tokens from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.now.truncate(len);
    }
}
