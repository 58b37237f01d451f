//! From tokens back to text, a piece at a time.
use std::borrow::Cow;

use super::vocab::kind;
use super::{Scheme, Tokenizer, byte_level, spm};

impl Tokenizer {
    /// The bytes that a token stands for in text: control tokens give their own text, reserved ones and ids
    /// beyond the vocabulary give nothing. A token may hold part of a character.
    pub fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        let text = self.vocab.text(id);
        if self.vocab.is(id, kind::CONTROL | kind::UNKNOWN | kind::USER_DEFINED) {
            return Cow::Borrowed(text.as_bytes());
        }
        if self.vocab.is(id, kind::BYTE) {
            return self.vocab.byte(id).map_or(Cow::Borrowed(&[]), |byte| Cow::Owned(vec![byte]));
        }
        if !self.vocab.is(id, kind::NORMAL) {
            return Cow::Borrowed(&[]);
        }
        match &self.scheme {
            Scheme::Bpe(_) => {
                let mut bytes = Vec::with_capacity(text.len());
                byte_level::decode(text, &mut bytes);
                Cow::Owned(bytes)
            }
            Scheme::Spm { .. } if text.contains(spm::SPACE) => {
                Cow::Owned(text.replace(spm::SPACE, " ").into_bytes())
            }
            Scheme::Spm { .. } => Cow::Borrowed(text.as_bytes()),
        }
    }

    /// Appends what [`Tokenizer::token_bytes`] gives.
    pub fn push_token_bytes(&self, id: u32, out: &mut Vec<u8>) {
        match &self.scheme {
            Scheme::Bpe(_) if self.vocab.is(id, kind::NORMAL) => byte_level::decode(self.vocab.text(id), out),
            _ => out.extend_from_slice(&self.token_bytes(id)),
        }
    }

    /// The text of `ids`, without control and unknown tokens; bytes that form no character become U+FFFD.
    /// The space that SentencePiece-style encoding put in front of a text is taken away again.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = StreamDecoder::at_start(self);
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text += &decoder.finish();
        text
    }
}

/// Turns tokens into text as they come, whole characters only.
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    /// The beginning of a character whose rest has not come yet.
    pending: Vec<u8>,
    /// Whether a space at the very beginning is encoding's, not the text's.
    drop_space: bool,
    show_special: bool,
}

impl<'t> StreamDecoder<'t> {
    /// A decoder for tokens that continue some text.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new(), drop_space: false, show_special: false }
    }

    /// A decoder for tokens from the beginning of a text, where SentencePiece-style encoding puts a space
    /// that was not there.
    pub fn at_start(tokenizer: &'t Tokenizer) -> Self {
        let drop_space = matches!(tokenizer.scheme, Scheme::Spm { space_prefix: true, .. });
        Self { drop_space, ..Self::new(tokenizer) }
    }

    /// Shows control and unknown tokens by their texts.
    #[must_use]
    pub fn with_special(mut self) -> Self {
        self.show_special = true;
        self
    }

    /// The text that is complete with this token: never part of a character. Bytes that can form no
    /// character become U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        if !self.show_special && self.tokenizer.vocab.is(id, kind::CONTROL | kind::UNKNOWN) {
            return String::new();
        }
        let bytes = self.tokenizer.token_bytes(id);
        let mut bytes = &bytes[..];
        if self.drop_space && !bytes.is_empty() {
            self.drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        let (mut text, mut done) = (String::new(), 0);
        for chunk in self.pending.utf8_chunks() {
            text += chunk.valid();
            done += chunk.valid().len();
            let bad = chunk.invalid();
            // At the end, a character that is only cut off may still be completed.
            if bad.is_empty() || done + bad.len() == self.pending.len() && cut_off(bad) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            done += bad.len();
        }
        self.pending.drain(..done);
        text
    }

    /// Ends the text: what is left of an incomplete character becomes U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Whether `bytes`, the invalid end of a text, is the beginning of a character.
fn cut_off(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}
