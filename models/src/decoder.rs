//! The one forward pass, which reads a decoder specification.
//!
//! Plain sequential code on the calling thread: every kernel it calls shares its work among the team and returns
//! when all of it is done. The logits of a token depend on the model, the tokens before it, the instruction set and
//! the type of the cache; never on threads or on how tokens were split into batches, since each kernel sums
//! in an order of its own.
use lapwing_kernels::activation::{add, scale, soft_cap};
use lapwing_kernels::acts::{Acts, Source};
use lapwing_kernels::attention::{AttnArgs, attention};
use lapwing_kernels::format::decode_row;
use lapwing_kernels::hadamard::hadamard;
use lapwing_kernels::linear::{Product, Weights, gated_linear, linear};
use lapwing_kernels::norm::{rms_norm, rms_norm_heads};
use lapwing_kernels::rope::{RopeTable, rope};
use lapwing_kernels::team::Team;

use crate::arch::DecoderSpec;
use crate::cancel::Cancel;
use crate::kv_cache::{KvCache, KvType};
use crate::linear::Linear;
use crate::lora::{Resolved, Stack};
use crate::model::{Model, Rope};
use crate::weights::LayerWeights;
use crate::{Class, Error, Result};

/// Largest batch worth computing at once: from here on weights are reused enough that memory no longer counts.
pub const MAX_BATCH: usize = 512;

/// Which rows of logits [`forward`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: the tokens only enter the cache.
    None,
    /// The row of the last token.
    Last,
    /// One row for every token.
    All,
    /// One row for every token from this index on.
    From(usize),
}

impl Want {
    /// Index of the first of `n` tokens whose row is wanted.
    fn first(self, n: usize) -> usize {
        match self {
            Want::None => n,
            Want::Last => n.saturating_sub(1),
            Want::All => 0,
            Want::From(first) => first.min(n),
        }
    }
}

/// The memory of a forward pass, reused from call to call. Shapes are for `n` tokens of a batch.
pub struct Workspace {
    max_batch: usize,
    /// Residual stream, `[n][width]`.
    x: Vec<f32>,
    /// Normed input of a product, or what a product adds to the stream before its norm: `[n][width]`.
    h: Vec<f32>,
    t: Vec<f32>,
    /// Queries, and what attention makes of them: `[n][q_width]`.
    q: Vec<f32>,
    attended: Vec<f32>,
    /// Keys and values, `[n][kv_width]`.
    k: Vec<f32>,
    v: Vec<f32>,
    /// `[n][ff]`.
    gated: Vec<f32>,
    /// The argument of the next product, quantised.
    acts: Acts,
    /// One for each rotary embedding.
    ropes: Vec<Turns>,
    /// `[rows][vocab]`, rows wanted by the last call.
    logits: Vec<f32>,
    /// Adapters on the weights.
    stack: Resolved,
    /// Looked at between the larger products.
    cancel: Cancel,
}

impl Workspace {
    /// Memory for batches of up to `max_batch` tokens of `model` (at least 1, at most [`MAX_BATCH`]).
    ///
    /// # Errors
    /// The model's kind of feed-forward is not computed.
    pub fn new(model: &Model, max_batch: usize) -> Result<Self> {
        let spec = model.spec();
        let n = max_batch.clamp(1, MAX_BATCH);
        let (ff, _) = spec.dense()?;
        let zeros = |width: usize| vec![0.0; n * width];
        Ok(Self {
            max_batch: n,
            x: zeros(spec.width),
            h: zeros(spec.width),
            t: zeros(spec.width),
            q: zeros(spec.q_width()),
            attended: zeros(spec.q_width()),
            k: zeros(spec.kv_width()),
            v: zeros(spec.kv_width()),
            gated: zeros(ff),
            acts: Acts::new(n, spec.width.max(spec.q_width()).max(ff)),
            ropes: model.ropes().iter().map(|rope| Turns::new(rope, 0)).collect(),
            logits: Vec::new(),
            stack: Resolved::default(),
            cancel: Cancel::default(),
        })
    }

    /// Uses the adapters of `stack`, all fitted to this model, from the next call on. What a cache holds was
    /// computed with those before: keep one cache for each [`Stack::key`].
    pub fn set_stack(&mut self, stack: &Stack) {
        self.stack = stack.resolve();
    }

