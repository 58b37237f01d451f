//! Byte-level BPE: the merges of a vocabulary, and words merged with them.
use hashbrown::HashMap;

use super::byte_level;
use super::merge::Merger;
use super::pre::PreTokenizer;
use super::vocab::{Vocab, kind};
use crate::error::{Error, Result};
use crate::gguf::Strings;

/// Merges, and the symbols that words start from. Symbols below the size of the vocabulary are tokens; others
/// are texts that merges mention but the vocabulary lacks.
pub(super) struct Bpe {
    pub(super) pre: &'static PreTokenizer,
    bytes: Box<[u32; 256]>,
    /// Left symbol (high half) and right symbol → rank and merged symbol.
    merges: HashMap<u64, (u32, u32)>,
    /// For symbols beyond the vocabulary: the tokens that they become after all.
    beyond: Vec<Vec<u32>>,
}

impl Bpe {
    /// The merges of `vocab`: lines of two texts with a space between, best first.
    ///
    /// # Errors
    /// When a line is not two texts.
    pub(super) fn new(vocab: &Vocab, pre: &'static PreTokenizer, merges: &Strings) -> Result<Self> {
        let mut symbols = Symbols { vocab, beyond: HashMap::new(), becomes: Vec::new() };
        let bytes =
            std::array::from_fn(|byte| symbols.of(byte_level::char_of(byte as u8).encode_utf8(&mut [0; 4])));
        let mut map = HashMap::with_capacity(merges.len());
        let mut both = String::new();
        for (rank, line) in (0..u32::MAX).zip(merges.iter()) {
            let space = line.bytes().skip(1).position(|byte| byte == b' ').map(|at| at + 1);
            let (left, right) = match space {
                Some(space) if space + 1 < line.len() => (&line[..space], &line[space + 1..]),
                _ => {
                    return Err(Error::bad_file("a merge of the vocabulary is not two texts")
                        .at(format!("tokenizer.ggml.merges, element {rank}"))
                        .expected_got("two texts with a space between", format!("{line:?}")));
                }
            };
            both.clear();
            both.push_str(left);
            both.push_str(right);
            // No merge may turn ordinary text into markup.
            if vocab.find(&both).is_some_and(|id| vocab.is(id, kind::CONTROL | kind::UNKNOWN)) {
                continue;
            }
            let key = u64::from(symbols.of(left)) << 32 | u64::from(symbols.of(right));
            let merged = symbols.of(&both);
            // Of equal pairs the first, which is the better, counts.
            map.entry(key).or_insert((rank, merged));
        }
        Ok(Self { pre, bytes: Box::new(bytes), merges: map, beyond: symbols.becomes })
    }

    /// Appends the tokens of `text`, which has no special tokens in it and is shorter than 4 GiB.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut merger = Merger::default();
        let mut written = String::new();
        self.pre.split(text, |word| {
            if self.pre.ignore_merges {
                written.clear();
                written.extend(word.bytes().map(byte_level::char_of));
                if let Some(id) = vocab.find_ordinary(&written) {
                    out.push(id);
                    return;
                }
            }
            merger.clear();
            for (at, byte) in word.bytes().enumerate() {
                merger.push(self.bytes[usize::from(byte)], at, at + 1);
            }
            merger.run(|left, right| {
                self.merges.get(&(u64::from(left.id) << 32 | u64::from(right.id))).copied()
            });
            for symbol in merger.symbols() {
                match (symbol.id as usize).checked_sub(vocab.len()) {
                    None => out.push(symbol.id),
                    Some(beyond) => out.extend(&self.beyond[beyond]),
                }
            }
        });
    }
}

/// Gives every text that merges mention a symbol.
struct Symbols<'v> {
    vocab: &'v Vocab,
    beyond: HashMap<String, u32>,
    becomes: Vec<Vec<u32>>,
}

impl Symbols<'_> {
    fn of(&mut self, text: &str) -> u32 {
        let known = self.vocab.find_ordinary(text);
        known.or_else(|| self.beyond.get(text).copied()).unwrap_or_else(|| self.add(text))
    }

    fn add(&mut self, text: &str) -> u32 {
        let symbol = (self.vocab.len() + self.becomes.len()) as u32;
        // As llama.cpp has it: single bytes of the written form that are tokens, the rest is lost.
        let ascii = text.chars().filter(char::is_ascii);
        self.becomes
            .push(ascii.filter_map(|c| self.vocab.find_ordinary(c.encode_utf8(&mut [0; 4]))).collect());
        self.beyond.insert(text.to_owned(), symbol);
        symbol
    }
}
