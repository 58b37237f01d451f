//! Generated vocabularies: valid in form and able to encode any text, but of made-up words.
use super::shape::Vocabulary;
use crate::error::{Class, Error, Result};
use crate::gguf::{Strings, Value};

/// Kinds of tokens. Source: the GGUF specification, `tokenizer.ggml.token_type`.
mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const BYTE: i32 = 6;
}

/// A plain template of the ChatML kind, whose markers every generated vocabulary has.
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
    message['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\\n' }}{% endif %}";

#[derive(Default)]
struct Tokens {
    text: Strings,
    kinds: Vec<i32>,
    scores: Vec<f32>,
    merges: Strings,
}

impl Tokens {
    fn add(&mut self, text: &str, kind: i32, score: f32) {
        self.text.push(text);
        self.kinds.push(kind);
        self.scores.push(score);
    }

    fn control(&mut self, all: &[&str]) {
        all.iter().for_each(|text| self.add(text, kind::CONTROL, 0.0));
    }
}

/// The `tokenizer.` keys of a vocabulary of `n` tokens.
pub(super) fn entries(vocabulary: Vocabulary, n: usize) -> Result<Vec<(String, Value)>> {
    let mut tokens = Tokens::default();
    // (bos, eos, unknown)
    let ids = match vocabulary {
        Vocabulary::Spm => {
            tokens.add("<unk>", kind::UNKNOWN, 0.0);
            tokens.control(&["<s>", "</s>"]);
            [1, 2, 0]
        }
        Vocabulary::Gemma => {
            tokens.control(&["<pad>", "<eos>", "<bos>"]);
            tokens.add("<unk>", kind::UNKNOWN, 0.0);
            [2, 1, 3]
        }
        Vocabulary::Bpe(_) => [n as u32 - 4, n as u32 - 3, n as u32 - 4],
    };
    let last: &[&str] = match vocabulary {
        // Phi 3's own end of text; programs look for it when a name says phi3.
        Vocabulary::Spm => &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        Vocabulary::Gemma => &["<|im_start|>", "<|im_end|>"],
        Vocabulary::Bpe(_) => &["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"],
    };
    let words = n.checked_sub(last.len()).filter(|_| (512..=1 << 20).contains(&n)).ok_or_else(|| {
        Error::new(Class::Usage, "impossible size of a vocabulary")
            .at("vocab")
            .expected_got("512 to 1048576", n)
    })?;
    match vocabulary {
        Vocabulary::Bpe(_) => bpe_words(&mut tokens, words),
        _ => spm_words(&mut tokens, words),
    }
    tokens.control(last);

    let bpe = matches!(vocabulary, Vocabulary::Bpe(_));
    let mut entries: Vec<(&str, Value)> = vec![("model", if bpe { "gpt2" } else { "llama" }.into())];
    let pre = if let Vocabulary::Bpe(pre) = vocabulary { pre } else { "default" };
    entries.push(("pre", pre.into()));
    entries.push(("tokens", tokens.text.into()));
    if bpe {
        entries.push(("token_type", tokens.kinds.into()));
        entries.push(("merges", tokens.merges.into()));
    } else {
        entries.push(("scores", tokens.scores.into()));
        entries.push(("token_type", tokens.kinds.into()));
        entries.push(("unknown_token_id", ids[2].into()));
    }
    entries.push(("bos_token_id", ids[0].into()));
    entries.push(("eos_token_id", ids[1].into()));
    entries.push(("add_bos_token", (!matches!(vocabulary, Vocabulary::Bpe("qwen2" | "smollm"))).into()));
    entries.push(("add_space_prefix", (vocabulary == Vocabulary::Spm).into()));
    let mut entries: Vec<_> = entries.into_iter().map(|(k, v)| (format!("tokenizer.ggml.{k}"), v)).collect();
    entries.push(("tokenizer.chat_template".into(), TEMPLATE.into()));
    Ok(entries)
}

