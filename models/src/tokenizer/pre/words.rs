//! The expression of Llama 3 and Qwen 2:
//! `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
use super::super::class::{LETTER, MARK, NUMBER, SPACE};
use super::{Step, contraction, peek, run, white_space};

/// Llama 3: up to three digits together.
pub(super) fn three_digits(text: &str, at: usize) -> Step {
    words(text, at, 3, LETTER)
}

/// Qwen 2: each digit alone.
pub(super) fn one_digit(text: &str, at: usize) -> Step {
    words(text, at, 1, LETTER)
}

/// Qwen 3.5: as Qwen 2, combining marks are part of words.
pub(super) fn marks(text: &str, at: usize) -> Step {
    words(text, at, 1, LETTER | MARK)
}

/// The whole expression for numbers of at most `digits` and words of the classes `letters`; it matches everywhere.
fn words(text: &str, at: usize, digits: usize, letters: u8) -> Step {
    let Some((c, class, next)) = peek(text, at) else { return Step::Skip(text.len()) };
    let short = contraction(&text[at..], true);
    if short > 0 {
        return Step::Match(at + short);
    }
    let after = peek(text, next).map(|(_, class, _)| class);
    // Any one character but a line break or a digit may lead a word.
    if !matches!(c, '\r' | '\n')
        && !class.is(NUMBER)
        && (class.is(letters) || after.is_some_and(|a| a.is(letters)))
    {
        return Step::Match(run(text, next, |_, class| class.is(letters)));
    }
    Step::Match(rest(text, at, digits, letters, "\r\n"))
}

/// `\p{N}{1,digits}| ?[^\s\p{N}letters]+[breaks]*|\s*[\r\n]+|\s+(?!\S)|\s+` where no word starts at `at`.
pub(super) fn rest(text: &str, at: usize, digits: usize, letters: u8, breaks: &str) -> usize {
    let Some((c, class, next)) = peek(text, at) else { return text.len() };
    if class.is(NUMBER) {
        let mut end = next;
        for _ in 1..digits {
            match peek(text, end) {
                Some((_, class, next)) if class.is(NUMBER) => end = next,
                _ => break,
            }
        }
        return end;
    }
    let other = |_, class: super::Class| !class.is(SPACE | NUMBER | letters);
    let from = if c == ' ' { next } else { at };
    let end = run(text, from, other);
    if end > from {
        return run(text, end, |c, _| breaks.contains(c));
    }
    white_space(text, at, true).unwrap_or(next)
}
