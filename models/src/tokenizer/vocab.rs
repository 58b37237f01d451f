//! The vocabulary: texts, kinds and the way back from text to id.
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::gguf::Strings;

/// What a token is, as bits: the six types of `tokenizer.ggml.token_type`, and what llama.cpp derives.
pub(super) mod kind {
    /// Text that the tokeniser produces.
    pub(in super::super) const NORMAL: u8 = 1;
    /// Stands for what the vocabulary cannot say.
    pub(in super::super) const UNKNOWN: u8 = 2;
    /// Markup between turns and the like: recognised only where special tokens are asked for, never shown.
    pub(in super::super) const CONTROL: u8 = 4;
    /// Added text that is recognised before all else, also in plain text.
    pub(in super::super) const USER_DEFINED: u8 = 8;
    /// Reserved; stands for no text.
    pub(in super::super) const UNUSED: u8 = 16;
    /// One byte, written `<0xHH>`.
    pub(in super::super) const BYTE: u8 = 32;
    /// White space behind the token is swallowed when it is recognised.
    pub(in super::super) const STRIPS_RIGHT: u8 = 64;

    /// The kind that a number in `tokenizer.ggml.token_type` means; 0 for unknown numbers, as in llama.cpp.
    pub(in super::super) fn of_type(ty: i64) -> u8 {
        match ty {
            1 => NORMAL,
            2 => UNKNOWN,
            3 => CONTROL,
            4 => USER_DEFINED,
            5 => UNUSED,
            6 => BYTE,
            _ => 0,
        }
    }
}

/// Texts, kinds and the map from text to id of all tokens.
pub(super) struct Vocab {
    texts: Strings,
    /// Bits of `kind`, one byte a token.
    pub(super) kinds: Vec<u8>,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl Vocab {
    /// A vocabulary of `texts` with as many `kinds`. Of equal texts the last is the one that text becomes.
    pub(super) fn new(texts: Strings, kinds: Vec<u8>) -> Self {
        let hasher = DefaultHashBuilder::default();
        let mut ids: HashTable<u32> = HashTable::with_capacity(texts.len());
        let text = |id: u32| texts.get(id as usize).unwrap_or_default();
        let mut longest = 0;
        for (id, key) in (0_u32..).zip(texts.iter()) {
            // A token without text can never be found in one.
            if key.is_empty() {
                continue;
            }
            longest = longest.max(key.len());
            let hash = hasher.hash_one(key);
            match ids.find_mut(hash, |&other| text(other) == key) {
                Some(other) => *other = id,
                None => {
                    ids.insert_unique(hash, id, |&other| hasher.hash_one(text(other)));
                }
            }
        }
        Self { kinds, ids, hasher, longest, texts }
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The text of a token as the file has it; empty for ids beyond the vocabulary.
    pub(super) fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).unwrap_or_default()
    }

    /// Whether the token has any of the bits of `mask`.
    pub(super) fn is(&self, id: u32, mask: u8) -> bool {
        self.kinds.get(id as usize).is_some_and(|kind| kind & mask != 0)
    }

    /// The token with this text.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        self.ids.find(self.hasher.hash_one(text), |&id| self.text(id) == text).copied()
    }

    /// The token with this text that ordinary text may become: no markup, and no byte's name.
    pub(super) fn find_ordinary(&self, text: &str) -> Option<u32> {
        self.find(text).filter(|&id| !self.is(id, kind::CONTROL | kind::UNKNOWN | kind::BYTE))
    }

    /// The byte that a byte token stands for: its text is exactly `<0xHH>`.
    pub(super) fn byte(&self, id: u32) -> Option<u8> {
        let digits = self.text(id).strip_prefix("<0x")?.strip_suffix('>')?;
        if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        u8::from_str_radix(digits, 16).ok()
    }
}
