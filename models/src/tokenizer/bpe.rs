//! Byte-level BPE: the merges of a vocabulary, and words merged with them.
use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::byte_level;
use super::merge::Merger;
use super::pre::PreTokenizer;
use super::vocab::Vocab;
use crate::error::{Error, Result};
use crate::gguf::Strings;

/// Merges, found by the texts of the two symbols. (Looking up the tokens of every merge when loading, to find
/// merges by ids, takes longer than all the rest of loading.)
pub(super) struct Bpe {
    pub(super) pre: &'static PreTokenizer,
    /// Two texts with a space between, best first.
    merges: Strings,
    /// Ranks in `merges`, by the hash of the two texts; of equal merges the first.
    ranks: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// The two texts of a merge; a text may begin with a space.
fn two_texts(line: &str) -> Option<(&str, &str)> {
    let space = line.bytes().skip(1).position(|byte| byte == b' ')? + 1;
    Some((&line[..space], &line[space + 1..])).filter(|(_, right)| !right.is_empty())
}

impl Bpe {
    /// # Errors
    /// When a merge is not two texts.
    pub(super) fn new(pre: &'static PreTokenizer, merges: Strings) -> Result<Self> {
        let hasher = DefaultHashBuilder::default();
        let mut ranks: HashTable<u32> = HashTable::with_capacity(merges.len());
        let line = |rank: u32| merges.get(rank as usize).unwrap_or_default();
        for (rank, text) in (0..u32::MAX).zip(merges.iter()) {
            let Some(pair) = two_texts(text) else {
                return Err(Error::bad_file("a merge of the vocabulary is not two texts")
                    .at(format!("key tokenizer.ggml.merges, element {rank}"))
                    .expected_got("two texts with a space between", format!("{text:?}")));
            };
            let same = |&other: &u32| line(other) == text;
            if let Entry::Vacant(free) =
                ranks.entry(hasher.hash_one(pair), same, |&other| hasher.hash_one(two_texts(line(other))))
            {
                free.insert(rank);
            }
        }
        Ok(Self { pre, ranks, hasher, merges })
    }

    /// How early `left` and `right` merge.
    fn rank(&self, left: &str, right: &str) -> Option<u32> {
        let same = |&rank: &u32| {
            let line = self.merges.get(rank as usize).unwrap_or_default();
            line.len() == left.len() + 1 + right.len()
                && line.starts_with(left)
                && line.ends_with(right)
                && line.as_bytes()[left.len()] == b' '
        };
        self.ranks.find(self.hasher.hash_one((left, right)), same).copied()
    }

    /// Appends the tokens of `text`, which has no special tokens in it and is shorter than 2 GiB.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut merger = Merger::default();
        let mut written = String::new();
        self.pre.split(text, |word| {
            written.clear();
            written.extend(word.bytes().map(byte_level::char_of));
            if self.pre.ignore_merges
                && let Some(id) = vocab.find_ordinary(&written)
            {
                out.push(id);
                return;
            }
            merger.clear();
            for (at, c) in written.char_indices() {
                merger.push(0, at, at + c.len_utf8());
            }
            merger.run(|left, right| {
                let middle = left.end as usize;
                self.rank(&written[left.start as usize..middle], &written[middle..right.end as usize])
                    .map(|rank| (rank, 0))
            });
            for symbol in merger.symbols() {
                let symbol = &written[symbol.start as usize..symbol.end as usize];
                match vocab.find_ordinary(symbol) {
                    Some(id) => out.push(id),
                    // A merge into what is no token, or is markup: the bytes that the vocabulary has.
                    None => out.extend(
                        symbol.chars().filter_map(|c| vocab.find_ordinary(c.encode_utf8(&mut [0; 4]))),
                    ),
                }
            }
        });
    }
}