    /// From the next call on, `cancel` ends it: a few times in each layer it is looked at.
    pub fn set_cancel(&mut self, cancel: &Cancel) {
        self.cancel = cancel.clone();
    }

    /// Most tokens of one batch.
    pub fn max_batch(&self) -> usize {
        self.max_batch
    }
}

/// A rotary embedding ready for use in contexts of one size.
struct Turns {
    /// Whether the context is one of the longer ones.
    long: bool,
    table: RopeTable,
}

impl Turns {
    fn new(rope: &Rope, context: usize) -> Self {
        let (long, params) = rope.params(context);
        Self { long, table: RopeTable::new(params) }
    }

    /// Makes ready for positions `pos0..pos0 + n` of a session with room for `context` tokens.
    fn cover(&mut self, rope: &Rope, context: usize, pos0: usize, n: usize) {
        if rope.params(context).0 != self.long {
            *self = Self::new(rope, context);
        }
        self.table.cover(pos0, n);
    }
}

/// Evaluates `tokens` at the positions after those in `cache`, which then holds them too. Gives the logits asked
/// for: `[rows][vocab]`, all finite, valid until the next call.
///
/// # Errors
/// [`Class::Usage`] when there are no tokens, one is not in the vocabulary, they pass the capacity of the cache or
/// the cache is another model's; [`Class::Memory`]; [`Class::BadFile`] when a key, a value or a logit is not finite;
/// [`Class::Interrupted`] when [cancelled](Workspace::set_cancel). The cache then holds what it held before.
pub fn forward<'w>(
    model: &Model,
    team: &Team,
    ws: &'w mut Workspace,
    cache: &mut KvCache,
    tokens: &[u32],
    want: Want,
) -> Result<&'w [f32]> {
    let spec = model.spec();
    check_tokens(spec, tokens)?;
    let shape = cache.shape();
    if (shape.layers, shape.kv_heads, shape.dim) != (spec.layers.len(), spec.kv_heads, spec.head_dim) {
        return Err(Error::new(Class::Usage, "the cache was made for another model"));
    }
    let before = cache.len();
    let first = want.first(tokens.len());
    ws.make_room((tokens.len() - first).checked_mul(spec.vocab))?;
    cache.reserve(tokens.len())?;
    let result = team.scope(|| {
        let (mut done, mut rows) = (0, 0);
        for batch in tokens.chunks(ws.max_batch) {
            let wanted = batch.len() - first.saturating_sub(done).min(batch.len());
            forward_batch(model, team, ws, cache, batch, wanted, rows)?;
            cache.advance(batch.len());
            done += batch.len();
            rows += wanted;
        }
        Ok(rows)
    });
    match result {
        Ok(rows) => Ok(&ws.logits[..rows * spec.vocab]),
        Err(error) => {
            cache.truncate(before);
            Err(error)
        }
    }
}

fn check_tokens(spec: &DecoderSpec, tokens: &[u32]) -> Result<()> {
    if tokens.is_empty() {
        return Err(Error::new(Class::Usage, "there are no tokens to evaluate"));
    }
    match tokens.iter().position(|&token| token as usize >= spec.vocab) {
        None => Ok(()),
        Some(at) => Err(Error::new(Class::Usage, "a token is not in the vocabulary")
            .at(format!("token {at}"))
            .expected_got(format!("an id below {}", spec.vocab), tokens[at])),
    }
}

impl Workspace {
    /// Makes `logits` hold at least `values` values; memory once taken stays.
    fn make_room(&mut self, values: Option<usize>) -> Result<()> {
        let missing = values.map(|values| values.saturating_sub(self.logits.len()));
        match missing.map(|missing| self.logits.try_reserve_exact(missing).map(|()| missing)) {
            Some(Ok(missing)) => {
                self.logits.resize(self.logits.len() + missing, 0.0);
                Ok(())
            }
            _ => {
                Err(Error::new(Class::Memory, "there is no memory for the logits of so many tokens at once"))
            }
        }
    }
}

