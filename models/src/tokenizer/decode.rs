//! From tokens back to text, a piece at a time.
use super::vocab::kind;
use super::{Scheme, Tokenizer, byte_level, spm};

impl Tokenizer {
    /// The bytes that a token stands for in text: control tokens give their own text, reserved ones and ids
    /// beyond the vocabulary give nothing. A token may hold part of a character.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.push_token_bytes(id, &mut bytes);
        bytes
    }

    /// Appends what [`Tokenizer::token_bytes`] gives.
    pub fn push_token_bytes(&self, id: u32, out: &mut Vec<u8>) {
        let (text, is) = (self.vocab.text(id), |kinds| self.vocab.is(id, kinds));
        if is(kind::CONTROL | kind::UNKNOWN | kind::USER_DEFINED) {
            out.extend_from_slice(text.as_bytes());
        } else if is(kind::BYTE) {
            out.extend(self.vocab.byte(id));
        } else if is(kind::NORMAL) {
            match &self.scheme {
                Scheme::Bpe(_) => byte_level::decode(text, out),
                Scheme::Spm { .. } => {
                    for (i, part) in text.split(spm::SPACE).enumerate() {
                        out.extend((i > 0).then_some(b' '));
                        out.extend_from_slice(part.as_bytes());
                    }
                }
            }
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
        let start = self.pending.len();
        self.tokenizer.push_token_bytes(id, &mut self.pending);
        if self.drop_space && start < self.pending.len() {
            self.drop_space = false;
            if self.pending[start] == b' ' {
                self.pending.remove(start);
            }
        }
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
