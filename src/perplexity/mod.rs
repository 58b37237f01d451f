//! Perplexity of a model on a text, and its divergence from another model's logits.
//!
//! As llama.cpp's tool counts: the text is tokenised whole (with the BOS when the model asks for one) and cut into
//! chunks of `n_ctx` tokens; each chunk is evaluated alone, with its first token replaced by the BOS when the model
//! asks for one; the predictions from positions `n_ctx/2 ..= n_ctx−2` count.
mod logits_file;
mod statistics;

pub use logits_file::{Header, LogitsReader, LogitsWriter, Row};
pub use statistics::{Comparison, Report};

use std::path::Path;

use lapwing_models::cancel::Cancel;
use lapwing_models::decoder::{Want, Workspace, forward};
use lapwing_models::kv_cache::{KvCache, KvType};
use lapwing_models::lora::Stack;
use lapwing_models::model::Model;
use lapwing_models::{Class, Error, Result};
use statistics::{Against, Tally};

use crate::engine::Engine;

/// Most bytes of logits that are held at once.
const LOGITS_BYTES: usize = 64 << 20;

/// What to do besides counting.
pub enum Base<'a> {
    /// Nothing.
    None,
    /// Write the logits to this file.
    Write(&'a Path),
    /// Compare with the logits of a file: its tokens are evaluated.
    Compare(LogitsReader),
}

/// The tokens of `text` that a perplexity of context `n_ctx` evaluates: at most `max_chunks` whole chunks.
///
/// # Errors
/// [`Class::Usage`] when `n_ctx` is too small, or the text is shorter than two chunks.
pub fn tokens(model: &Model, text: &str, n_ctx: usize, max_chunks: Option<usize>) -> Result<Vec<u32>> {
    if n_ctx < 4 || max_chunks == Some(0) {
        return Err(Error::new(Class::Usage, "there is nothing to count")
            .expected_got("a context of at least 4 tokens and at least 1 chunk", format!("{n_ctx} tokens")));
    }
    let tokenizer = model.tokenizer();
    let mut tokens: Vec<u32> = tokenizer.bos().filter(|_| tokenizer.add_bos()).into_iter().collect();
    tokens.extend(tokenizer.encode(text, false));
    if tokens.len() / 2 < n_ctx {
        return Err(Error::new(Class::Usage, "the text is too short for this context")
            .expected_got(format!("at least {} tokens", n_ctx.saturating_mul(2)), tokens.len())
            .advice("give a longer text, or a smaller context with --ctx-size"));
    }
    let chunks = (tokens.len() / n_ctx).min(max_chunks.unwrap_or(usize::MAX));
    tokens.truncate(chunks * n_ctx);
    Ok(tokens)
}

/// What is evaluated, and how.
pub struct Evaluation<'a> {
    /// The model and its team.
    pub engine: &'a Engine,
    /// Adapters on the model.
    pub stack: &'a Stack,
    /// Type of the numbers in the cache.
    pub kv_type: KvType,
    /// Whole chunks of `n_ctx` tokens.
    pub tokens: &'a [u32],
    /// Tokens of a chunk.
    pub n_ctx: usize,
    /// Chunks to evaluate at most.
    pub max_chunks: Option<usize>,
    /// Ends the work early.
    pub cancel: &'a Cancel,
}

/// Evaluates the tokens; with [`Base::Compare`] the file's own tokens and context are taken instead (`tokens` may be
/// empty then). After each chunk `progress` hears of the number of chunks done, of all, and the perplexity so far.
///
/// # Errors
/// What [`forward`] and the logits file find wrong; [`Class::Usage`] when the file is of another vocabulary or text;
/// [`Class::Interrupted`]. Then no logits file is left.
pub fn run(
    evaluation: &Evaluation,
    base: Base<'_>,
    mut progress: impl FnMut(usize, usize, f64),
) -> Result<Report> {
    let &Evaluation { engine, stack, kv_type, tokens, n_ctx, max_chunks, cancel } = evaluation;
    let (model, team) = (engine.model(), engine.team());
    let n_vocab = model.spec().vocab;
    let mut header = Header { n_ctx, n_vocab, tokens: tokens.to_vec() };
    let mut sink = match base {
        Base::None => Sink::None,
        Base::Write(path) => Sink::Write(LogitsWriter::create(path, header.clone())?),
        Base::Compare(reader) => {
            check_same(model, &header, &reader)?;
            header = reader.header().clone();
            Sink::Compare(Box::new(reader), Against::default())
        }
    };
    let chunks = header.n_chunk().min(max_chunks.unwrap_or(usize::MAX));
    let (n_ctx, first) = (header.n_ctx, header.first());

    let mut cache = KvCache::new(model.spec(), kv_type, n_ctx)?;
    let mut ws = Workspace::new(model, n_ctx)?;
    ws.set_stack(stack);
    ws.set_cancel(cancel);
    let rows_at_once = (LOGITS_BYTES / 4 / n_vocab).clamp(16, 512);
    let mut tally = Tally::default();
    let tokenizer = model.tokenizer();
    for (i, chunk) in header.tokens.chunks_exact(n_ctx).take(chunks).enumerate() {
        let mut input = chunk[..n_ctx - 1].to_vec();
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos()) {
            input[0] = bos;
        }
        cache.truncate(0);
        forward(model, team, &mut ws, &mut cache, &input[..first], Want::None)?;
        let mut next = first + 1;
        for part in input[first..].chunks(rows_at_once) {
            let logits = forward(model, team, &mut ws, &mut cache, part, Want::All)?;
            for row in logits.chunks_exact(n_vocab) {
                tally.add(row, chunk[next], &mut sink)?;
                next += 1;
            }
        }
        progress(i + 1, chunks, tally.ppl());
    }
    Ok(match sink {
        Sink::None => tally.report(chunks * n_ctx, chunks, None),
        Sink::Write(writer) => {
            writer.finish()?;
            tally.report(chunks * n_ctx, chunks, None)
        }
        Sink::Compare(_, against) => tally.report(chunks * n_ctx, chunks, Some(against.comparison())),
    })
}

/// Where the rows of logits go.
enum Sink {
    None,
    Write(LogitsWriter),
    Compare(Box<LogitsReader>, Against),
}

/// A file is only comparable with logits of the same vocabulary; when there are tokens of a text, the file must have
/// been made from them.
fn check_same(model: &Model, header: &Header, reader: &LogitsReader) -> Result<()> {
    let file = reader.header();
    let differs = |what: &str, expected: String, got: String| {
        Err(Error::new(Class::Usage, format!("the logits file was made with another {what}"))
            .in_file(reader.path())
            .expected_got(expected, got))
    };
    if file.n_vocab != model.spec().vocab {
        return differs(
            "vocabulary",
            format!("{} tokens", model.spec().vocab),
            format!("{} tokens", file.n_vocab),
        );
    }
    if file.n_ctx < 4 {
        return differs("context", "at least 4 tokens".into(), file.n_ctx.to_string());
    }
    if !header.tokens.is_empty() && header.n_ctx != file.n_ctx {
        return differs("context", header.n_ctx.to_string(), file.n_ctx.to_string());
    }
    match header.tokens.iter().zip(&file.tokens).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => differs(
            "text",
            format!("token {} at {at}", header.tokens[at]),
            format!("token {}", file.tokens[at]),
        ),
    }
}