/// Evaluates one batch; the logits of its last `wanted` tokens become rows `row..` of `ws.logits`.
fn forward_batch(
    model: &Model,
    team: &Team,
    ws: &mut Workspace,
    cache: &mut KvCache,
    tokens: &[u32],
    wanted: usize,
    row: usize,
) -> Result<()> {
    let spec = model.spec();
    let weights = model.weights();
    let (n, width, eps) = (tokens.len(), spec.width, spec.norm_eps);

    embed(model, &ws.stack, tokens, &mut ws.x);
    for (turns, rope) in ws.ropes.iter_mut().zip(model.ropes()) {
        turns.cover(rope, cache.capacity(), cache.len(), n);
    }
    // Tokens whose stream is still of interest: all, but in the last layer those wanted only.
    let mut from = 0;
    for i in 0..weights.layers.len() {
        if i + 1 == weights.layers.len() {
            from = n - wanted;
        }
        attend(model, team, ws, cache, i, n, from)?;
        if from == n {
            return Ok(());
        }
        ws.cancel.check()?;
        feed_forward(model, team, ws, i, from..n)?;
        ws.cancel.check()?;
    }

    let x = Source::normed(&ws.x[from * width..n * width], &weights.norm, eps);
    let logits = &mut ws.logits[row * spec.vocab..][..wanted * spec.vocab];
    // What comes after this is the next token.
    let next = weights.layers.first().map(|layer| qkv(layer).map(|w| model.matrix(w)));
    let next = next.as_ref().map_or(&[][..], |next| next);
    linear(team, &mut ws.acts, x, &mut [product(model, &ws.stack, &weights.output, logits, false)], next);
    if spec.logit_scale != 1.0 {
        scale(logits, spec.logit_scale);
    }
    if let Some(cap) = spec.logit_soft_cap {
        soft_cap(team, logits, cap);
    }
    if all_finite(logits) {
        return Ok(());
    }
    Err(not_finite(model, "logit", format!("positions {} to {}", cache.len() + from, cache.len() + n - 1)))
}

/// What `model` computed for `what` at this place cannot be used.
fn not_finite(model: &Model, what: &str, at: String) -> Error {
    let message = format!("the model computed a {what} that is not a finite number; its weights are damaged");
    Error::bad_file(message).in_file(model.gguf().path()).at(at)
}

/// Writes the embeddings of `tokens` to the start of `x`.
fn embed(model: &Model, stack: &Resolved, tokens: &[u32], x: &mut [f32]) {
    let (spec, matrix) = (model.spec(), model.matrix(&model.weights().embedding));
    for (&token, x) in tokens.iter().zip(x.chunks_exact_mut(spec.width)) {
        decode_row(matrix.ty(), matrix.row(token as usize), x);
        stack.add_embedding(token, x);
        if spec.embedding_scale != 1.0 {
            scale(x, spec.embedding_scale);
        }
    }
}

/// The first half of layer `i`: keys and values of all `n` tokens enter the cache; the attention of tokens
/// `from..n` is added to the stream.
fn attend(
    model: &Model,
    team: &Team,
    ws: &mut Workspace,
    cache: &mut KvCache,
    i: usize,
    n: usize,
    from: usize,
) -> Result<()> {
    let (spec, layer) = (model.spec(), &model.weights().layers[i]);
    let (width, eps, dim, pos0) = (spec.width, spec.norm_eps, spec.head_dim, cache.len());
    let (heads, kv_heads, q_width, kv_width) = (spec.heads, spec.kv_heads, spec.q_width(), spec.kv_width());

    let x = Source::normed(&ws.x[..n * width], &layer.attention_norm, eps);
    let (q, k, v) = (&mut ws.q[..n * q_width], &mut ws.k[..n * kv_width], &mut ws.v[..n * kv_width]);
    let stack = &ws.stack;
    linear(
        team,
        &mut ws.acts,
        x,
        &mut [
            product(model, stack, &layer.q, q, false),
            product(model, stack, &layer.k, k, false),
            product(model, stack, &layer.v, v, false),
        ],
        &[model.matrix(&layer.o)],
    );
    if let Some((of_q, of_k)) = &layer.qk_norms {
        rms_norm_heads(team, q, heads, dim, q_width, Some(of_q), eps);
        rms_norm_heads(team, k, kv_heads, dim, kv_width, Some(of_k), eps);
    }
    let which = spec.layers[i].rope;
    let (table, kind) = (&ws.ropes[which].table, spec.ropes[which].kind);
    rope(team, q, heads, dim, q_width, table, pos0, kind);
    rope(team, k, kv_heads, dim, kv_width, table, pos0, kind);
    // Some models have keys of which a few values dwarf the rest: bytes that share a scale would round that away.
    if cache.shape().ty == KvType::Q8_0 {
        hadamard(team, &mut q[from * q_width..], dim);
        hadamard(team, k, dim);
    }
    // The cache keeps what it can hold: there, what is wrong with a number could no longer be seen.
    if !(all_finite(k) && all_finite(v)) {
        let at = format!("layer {i}, positions {pos0} to {}", pos0 + n - 1);
        return Err(not_finite(model, "key or value", at));
    }
    ws.cancel.check()?;
    cache.store(team, i, k, v);

    let m = n - from;
    if m == 0 {
        return Ok(());
    }
    let attended = &mut ws.attended[..m * q_width];
    let args = AttnArgs {
        q: &q[from * q_width..],
        heads,
        scale: spec.attention_scale,
        soft_cap: spec.attention_soft_cap,
        window: spec.layers[i].window,
        pos0: pos0 + from,
        layer: i,
        blocks: cache.blocks(),
    };
    attention(team, &args, attended);
    let attended = Source::new(attended, q_width);
    let x = &mut ws.x[from * width..n * width];
    // Of a gated product each thread begins with its rows of the gate.
    let next = [model.matrix(&layer.gate)];
    match &layer.attention_post_norm {
        None => linear(team, &mut ws.acts, attended, &mut [product(model, stack, &layer.o, x, true)], &next),
        Some(norm) => {
            let (t, h) = (&mut ws.t[..m * width], &mut ws.h[..m * width]);
            linear(team, &mut ws.acts, attended, &mut [product(model, stack, &layer.o, t, false)], &next);
            rms_norm(team, t, width, Some(norm), eps, h);
            add(x, h);
        }
    }
    Ok(())
}

