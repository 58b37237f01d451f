//! Tokenisers: text to token ids and back, as the model's own tokeniser does it.
//!
//! Two kinds exist in GGUF files that this program runs: SentencePiece-style (`tokenizer.ggml.model` =
//! `llama`; Llama 1 and 2, Mistral, Phi-3, Gemma) and byte-level BPE (`gpt2`; Llama 3, Qwen, SmolLM, Falcon
//! …), which first cuts text into words by one of several pre-tokenisers. The ids are those of llama.cpp,
//! with one difference: text never becomes a control token unless it is asked for, not even by merging.
mod bpe;
mod byte_level;
mod class;
mod decode;
mod load;
mod merge;
mod pre;
mod special;
mod spm;
mod vocab;

use std::ops::Range;

use bpe::Bpe;
pub use decode::StreamDecoder;
pub use load::Parts;
use special::SpecialTree;
use spm::Spm;
use vocab::{Vocab, kind};

/// Where a piece of a prompt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The chat template: its special tokens are what they look like.
    Template,
    /// A message: what looks like a special token is text.
    Content,
    /// As content, and all that one message of the model said, but for white space around it.
    Answer,
}

/// A piece of a prompt: text to tokenise, or tokens as they are.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'p> {
    /// Text of a template or message.
    Text(&'p str, Origin),
    /// Tokens.
    Ids(&'p [u32]),
}

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The text.
    pub text: String,
    /// Where it comes from.
    pub origin: Origin,
}

impl Segment {
    /// As a piece of a prompt.
    pub fn piece(&self) -> Piece<'_> {
        Piece::Text(&self.text, self.origin)
    }
}

/// The tokeniser of a model.
pub struct Tokenizer {
    vocab: Vocab,
    special: SpecialTree,
    scheme: Scheme,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Ascending.
    eog: Vec<u32>,
    guessed_pre: bool,
}

/// How text without special tokens is tokenised.
enum Scheme {
    Spm {
        spm: Spm,
        /// Whether text at the beginning and behind special tokens gets a space in front.
        space_prefix: bool,
    },
    Bpe(Bpe),
}

/// Plain text is tokenised in pieces of at most this many bytes, so that positions fit 32 bits even after
/// bytes have been written as two or three.
const PIECE: usize = 1 << 30;

impl Tokenizer {
    /// Ids of `text`, without a beginning-of-sequence token. Where `special` is false, control tokens in the
    /// text stay text; tokens that the vocabulary's author added to plain text are recognised in both cases.
    pub fn encode(&self, text: &str, special: bool) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3);
        self.encode_where(text, true, |_| special, &mut out);
        out
    }

    /// Ids of a prompt made of `pieces`, without a beginning-of-sequence token: control tokens are recognised only
    /// where they lie wholly in template text. Plain text is tokenised across the borders of texts, as the whole
    /// would be, but not across given tokens.
    pub fn encode_pieces(&self, pieces: &[Piece]) -> Vec<u32> {
        let mut out = Vec::new();
        for run in pieces.chunk_by(|a, b| matches!((a, b), (Piece::Text(..), Piece::Text(..)))) {
            let mut text = String::new();
            // Template text as ranges that do not touch.
            let mut template: Vec<Range<usize>> = Vec::new();
            for piece in run {
                match *piece {
                    Piece::Ids(ids) => out.extend_from_slice(ids),
                    Piece::Text(part, origin) => {
                        let start = text.len();
                        text += part;
                        match (origin, template.last_mut()) {
                            (Origin::Content | Origin::Answer, _) => {}
                            (Origin::Template, Some(last)) if last.end == start => last.end = text.len(),
                            (Origin::Template, _) => template.push(start..text.len()),
                        }
                    }
                }
            }
            let markup = |range: Range<usize>| {
                let after = template.partition_point(|part| part.start <= range.start);
                after > 0 && range.end <= template[after - 1].end
            };
            let first = out.last().is_none_or(|&id| self.is_control(id));
            self.encode_where(&text, first, markup, &mut out);
        }
        out
    }

    /// Ids of `text` as it stands inside a longer text: without the space that SentencePiece-style encoding puts in
    /// front, and with no special tokens recognised.
    pub fn encode_inside(&self, text: &str) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3);
        self.encode_plain(text, false, &mut out);
        out
    }

    /// Ids of a prompt as [`Tokenizer::encode_pieces`] gives them, behind the token that begins a sequence where the
    /// model expects it and the template has not written it.
    pub fn encode_prompt(&self, pieces: &[Piece]) -> Vec<u32> {
        let mut ids = self.encode_pieces(pieces);
        if let Some(bos) = self.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// Appends the ids of `text`; `markup` says which ranges of it may be control tokens, `first` whether it stands
    /// at the beginning or behind a special token.
    fn encode_where(
        &self,
        text: &str,
        first: bool,
        markup: impl Fn(Range<usize>) -> bool,
        out: &mut Vec<u32>,
    ) {
        let (mut at, mut after_special) = (0, first);
        for found in self.special.find(&self.vocab, text, markup) {
            if found.start > at {
                self.encode_plain(&text[at..found.start], after_special, out);
            }
            out.push(found.id);
            (at, after_special) = (found.end, true);
        }
        if at < text.len() {
            self.encode_plain(&text[at..], after_special, out);
        }
    }

    /// Appends the ids of `text`, which holds no special tokens. `first`: it stands at the beginning or
    /// behind a special token.
    fn encode_plain(&self, text: &str, first: bool, out: &mut Vec<u32>) {
        let prefixed;
        let mut text = text;
        if let Scheme::Spm { space_prefix: true, .. } = self.scheme
            && first
        {
            prefixed = format!(" {text}");
            text = &prefixed;
        }
        while !text.is_empty() {
            let (piece, rest) = text.split_at(text.floor_char_boundary(PIECE));
            match &self.scheme {
                Scheme::Spm { spm, .. } => spm.encode(&self.vocab, piece, out),
                Scheme::Bpe(bpe) => bpe.encode(&self.vocab, piece, out),
            }
            text = rest;
        }
    }

    /// Number of tokens; ids are below it.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token for what the vocabulary cannot say.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Whether the model expects [`Tokenizer::bos`] in front of a prompt; never true without one.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether the model expects [`Tokenizer::eos`] behind a text; never true without one.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether this token ends the model's answer.
    pub fn is_eog(&self, id: u32) -> bool {
        self.eog.binary_search(&id).is_ok()
    }

    /// The tokens that end the model's answer, ascending.
    pub fn eog(&self) -> &[u32] {
        &self.eog
    }

    /// Whether this token is markup that is never shown.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.is(id, kind::CONTROL)
    }

    /// The text of a token as the vocabulary writes it; empty for ids beyond it.
    pub fn token_text(&self, id: u32) -> &str {
        self.vocab.text(id)
    }

    /// The token that the vocabulary writes as `text`.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.vocab.find(text)
    }

    /// Texts of all control tokens: what a message must not be able to say.
    pub fn control_texts(&self) -> impl Iterator<Item = &str> {
        (0..self.n_vocab() as u32).filter(|&id| self.is_control(id)).map(|id| self.vocab.text(id))
    }

    /// Byte positions in `text`, ascending, at which the text of a control token begins.
    pub fn control_starts<'t>(&'t self, text: &'t str) -> impl Iterator<Item = usize> + 't {
        self.special.control_starts(&self.vocab, text)
    }

    /// Whether the file names no pre-tokeniser, so that the oldest one had to be assumed.
    pub fn guessed_pre(&self) -> bool {
        self.guessed_pre
    }
}

#[cfg(test)]
mod tests;