/// Byte tokens, then pieces that grow by a character, up to `n` tokens in all.
fn spm_words(tokens: &mut Tokens, n: usize) {
    for byte in 0..=255u8 {
        tokens.add(&format!("<0x{byte:02X}>"), kind::BYTE, 0.0);
    }
    // Earlier pieces have the better score.
    let score = |tokens: &Tokens| -(tokens.text.len() as f32);
    for c in std::iter::once('▁').chain('!'..='~').filter(|c| !c.is_ascii_lowercase()) {
        let s = score(tokens);
        tokens.add(&c.to_string(), kind::NORMAL, s);
    }
    for c in 'a'..='z' {
        let s = score(tokens);
        tokens.add(&c.to_string(), kind::NORMAL, s);
    }
    for word in Words::new('▁').take(n.saturating_sub(tokens.text.len())) {
        let s = score(tokens);
        tokens.add(&word, kind::NORMAL, s);
    }
}

/// The 256 byte tokens, then words by merges of a word and a letter, up to `n` tokens in all.
fn bpe_words(tokens: &mut Tokens, n: usize) {
    for byte in 0..=255u8 {
        tokens.add(&byte_char(byte).to_string(), kind::NORMAL, 0.0);
    }
    for word in Words::new(byte_char(b' ')).take(n.saturating_sub(tokens.text.len())) {
        let (left, right) = word.split_at(word.len() - 1);
        tokens.merges.push(&format!("{left} {right}"));
        tokens.add(&word, kind::NORMAL, 0.0);
    }
}

/// The character that stands for a byte in byte-level vocabularies: itself where printable, else one from 256 on.
/// Source: GPT-2's `bytes_to_unicode`.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let n = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(256 + n).unwrap_or('?')
}

/// Words of two and more characters in order of length, each a shorter one and a letter; the first may begin with
/// the mark of a space.
struct Words {
    space: char,
    /// Number of the next word: its digits to the base 26, behind a first one to the base 27, spell it.
    next: usize,
    /// Letters behind the first.
    letters: u32,
}

impl Words {
    fn new(space: char) -> Self {
        Self { space, next: 0, letters: 1 }
    }
}

impl Iterator for Words {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let per_first = 26usize.pow(self.letters);
        if self.next == 27 * per_first {
            (self.next, self.letters) = (0, self.letters + 1);
            return self.next();
        }
        let n = self.next;
        self.next += 1;
        let letter = |i: usize| char::from(b'a' + i as u8);
        let mut word = String::new();
        word.push(match n / per_first {
            0 => self.space,
            first => letter(first - 1),
        });
        word.extend((0..self.letters).rev().map(|digit| letter(n / 26usize.pow(digit) % 26)));
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Array;
    use std::collections::HashSet;

    fn tokens(entries: &[(String, Value)], key: &str) -> Strings {
        match entries.iter().find(|(k, _)| k == &format!("tokenizer.ggml.{key}")) {
            Some((_, Value::Array(Array::String(s)))) => s.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn vocabularies_have_the_size_asked_for_and_no_token_twice() {
        for vocabulary in [Vocabulary::Spm, Vocabulary::Gemma, Vocabulary::Bpe("qwen2")] {
            for n in [512, 1024, 32_000, 262_144] {
                let entries = entries(vocabulary, n).unwrap();
                let tokens = tokens(&entries, "tokens");
                assert_eq!(tokens.len(), n);
                assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), n, "{vocabulary:?}");
            }
            assert_eq!(entries(vocabulary, 300).unwrap_err().class, Class::Usage);
        }
    }

    #[test]
    fn merges_join_earlier_tokens() {
        let entries = entries(Vocabulary::Bpe("qwen2"), 20_000).unwrap();
        let mut known: HashSet<String> = (0..=255).map(|b| byte_char(b).to_string()).collect();
        for merge in tokens(&entries, "merges").iter() {
            let (left, right) = merge.split_once(' ').unwrap();
            assert!(known.contains(left) && known.contains(right), "{merge}");
            known.insert(format!("{left}{right}"));
        }
        for token in tokens(&entries, "tokens").iter().filter(|t| !t.starts_with("<|")) {
            assert!(known.contains(token), "{token}");
        }
        assert_eq!((byte_char(b' '), byte_char(0), byte_char(0xad)), ('Ġ', 'Ā', 'Ń'));
    }
}