/// The second half of layer `i`, for tokens `rows` of the batch.
fn feed_forward(
    model: &Model,
    team: &Team,
    ws: &mut Workspace,
    i: usize,
    rows: std::ops::Range<usize>,
) -> Result<()> {
    let spec = model.spec();
    let (ff, activation) = spec.dense()?;
    let (m, width, eps) = (rows.len(), spec.width, spec.norm_eps);
    let layers = &model.weights().layers;
    let layer = &layers[i];
    let next = match layers.get(i + 1) {
        Some(layer) => qkv(layer),
        None => [&model.weights().output; 3],
    };
    let next = &next.map(|w| model.matrix(w))[..if i + 1 < layers.len() { 3 } else { 1 }];
    let x = &mut ws.x[rows.start * width..rows.end * width];
    let source = Source::normed(x, &layer.ffn_norm, eps);
    let stack = &ws.stack;
    let gated = &mut ws.gated[..m * ff];
    let both = [&layer.gate, &layer.up].map(|linear| weights(model, stack, linear));
    let down = [model.matrix(&layer.down)];
    gated_linear(team, &mut ws.acts, source, activation, both, gated, &down);
    ws.cancel.check()?;
    let gated = Source::new(gated, ff);
    match &layer.ffn_post_norm {
        None => linear(team, &mut ws.acts, gated, &mut [product(model, stack, &layer.down, x, true)], next),
        Some(norm) => {
            let (t, h) = (&mut ws.t[..m * width], &mut ws.h[..m * width]);
            linear(team, &mut ws.acts, gated, &mut [product(model, stack, &layer.down, t, false)], next);
            rms_norm(team, t, width, Some(norm), eps, h);
            add(x, h);
        }
    }
    Ok(())
}

/// The weights that a layer begins with.
fn qkv(layer: &LayerWeights) -> [&Linear; 3] {
    [&layer.q, &layer.k, &layer.v]
}

/// What a linear layer multiplies with under `stack`.
fn weights<'a>(model: &'a Model, stack: &'a Resolved, linear: &'a Linear) -> Weights<'a> {
    Weights { w: model.matrix(linear), bias: linear.bias(), low_rank: stack.of(linear) }
}

/// One product of all tokens held in the activations, `out` being `[n][rows]`.
fn product<'a>(
    model: &'a Model,
    stack: &'a Resolved,
    linear: &'a Linear,
    out: &'a mut [f32],
    add: bool,
) -> Product<'a> {
    Product { weights: weights(model, stack, linear), out, out_stride: linear.rows(), add }
}

/// Whether no value is infinite or NaN: their exponents are all ones. Branch-free, so that it runs in vectors.
fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    !values.iter().fold(false, |bad, value| bad | (value.to_bits() & EXPONENT == EXPONENT))
}
