//! SentencePiece-style tokenising: neighbours merge into the token with the best score.
use hashbrown::HashSet;

use super::merge::Merger;
use super::vocab::{Vocab, kind};
use crate::error::{Error, Result};

/// What SentencePiece writes for a space: U+2581.
pub(super) const SPACE: char = '\u{2581}';

/// Scores and byte tokens of a vocabulary.
pub(super) struct Spm {
    /// Per token: smaller is better, < `u32::MAX`; in the order of descending scores.
    priorities: Vec<u32>,
    /// The token that each byte falls back to.
    bytes: Box<[Option<u32>; 256]>,
    /// The token for characters with a byte that has none.
    unknown: Option<u32>,
    /// Characters that stand before a space inside some token. Behind all others a space begins a new word:
    /// nothing merges across, so that words can be merged one by one, which is faster than a long text at once.
    before_space: HashSet<char>,
}

impl Spm {
    /// # Errors
    /// When there are fewer scores than tokens or one is not a number, when the text of a byte token is no
    /// byte, and when text outside the vocabulary could be said neither by bytes nor by an unknown token.
    pub(super) fn new(vocab: &Vocab, scores: Option<&[f32]>, unknown: Option<u32>) -> Result<Self> {
        let at = "key tokenizer.ggml.scores";
        let scores = match scores {
            Some(scores) if scores.len() < vocab.len() => {
                return Err(Error::bad_file("the vocabulary has fewer scores than tokens")
                    .at(at)
                    .expected_got(vocab.len(), scores.len()));
            }
            Some(scores) => scores[..vocab.len()].to_vec(),
            None => vec![0.0; vocab.len()],
        };
        if let Some(i) = scores.iter().position(|score| score.is_nan()) {
            return Err(Error::bad_file("a score of the vocabulary is not a number")
                .at(format!("{at}, element {i}"))
                .expected_got("a number", "NaN"));
        }
        let bytes: [Option<u32>; 256] = std::array::from_fn(|byte| vocab.find(&format!("<0x{byte:02X}>")));
        if unknown.is_none() && bytes.contains(&None) {
            return Err(Error::bad_file("the vocabulary can say neither every byte nor that one is unknown")
                .at("key tokenizer.ggml.tokens")
                .expected_got("tokens <0x00> to <0xFF>, or tokenizer.ggml.unknown_token_id", "neither"));
        }
        let mut before_space = HashSet::new();
        for id in 0..vocab.len() as u32 {
            let text = vocab.text(id);
            before_space
                .extend(text.match_indices(SPACE).filter_map(|(at, _)| text[..at].chars().next_back()));
        }
        Ok(Self {
            priorities: scores.into_iter().map(priority).collect(),
            bytes: Box::new(bytes),
            unknown,
            before_space,
        })
    }

    /// Appends the tokens of `text`, which has no special tokens in it, is shorter than 1 GiB and already
    /// has its leading space where one is wanted.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let text = text.replace(' ', SPACE.encode_utf8(&mut [0; 4]));
        let mut merger = Merger::default();
        let mut start = 0;
        for (at, _) in text.match_indices(SPACE) {
            if text[..at].chars().next_back().is_some_and(|c| !self.before_space.contains(&c)) {
                self.encode_word(vocab, &text[start..at], &mut merger, out);
                start = at;
            }
        }
        self.encode_word(vocab, &text[start..], &mut merger, out);
    }

    /// Appends the tokens of `text`, in which spaces are already written as [`SPACE`].
    fn encode_word(&self, vocab: &Vocab, text: &str, merger: &mut Merger, out: &mut Vec<u32>) {
        merger.clear();
        for (at, c) in text.char_indices() {
            merger.push(u32::MAX, at, at + c.len_utf8());
        }
        merger.run(|left, right| {
            let id = vocab.find_ordinary(&text[left.start as usize..right.end as usize])?;
            Some((self.priorities[id as usize], id))
        });
        for symbol in merger.symbols() {
            let piece = &text[symbol.start as usize..symbol.end as usize];
            // Symbols that never merged are single characters, whose token is looked up only now.
            let id = if symbol.id == u32::MAX { vocab.find_ordinary(piece) } else { Some(symbol.id) };
            match id {
                Some(id) => out.push(id),
                None => {
                    let begin = out.len();
                    out.extend(piece.bytes().filter_map(|byte| self.bytes[usize::from(byte)]));
                    if out.len() - begin < piece.len() {
                        out.truncate(begin);
                        out.extend(self.unknown);
                    }
                }
            }
        }
    }
}

/// A number that ascends as `score` descends; equal scores give equal numbers. Never `u32::MAX`, which only
/// a negative NaN would give.
fn priority(score: f32) -> u32 {
    // Adding zero turns −0 into +0.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

/// Checks that every token of kind byte is named as one.
///
/// # Errors
/// Naming the first that is not.
pub(super) fn check_bytes(vocab: &Vocab) -> Result<()> {
    let bad = (0..vocab.len() as u32).find(|&id| vocab.is(id, kind::BYTE) && vocab.byte(id).is_none());
    match bad {
        None => Ok(()),
        Some(id) => Err(Error::bad_file("a byte token of the vocabulary does not name a byte")
            .at(format!("key tokenizer.ggml.tokens, element {id}"))
            .expected_got("<0x00> to <0xFF>", format!("{:?}", vocab.text(id)))),
    }
}

#[cfg(test)]
mod tests {
    use super::priority;

    #[test]
    fn priorities_descend_with_scores() {
        let scores = [f32::INFINITY, 3.5, 1e-40, 0.0, -1e-40, -1.0, -1e9, f32::NEG_INFINITY];
        for pair in scores.windows(2) {
            assert!(priority(pair[0]) < priority(pair[1]), "{pair:?}");
        }
        assert_eq!(priority(0.0), priority(-0.0));
        assert_ne!(priority(f32::NEG_INFINITY), u32::MAX);
    }
}
