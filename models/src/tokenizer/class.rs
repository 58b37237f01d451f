//! Unicode classes as pre-tokenisers need them.
//!
//! Source: general categories of Unicode 15.1, the version that llama.cpp's tables were made from, so that
//! the same text gives the same ids. The crate in use knows 15.0; what 15.1 added is listed here.
use unicode_general_category::{GeneralCategory as G, get_general_category};

/// What a character is to a pre-tokeniser; at most one bit is set, none for controls, separators that are
/// no white space, private and unassigned characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Class(u8);

/// `\p{L}`
pub(super) const LETTER: u8 = 1;
/// `\p{N}`
pub(super) const NUMBER: u8 = 2;
/// `\p{M}`
pub(super) const MARK: u8 = 4;
/// `\p{P}`
pub(super) const PUNCTUATION: u8 = 8;
/// `\p{S}`
pub(super) const SYMBOL: u8 = 16;
/// `\s`: the property White_Space.
pub(super) const SPACE: u8 = 32;

impl Class {
    /// Class of `c`.
    #[inline]
    pub(super) fn of(c: char) -> Self {
        match ASCII.get(c as usize) {
            Some(&bits) => Self(bits),
            None => Self(beyond_ascii(c)),
        }
    }

    /// Whether the class is among those in `mask`.
    #[inline]
    pub(super) fn is(self, mask: u8) -> bool {
        self.0 & mask != 0
    }
}

static ASCII: [u8; 128] = {
    let mut table = [0; 128];
    let mut c = 0;
    while c < 128 {
        table[c] = match c as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => LETTER,
            b'0'..=b'9' => NUMBER,
            9..=13 | b' ' => SPACE,
            b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => SYMBOL,
            b'!'..=b'~' => PUNCTUATION,
            _ => 0,
        };
        c += 1;
    }
    table
};

fn beyond_ascii(c: char) -> u8 {
    match c {
        // White_Space beyond ASCII.
        '\u{85}'
        | '\u{a0}'
        | '\u{1680}'
        | '\u{2000}'..='\u{200a}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{202f}'
        | '\u{205f}'
        | '\u{3000}' => return SPACE,
        // Added by Unicode 15.1: ideographic description characters and extension I.
        '\u{2ffc}'..='\u{2fff}' | '\u{31ef}' => return SYMBOL,
        '\u{2ebf0}'..='\u{2ee5d}' => return LETTER,
        _ => {}
    }
    match get_general_category(c) {
        G::UppercaseLetter | G::LowercaseLetter | G::TitlecaseLetter | G::ModifierLetter | G::OtherLetter => {
            LETTER
        }
        G::DecimalNumber | G::LetterNumber | G::OtherNumber => NUMBER,
        G::NonspacingMark | G::SpacingMark | G::EnclosingMark => MARK,
        G::ConnectorPunctuation
        | G::DashPunctuation
        | G::OpenPunctuation
        | G::ClosePunctuation
        | G::InitialPunctuation
        | G::FinalPunctuation
        | G::OtherPunctuation => PUNCTUATION,
        G::MathSymbol | G::CurrencySymbol | G::ModifierSymbol | G::OtherSymbol => SYMBOL,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_table_agrees_with_unicode() {
        for c in '\0'..='\x7f' {
            let expected = if matches!(c, '\t'..='\r' | ' ') { SPACE } else { beyond_ascii(c) };
            assert_eq!(Class::of(c), Class(expected), "{c:?}");
        }
    }

    #[test]
    fn white_space_is_as_std_sees_it() {
        for c in (0..=0x0010_ffff).filter_map(char::from_u32) {
            assert_eq!(Class::of(c).is(SPACE), c.is_whitespace(), "{c:?}");
        }
    }

    #[test]
    fn classes_of_known_characters() {
        for (c, class) in [
            ('é', LETTER),
            ('ǅ', LETTER),
            ('ʰ', LETTER),
            ('漢', LETTER),
            ('٣', NUMBER),
            ('Ⅷ', NUMBER),
            ('½', NUMBER),
            ('\u{301}', MARK),
            ('\u{94d}', MARK),
            ('‿', PUNCTUATION),
            ('—', PUNCTUATION),
            ('«', PUNCTUATION),
            ('€', SYMBOL),
            ('´', SYMBOL),
            ('😀', SYMBOL),
            ('\u{2ebf0}', LETTER),
            ('\u{ad}', 0),
            ('\u{e000}', 0),
            // Letters and numbers of Unicode 16 that 15.1 did not know.
            ('\u{1c89}', 0),
            ('\u{11de0}', 0),
        ] {
            assert_eq!(Class::of(c), Class(class), "{c:?}");
        }
    }
}
