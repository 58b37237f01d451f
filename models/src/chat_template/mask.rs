//! Keeps what people wrote apart from what the template wrote, through any template.
//!
//! A rendered prompt is one string; a message could say `<|im_end|>` and the string would not tell who did.
//! So before rendering, characters in messages with which a control token begins or ends (`<`, `>`, `[` …)
//! are exchanged for code points of a private-use block that no message holds. Templates trim, split and
//! compare as ever, and whatever they do, the marked characters arrive as such in the output, where they are
//! exchanged back and known to be content. A control token that the tokeniser finds in unmarked text
//! therefore begins and ends with characters that the template wrote.
//!
//! What the model itself answered stands between two more private characters, white space around it left outside, so
//! that it arrives as one segment of its own, an empty one if it was only white space, for which the tokens that the
//! model produced can be put.
//!
//! Tags that the template itself asks for (`</think>`, `<tool_call>`), found by their text in its source, stay
//! as they are, or it could not find them; control tokens among them do not.
use std::collections::HashSet;

use crate::error::{Class, Error, Result};
use crate::tokenizer::{Origin, Segment, Tokenizer};

/// Code points in a block; more than there can be different characters to mark.
const BLOCK: u32 = 0x400;
/// Tags longer than this are not looked for.
const LONGEST_TAG: usize = 64;

/// What must be marked for one vocabulary and template.
pub(super) struct Marker {
    /// Characters that control tokens begin or end with, unless ordinary text is made of them.
    edges: HashSet<char>,
    /// Tags in the template's source with no control token in them.
    tags: HashSet<String>,
}

/// Marks for one rendering: which private character stands for which.
pub(super) struct Marks {
    base: u32,
    /// `base + i` stands for `marked[i]`.
    marked: Vec<char>,
    /// The code points that stand before and behind an answer: the last two of the block.
    brackets: [char; 2],
}

/// Whether marking `c` cannot change what a template does with a text, except to look for `c` itself.
fn may_be_marked(c: char) -> bool {
    !c.is_alphanumeric() && !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | '\\' | '&')
}

/// The tag at the start of `text`: from `<` or `[` to the next of its kind's end, without white space.
fn tag(text: &str) -> Option<&str> {
    let close = match text.chars().next()? {
        '<' => '>',
        '[' => ']',
        _ => return None,
    };
    let within = &text[..text.floor_char_boundary(LONGEST_TAG)];
    let end = within.find(|c: char| c == close || c.is_whitespace())?;
    within[end..].starts_with(close).then(|| &text[..end + 1])
}

impl Marker {
    /// For a vocabulary's control tokens and a template's source.
    pub(super) fn new(tokenizer: &Tokenizer, template: &str) -> Self {
        let ends = |text: &str| [text.chars().next(), text.chars().next_back()];
        let edges =
            tokenizer.control_texts().flat_map(ends).flatten().filter(|&c| may_be_marked(c)).collect();
        let tags = template
            .match_indices(['<', '['])
            .filter_map(|(at, _)| tag(&template[at..]))
            .filter(|tag| tokenizer.control_starts(tag).next().is_none())
            .map(str::to_owned)
            .collect();
        Self { edges, tags }
    }

    /// Finds a private-use block that occurs in none of `texts`.
    ///
    /// # Errors
    /// When every block is used: no text for people does that.
    pub(super) fn marks<'t>(&self, texts: impl Iterator<Item = &'t str>) -> Result<Marks> {
        // Planes 15 and 16, and the private area of the first.
        let mut used: HashSet<u32> = HashSet::new();
        for text in texts {
            used.extend(text.chars().filter(|&c| c >= '\u{e000}').map(|c| u32::from(c) / BLOCK));
        }
        let block = (0xf0000 / BLOCK..0x10_fc00 / BLOCK)
            .find(|block| !used.contains(block))
            .ok_or_else(|| Error::new(Class::Usage, "a message uses every block of private characters"))?;
        let base = block * BLOCK;
        let private = |at| char::from_u32(base + at).unwrap_or(char::REPLACEMENT_CHARACTER);
        Ok(Marks { base, marked: Vec::new(), brackets: [private(BLOCK - 2), private(BLOCK - 1)] })
    }

    /// `text` with the characters marked that could make a control token.
    pub(super) fn mark(&self, tokenizer: &Tokenizer, text: &str, marks: &mut Marks) -> String {
        let mut out = String::with_capacity(text.len());
        // Tokens whose edges are letters or the like are marked only where they are whole.
        let mut wholes = tokenizer.control_starts(text).peekable();
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            if let Some(tag) = tag(&text[at..]).filter(|tag| self.tags.contains(*tag)) {
                out += tag;
                at += tag.len();
                continue;
            }
            while wholes.next_if(|&start| start < at).is_some() {}
            let mark = self.edges.contains(&c) || wholes.peek() == Some(&at);
            out.push(if mark { marks.mark(c) } else { c });
            at += c.len_utf8();
        }
        out
    }
}

impl Marks {
    /// The marked text of an answer with brackets around it, inside of its outer white space.
    pub(super) fn bracket(&self, text: &str) -> String {
        let inner = text.trim();
        let (before, rest) = text.split_at(text.len() - text.trim_start().len());
        let [open, close] = self.brackets;
        format!("{before}{open}{inner}{close}{}", &rest[inner.len()..])
    }

    fn mark(&mut self, c: char) -> char {
        let at = self.marked.iter().position(|&known| known == c).unwrap_or_else(|| {
            self.marked.push(c);
            self.marked.len() - 1
        });
        // Only ever as many as a vocabulary's control tokens have edges; beyond the block a character stays.
        u32::try_from(at)
            .ok()
            .filter(|&at| at < BLOCK - 2)
            .and_then(|at| char::from_u32(self.base + at))
            .unwrap_or(c)
    }

    fn unmark(&self, c: char) -> Option<char> {
        let at = u32::from(c).checked_sub(self.base)?;
        self.marked.get(at as usize).copied()
    }

    /// Takes the marks out of a rendered prompt: segments that alternate in origin.
    pub(super) fn segments(&self, rendered: &str) -> Vec<Segment> {
        let [open, close] = self.brackets;
        let mut segments: Vec<Segment> = Vec::new();
        // Brackets that a template has torn apart mean nothing.
        let mut in_answer = false;
        for (at, c) in rendered.char_indices() {
            if c == open {
                let rest = &rendered[at + c.len_utf8()..];
                in_answer = rest.find([open, close]).is_some_and(|end| rest[end..].starts_with(close));
                if in_answer {
                    segments.push(Segment { text: String::new(), origin: Origin::Answer });
                }
                continue;
            }
            if c == close {
                in_answer = false;
                continue;
            }
            let (c, origin) = match (in_answer, self.unmark(c)) {
                (true, unmarked) => (unmarked.unwrap_or(c), Origin::Answer),
                (false, Some(c)) => (c, Origin::Content),
                (false, None) => (c, Origin::Template),
            };
            match segments.last_mut() {
                Some(last) if last.origin == origin => last.text.push(c),
                _ => segments.push(Segment { text: c.to_string(), origin }),
            }
        }
        segments
    }
}
