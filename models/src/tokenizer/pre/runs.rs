//! Runs of one class, which several pre-tokenisers cut out before or after the words.
use super::super::class::{NUMBER, PUNCTUATION};
use super::{Step, behind, non_empty, peek, run};

/// `[\p{P}\$\+<=>\^~\|]+`: punctuation, and the ASCII symbols but the backtick.
pub(super) fn punctuation(text: &str, at: usize) -> Step {
    non_empty(text, at, run(text, at, |c, class| class.is(PUNCTUATION) || "$+<=>^~|".contains(c)))
}

/// Falcon's ``[\p{P}\$\+<=>\^~\|`]+``: the backtick too.
pub(super) fn falcon_punctuation(text: &str, at: usize) -> Step {
    non_empty(text, at, run(text, at, |c, class| class.is(PUNCTUATION) || "$+<=>^~|`".contains(c)))
}

/// `\p{N}+`
pub(super) fn numbers(text: &str, at: usize) -> Step {
    non_empty(text, at, run(text, at, |_, class| class.is(NUMBER)))
}

/// `\p{N}`: each alone.
pub(super) fn number(text: &str, at: usize) -> Step {
    match peek(text, at) {
        Some((_, class, next)) if class.is(NUMBER) => Step::Match(next),
        _ => Step::Skip(behind(text, at)),
    }
}

/// `[0-9][0-9][0-9]`
pub(super) fn three_digits(text: &str, at: usize) -> Step {
    match text.as_bytes().get(at..at + 3) {
        Some(digits) if digits.iter().all(u8::is_ascii_digit) => Step::Match(at + 3),
        _ => Step::Skip(behind(text, at)),
    }
}

/// `[\r\n]`: each line break alone.
pub(super) fn newline(text: &str, at: usize) -> Step {
    match peek(text, at) {
        Some(('\r' | '\n', _, next)) => Step::Match(next),
        _ => Step::Skip(behind(text, at)),
    }
}
