//! Pre-tokenisers: how text is cut into words before byte-level BPE merges inside each word.
//!
//! Models name theirs (`tokenizer.ggml.pre`); behind each name stands a list of regular expressions, applied
//! one after the other to the pieces that the one before left. Here every expression is a hand-written
//! scanner that looks at each character a bounded number of times, so that a mebibyte of one character
//! class costs linear time. Source: the expressions in the models' own `tokenizer.json` and llama.cpp's
//! adaptations of them, whose output these scanners reproduce.
mod deepseek;
mod gpt2;
mod runs;
mod tekken;
mod words;

use super::class::{Class, SPACE};

/// What a rule finds at a position of a text.
pub(super) enum Step {
    /// A match that ends here (in bytes, beyond the position).
    Match(usize),
    /// No match starts before this position (beyond the one asked about).
    Skip(usize),
}

/// One expression: what it matches at a byte position of a text, the text's end being the end of input.
type Rule = fn(&str, usize) -> Step;

/// A known pre-tokeniser.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// Names in `tokenizer.ggml.pre`; the same cut under several names is common.
    names: &'static [&'static str],
    /// Applied in order, each to the pieces of the one before.
    rules: &'static [Rule],
    /// A word that is a token as a whole is not merged from its bytes.
    pub(super) ignore_merges: bool,
    /// Whether the beginning-of-sequence token is added unless the file says otherwise.
    pub(super) add_bos: bool,
}

const fn plain(names: &'static [&'static str], rules: &'static [Rule]) -> PreTokenizer {
    PreTokenizer { names, rules, ignore_merges: false, add_bos: false }
}

/// Every pre-tokeniser that is known; one entry each.
static ALL: &[PreTokenizer] = &[
    plain(&["default"], &[runs::punctuation, gpt2::words, runs::numbers, runs::three_digits]),
    plain(
        &[
            "gpt-2",
            "phi-2",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        &[gpt2::words],
    ),
    plain(
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[runs::number, gpt2::words],
    ),
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        rules: &[words::three_digits],
        ignore_merges: true,
        add_bos: true,
    },
    plain(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[words::three_digits]),
    PreTokenizer { names: &["glm4"], rules: &[words::three_digits], ignore_merges: true, add_bos: false },
    plain(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        &[words::one_digit],
    ),
    plain(&["qwen35"], &[words::marks]),
    PreTokenizer { names: &["tekken"], rules: &[tekken::tekken], ignore_merges: true, add_bos: true },
    plain(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[tekken::gpt_4o]),
    plain(&["falcon"], &[runs::falcon_punctuation, gpt2::words, runs::three_digits]),
    plain(
        &["deepseek-llm"],
        &[
            runs::newline,
            deepseek::letters,
            deepseek::punctuation,
            deepseek::trailing_space,
            deepseek::cjk,
            runs::numbers,
        ],
    ),
    plain(
        &["deepseek-coder"],
        &[runs::newline, deepseek::any_letters, deepseek::any_punctuation, deepseek::cjk, runs::number],
    ),
];

impl PreTokenizer {
    /// The one that `name` means, if it is known.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|pre| pre.names.contains(&name))
    }

    /// All names that are known.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().flat_map(|pre| pre.names).copied()
    }

    /// Cuts `text` into words and hands them on in order; together they are `text`.
    pub(super) fn split<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        let mut ends = vec![text.len()];
        let mut finer = Vec::new();
        for &rule in self.rules {
            finer.clear();
            let mut start = 0;
            for &end in &ends {
                refine(&text[start..end], rule, |piece_end| finer.push(start + piece_end));
                start = end;
            }
            std::mem::swap(&mut ends, &mut finer);
        }
        let mut start = 0;
        for &end in &ends {
            word(&text[start..end]);
            start = end;
        }
    }
}

/// Ends of the pieces of `text`: the matches of `rule` and what lies between them.
fn refine(text: &str, rule: Rule, mut piece: impl FnMut(usize)) {
    let (mut done, mut at) = (0, 0);
    while at < text.len() {
        match rule(text, at) {
            Step::Match(end) => {
                if at > done {
                    piece(at);
                }
                piece(end);
                (done, at) = (end, end);
            }
            Step::Skip(to) => at = to,
        }
    }
    if done < text.len() {
        piece(text.len());
    }
}

/// The character of `text` at byte `at`, with its class and the position behind it.
#[inline]
fn peek(text: &str, at: usize) -> Option<(char, Class, usize)> {
    let c = text.get(at..)?.chars().next()?;
    Some((c, Class::of(c), at + c.len_utf8()))
}

/// End of the longest run from `at` of characters that `belongs` holds for.
#[inline]
fn run(text: &str, at: usize, belongs: impl Fn(char, Class) -> bool) -> usize {
    let mut end = at;
    while let Some((c, class, next)) = peek(text, end) {
        if !belongs(c, class) {
            break;
        }
        end = next;
    }
    end
}

/// A match if it is not empty, else the position behind the character at `at`.
#[inline]
fn non_empty(text: &str, at: usize, end: usize) -> Step {
    if end > at { Step::Match(end) } else { Step::Skip(behind(text, at)) }
}

/// The position behind the character at `at`.
#[inline]
fn behind(text: &str, at: usize) -> usize {
    peek(text, at).map_or(text.len(), |(_, _, next)| next)
}

/// `\s?X+` where X holds no white space.
#[inline]
fn after_optional_space(text: &str, at: usize, belongs: impl Fn(char, Class) -> bool) -> Step {
    let from = match peek(text, at) {
        Some((_, class, next)) if class.is(SPACE) => next,
        _ => at,
    };
    let end = run(text, from, |c, class| !class.is(SPACE) && belongs(c, class));
    if end > from { Step::Match(end) } else { Step::Skip(behind(text, at)) }
}

/// `\s+(?!\S)|\s+` at `at`: white space up to the last piece of it before a word, which goes with the word.
/// With `newlines`, `\s*[\r\n]+` goes before: up to the last line break among them.
#[inline]
fn white_space(text: &str, at: usize, newlines: bool) -> Option<usize> {
    let (mut end, mut last, mut line_break) = (at, at, None);
    while let Some((c, class, next)) = peek(text, end) {
        if !class.is(SPACE) {
            break;
        }
        if newlines && matches!(c, '\r' | '\n') {
            line_break = Some(next);
        }
        last = end;
        end = next;
    }
    match line_break {
        Some(_) => line_break,
        None if end == at => None,
        None if end < text.len() && last > at => Some(last),
        None => Some(end),
    }
}

/// Length of an English contraction at the start of `text` (`'s 't 're 've 'm 'll 'd`), else 0.
#[inline]
fn contraction(text: &str, any_case: bool) -> usize {
    let &[b'\'', ref rest @ ..] = text.as_bytes() else { return 0 };
    let letter = |i: usize| {
        let byte = rest.get(i).copied().unwrap_or(0);
        if any_case { byte.to_ascii_lowercase() } else { byte }
    };
    match (letter(0), letter(1)) {
        (b's' | b't' | b'm' | b'd', _) => 2,
        (b'r' | b'v', b'e') | (b'l', b'l') => 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
