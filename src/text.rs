//! Text on its way to a person: made safe for a terminal, cut at stop strings; names, and those that nearly match.
use lapwing_models::{Class, Error, Result};

/// Whether a terminal can be given `c`: no control characters but newline and tab, and nothing that reorders text.
///
/// Escape sequences all start with one of the refused characters (ESC, or a C1 control), and so do attempts to make
/// text read differently from what it is (Unicode's bidirectional embeddings, overrides and isolates).
pub fn is_safe(c: char) -> bool {
    match c {
        '\n' | '\t' => true,
        '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => false,
        _ => !c.is_control(),
    }
}

/// `text` as it may go to a terminal. Line ends become `\n`, as a carriage return could overwrite what was printed;
/// other unsafe characters become `\u{FFFD}`, so that one sees that something was there.
///
/// Works on any pieces of a stream: what `safe` gives for the pieces is what it gives for the whole, except that a
/// `\r\n` cut in two keeps its `\n` from the second piece.
pub fn safe(text: &str) -> std::borrow::Cow<'_, str> {
    if text.chars().all(is_safe) {
        return text.into();
    }
    let replaced = |c| match c {
        '\r' => None,
        c if is_safe(c) => Some(c),
        _ => Some(char::REPLACEMENT_CHARACTER),
    };
    text.chars().filter_map(replaced).collect::<String>().into()
}

/// Finds the first of several stop texts in a stream, and holds back what may be the start of one.
#[derive(Clone, Debug, Default)]
pub struct StopFinder {
    stops: Vec<String>,
    /// Text not passed on yet: a proper prefix of a stop text, or what came behind one.
    held: String,
}

impl StopFinder {
    /// Looks for any of `stops` (empty ones are never found).
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let mut stops: Vec<_> = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        // Where two stop texts start at one place, the longer one wins.
        stops.sort_by_key(|stop| std::cmp::Reverse(stop.len()));
        Self { stops, held: String::new() }
    }

    /// Takes the next piece of text; returns what may be passed on, and the stop text if one was completed.
    pub fn push(&mut self, piece: &str) -> (String, Option<String>) {
        if self.stops.is_empty() {
            return (piece.to_owned(), None);
        }
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop)));
        // `min_by_key` keeps the first of equals, which is the longest.
        if let Some((at, stop)) = found.min_by_key(|&(at, _)| at) {
            let stop = stop.clone();
            let behind = self.held.split_off(at + stop.len());
            self.held.truncate(at);
            return (std::mem::replace(&mut self.held, behind), Some(stop));
        }
        let may_start = |at: usize| {
            let tail = &self.held[at..];
            self.stops.iter().any(|stop| stop.starts_with(tail))
        };
        let keep = self.held.char_indices().map(|(at, _)| at).find(|&at| may_start(at));
        let held = self.held.split_off(keep.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, held), None)
    }

    /// What was held back, at the end of the stream; after a stop text what came behind it.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Longest name that a person may give to something, in bytes.
const LONGEST_NAME: usize = 64;

/// Refuses names that could not be typed as one word, or used as a file's name.
///
/// # Errors
/// A usage error that says what a name of this sort of thing (`branch`, `session`) may be.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with(['.', '-']) || !name.chars().all(fits)
    {
        let got = if name.is_empty() { "nothing".to_owned() } else { safe(name).into_owned() };
        return Err(Error::new(Class::Usage, format!("not a name for a {what}"))
            .expected_got("one word of letters, digits and any of - _ .", got));
    }
    Ok(())
}

/// The name nearest to a mistyped one, if any is near: it starts so, or at most a third of the letters differ.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let starts = |name: &str| typed.len() >= 2 && name.starts_with(typed);
    let rank = |name: &'a str| (!starts(name), distance(typed, name), name);
    let (no_start, edits, name) = names.into_iter().map(rank).min()?;
    (!no_start || edits * 3 <= typed.chars().count().max(3)).then_some(name)
}

/// Edits (insert, delete, replace, swap neighbours) between two words: the optimal string alignment distance.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            rows[i][j] = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                rows[i][j] = rows[i][j].min(rows[i - 2][j - 2] + 1);
            }
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_comes_through() {
        assert_eq!(safe("naïve\ttext\n漢字 🐦"), "naïve\ttext\n漢字 🐦");
        assert_eq!(safe("a\u{1b}[31mred\u{7}\r\nb\u{9b}2J\u{0}\u{7f}"), "a�[31mred�\nb�2J��");
        assert_eq!(safe("\u{202e}evil\u{202c} \u{2066}x\u{2069}"), "�evil� �x�");
        for c in (0..=0x10_FFFF).filter_map(char::from_u32) {
            let out = safe(&c.to_string()).into_owned();
            assert!(out.chars().all(is_safe), "{:x}", u32::from(c));
        }
    }

    #[test]
    fn stop_texts_are_found_across_pieces_and_nothing_else_is_lost() {
        let text = "one two ENDING three STOP four";
        for size in 1..8 {
            let mut finder = StopFinder::new(["STOP".to_owned(), "END!".to_owned(), String::new()]);
            let (mut out, mut found) = (String::new(), None);
            for piece in text.as_bytes().chunks(size) {
                let (passed, stop) = finder.push(std::str::from_utf8(piece).unwrap());
                out += &passed;
                found = found.or(stop);
                if found.is_some() {
                    break;
                }
            }
            assert_eq!((out.as_str(), found.as_deref()), ("one two ENDING three ", Some("STOP")));
        }
        let mut finder = StopFinder::new(["STOP".to_owned()]);
        assert_eq!(finder.push("a ST"), ("a ".to_owned(), None));
        assert_eq!(finder.finish(), "ST");
    }

    #[test]
    fn the_earliest_then_the_longest_stop_text_wins() {
        let mut finder = StopFinder::new(["b".to_owned(), "bc".to_owned(), "a".to_owned()]);
        assert_eq!(finder.push("xbcab"), ("x".to_owned(), Some("bc".to_owned())));
        assert_eq!(finder.finish(), "ab");
    }

    #[test]
    fn the_nearest_name_is_found_if_near() {
        let names = ["help", "history", "clear", "exit", "stats"];
        assert_eq!(nearest("hlep", names), Some("help"));
        assert_eq!(nearest("stat", names), Some("stats"));
        assert_eq!(nearest("hist", names), Some("history"));
        assert_eq!(nearest("frobnicate", names), None);
    }
}
