//! Guessing the next tokens from the text itself: what followed the last tokens where they stood before (prompt lookup
//! decoding, Saxena 2023). Answers that quote their prompt are guessed right for long stretches, and many tokens
//! evaluated at once take little more time than one.

/// Fewest and most of the last tokens that must have stood before.
const LEAST_MATCH: usize = 2;
const MOST_MATCH: usize = 8;
/// Most tokens guessed at once.
const MOST_GUESSED: usize = 16;

/// Guesses, as many as turned out right lately.
#[derive(Debug)]
pub struct Lookup {
    /// Tokens to guess next time.
    n: usize,
    /// Length of the text when the last guesses were made, and how many they were.
    last: Option<(usize, usize)>,
}

impl Default for Lookup {
    fn default() -> Self {
        Self { n: 4, last: None }
    }
}

impl Lookup {
    /// At most `most` tokens that may follow `tokens`; none where the last ones have not stood before.
    pub fn guess(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        if let Some((len, n)) = self.last.take() {
            // The token behind the last guess that came true was chosen too.
            let n_true = (tokens.len() - len).saturating_sub(1);
            self.n = if n_true >= n { (2 * n).min(MOST_GUESSED) } else { (n_true + 1).max(2) };
        }
        let Some(from) = follows(tokens) else { return Vec::new() };
        let guesses = &tokens[from..];
        let guesses = guesses[..guesses.len().min(self.n).min(most)].to_vec();
        self.last = Some((tokens.len(), guesses.len()));
        guesses
    }
}

/// Where in `tokens` that stands which followed the last of them before: after the longest match, of equals the last.
fn follows(tokens: &[u32]) -> Option<usize> {
    let length = |end: usize| {
        let pairs = tokens[..end].iter().rev().zip(tokens.iter().rev());
        pairs.take(MOST_MATCH).take_while(|(a, b)| a == b).count()
    };
    let best = (1..tokens.len()).map(|end| (length(end), end)).max()?;
    (best.0 >= LEAST_MATCH).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_longest_match_is_guessed() {
        assert_eq!(follows(&[]), None);
        assert_eq!(follows(&[1]), None);
        assert_eq!(follows(&[5, 1, 5]), None, "one token is no match");
        assert_eq!(follows(&[1, 2, 3, 4, 1, 2]), Some(2));
        // Two matches of two tokens: the later; a longer one wins over both.
        assert_eq!(follows(&[1, 2, 3, 1, 2, 4, 1, 2]), Some(5));
        assert_eq!(follows(&[9, 1, 2, 3, 1, 2, 4, 9, 1, 2]), Some(3));
        // A text that repeats itself goes on so.
        assert_eq!(Lookup::default().guess(&[7, 7, 7, 7], 9), [7]);
    }

    #[test]
    fn guesses_grow_with_success() {
        let period: Vec<u32> = (0..100).collect();
        let text = [&period[..], &period[..]].concat();
        let mut lookup = Lookup::default();
        let mut sizes = Vec::new();
        let mut at = 105;
        for _ in 0..4 {
            let guesses = lookup.guess(&text[..at], 40);
            assert_eq!(guesses, text[at..at + guesses.len()]);
            sizes.push(guesses.len());
            // All of them come true, and one more token is chosen.
            at += guesses.len() + 1;
        }
        assert_eq!(sizes, [4, 8, 16, 16]);
        assert_eq!(lookup.guess(&text[..at], 3).len(), 3, "no more than there is room for");
        // None comes true: another token is chosen in place of the first.
        let wrong = [&text[..at], &[1000][..], &text[20..25]].concat();
        assert!(lookup.guess(&wrong[..at + 1], 40).is_empty());
        let mut lookup = Lookup { n: 16, last: Some((wrong.len() - 1, 16)) };
        assert_eq!(lookup.guess(&wrong, 40), text[25..27]);
    }
}
