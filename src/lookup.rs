//! Guessing the next tokens from the text itself: what followed the last tokens where they stood before (prompt lookup
//! decoding, Saxena 2023). Answers that quote are guessed right for long stretches, and many tokens evaluated at once
//! take less time than one by one.
//!
//! On a processor two tokens at once cost as much as some four one by one, and each further one only an eighth of that:
//! guesses are many or none. They are made behind long repetitions, and behind longer ones while they fail.
//!
//! The numbers below are the best of 24 choices: their mean speed was computed for 32 answers of two models (135M and
//! 0.5B), to prompts that ask for quotes, ask of a text, or neither, from the costs measured there: 4 + n/9 and 4 + n/5
//! for n tokens.

/// Fewest of the last tokens that must have stood before, and most that are compared.
const LEAST_MATCH: usize = 6;
const MOST_MATCH: usize = 16;
/// How many more must have stood before after guesses that failed.
const SHY: usize = 4;
/// Fewest and most tokens guessed at once.
const LEAST_GUESSED: usize = 16;
const MOST_GUESSED: usize = 64;
/// Tokens that must come true for a guess to have paid.
const PAYS: usize = 5;

/// Guesses, as many and as bold as turned out right lately.
#[derive(Debug)]
pub struct Lookup {
    /// Tokens to guess next time.
    n: usize,
    /// Tokens that must have stood before next time.
    least_match: usize,
    /// Length of the text when the last guesses were made.
    last: Option<usize>,
}

impl Default for Lookup {
    fn default() -> Self {
        Self { n: LEAST_GUESSED, least_match: LEAST_MATCH, last: None }
    }
}

impl Lookup {
    /// At most `most` tokens that may follow `tokens`; none where the last ones have not stood before.
    pub fn guess(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        if let Some(len) = self.last.take() {
            // The token behind the last guess that came true was chosen too.
            let n_true = tokens.len().saturating_sub(len + 1);
            self.n = (2 * n_true).clamp(LEAST_GUESSED, MOST_GUESSED);
            self.least_match =
                if n_true >= PAYS { LEAST_MATCH } else { (self.least_match + SHY).min(MOST_MATCH) };
        }
        let Some((matched, from)) = follows(tokens) else { return Vec::new() };
        let n = (tokens.len() - from).min(self.n).min(most);
        if matched < self.least_match || n < PAYS {
            return Vec::new();
        }
        self.last = Some(tokens.len());
        tokens[from..from + n].to_vec()
    }
}

/// How many of the last tokens stood before, and where what followed them stands: after the longest match, of equals
/// the last.
fn follows(tokens: &[u32]) -> Option<(usize, usize)> {
    let length = |end: usize| {
        let pairs = tokens[..end].iter().rev().zip(tokens.iter().rev());
        pairs.take(MOST_MATCH).take_while(|(a, b)| a == b).count()
    };
    (1..tokens.len()).map(|end| (length(end), end)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_is_found() {
        assert_eq!(follows(&[]), None);
        assert_eq!(follows(&[1]), None);
        assert_eq!(follows(&[5, 1, 5]), Some((1, 1)));
        assert_eq!(follows(&[1, 2, 3, 4, 1, 2]), Some((2, 2)));
        // Two matches of two tokens: the later; a longer one wins over both.
        assert_eq!(follows(&[1, 2, 3, 1, 2, 4, 1, 2]), Some((2, 5)));
        assert_eq!(follows(&[9, 1, 2, 3, 1, 2, 4, 9, 1, 2]), Some((3, 3)));
        // A text that repeats itself goes on so.
        assert_eq!(follows(&[7, 7, 7, 7]), Some((3, 3)));
    }

    #[test]
    fn guesses_grow_with_success_and_grow_shy_without() {
        let period: Vec<u32> = (0..400).collect();
        let text = [&period[..], &period[..]].concat();
        let mut lookup = Lookup::default();
        let mut sizes = Vec::new();
        let mut at = 406;
        for _ in 0..4 {
            let guesses = lookup.guess(&text[..at], 90);
            assert_eq!(guesses, text[at..at + guesses.len()]);
            sizes.push(guesses.len());
            // All of them come true, and one more token is chosen.
            at += guesses.len() + 1;
        }
        assert_eq!(sizes, [16, 32, 64, 64]);
        // Ten of them come true, and another token stands in place of the next: twice as many are guessed then.
        let wrong = [&text[..at + 10], &[2000], &period[50..56]].concat();
        lookup.guess(&text[..at], 90);
        assert!(lookup.guess(&wrong[..at + 11], 90).is_empty());
        assert_eq!(lookup.guess(&wrong, 90), period[56..76]);
        assert_eq!(lookup.guess(&text[..at], 7).len(), 7, "no more than there is room for");
        assert!(Lookup::default().guess(&text[..405], 90).is_empty(), "five tokens are no repetition");

        // None comes true: another token stands in place of the first guess.
        let mut lookup = Lookup::default();
        let six = [&period[..], &[1000], &period[20..26]].concat();
        assert_eq!(lookup.guess(&six, 90).len(), 16);
        assert!(lookup.guess(&[&six[..], &[2000]].concat(), 90).is_empty());
        let wrong = [&six[..], &[2000], &period[50..56]].concat();
        assert!(lookup.guess(&wrong, 90).is_empty(), "a longer repetition is asked for now");
        let longer = [&wrong[..], &period[56..60]].concat();
        assert_eq!(lookup.guess(&longer, 90), period[60..76]);
    }
}
