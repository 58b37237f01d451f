//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`: GPT-2's expression.
use super::super::class::{LETTER, NUMBER, SPACE};
use super::{Step, contraction, peek, run, white_space};

/// The whole expression; it matches everywhere.
pub(super) fn words(text: &str, at: usize) -> Step {
    let Some((c, class, next)) = peek(text, at) else { return Step::Skip(text.len()) };
    let short = contraction(&text[at..], false);
    if short > 0 {
        return Step::Match(at + short);
    }
    // A space belongs to the word behind it.
    let (class, from) = match peek(text, next) {
        Some((_, after, _)) if c == ' ' => (after, next),
        _ => (class, at),
    };
    let end = if class.is(LETTER) {
        run(text, from, |_, class| class.is(LETTER))
    } else if class.is(NUMBER) {
        run(text, from, |_, class| class.is(NUMBER))
    } else if class.is(SPACE) {
        white_space(text, at, false).unwrap_or(next)
    } else {
        run(text, from, |_, class| !class.is(LETTER | NUMBER | SPACE))
    };
    Step::Match(end)
}
