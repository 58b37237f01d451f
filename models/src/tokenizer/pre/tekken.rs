//! The expressions of Mistral's Tekken and of GPT-4o, which cut words where capitals begin.
//!
//! `[^\r\n\p{L}\p{N}]?U*L+C?|[^\r\n\p{L}\p{N}]?U+L*C?|\p{N}{1,d}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
//! with U and L the letters but a–z and A–Z, and C contractions in any case. Only ASCII has a case here, as
//! in llama.cpp: all other letters are both U and L.
use super::super::class::{Class, LETTER, NUMBER};
use super::{Step, contraction, peek, run, words};

/// Tekken: each digit alone, contractions are words of their own kind.
pub(super) fn tekken(text: &str, at: usize) -> Step {
    scan(text, at, 1, false)
}

/// GPT-4o: up to three digits, contractions stay with their word.
pub(super) fn gpt_4o(text: &str, at: usize) -> Step {
    scan(text, at, 3, true)
}

fn scan(text: &str, at: usize, digits: usize, contractions: bool) -> Step {
    let Some((c, class, next)) = peek(text, at) else { return Step::Skip(text.len()) };
    let leads = !matches!(c, '\r' | '\n') && !class.is(LETTER | NUMBER);
    let from = if leads { next } else { at };
    match word(text, from) {
        Some(end) if contractions => Step::Match(end + contraction(&text[end..], true)),
        Some(end) => Step::Match(end),
        None => Step::Match(words::rest(text, at, digits, LETTER, "\r\n/")),
    }
}

/// End of `U*L+|U+L*` at `from`, if a letter is there.
fn word(text: &str, from: usize) -> Option<usize> {
    // The first alternative takes all of U*, then gives letters back until one of them can begin L+.
    let (mut upper_end, mut last_both) = (from, None);
    while let Some((c, class, next)) = peek(text, upper_end) {
        if !upper(c, class) {
            break;
        }
        if lower(c, class) {
            last_both = Some(next);
        }
        upper_end = next;
    }
    let end = run(text, upper_end, lower);
    if end > upper_end {
        Some(end)
    } else if last_both.is_some() {
        // What follows that letter is A–Z up to the end of U*, so L+ is this one letter.
        last_both
    } else {
        (upper_end > from).then_some(upper_end)
    }
}

fn upper(c: char, class: Class) -> bool {
    class.is(LETTER) && !c.is_ascii_lowercase()
}

fn lower(c: char, class: Class) -> bool {
    class.is(LETTER) && !c.is_ascii_uppercase()
}
