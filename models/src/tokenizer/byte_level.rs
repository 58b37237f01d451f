//! The alphabet of byte-level BPE: every byte is written as one printable character.
//!
//! Source: GPT-2's `bytes_to_unicode`: printable Latin-1 bytes stand for themselves, the other 68 are
//! numbered from U+0100 in ascending order.

/// Characters of the alphabet lie below this code point.
const END: usize = 0x100 + 68;

const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// `byte` → code point.
static CHARS: [u16; 256] = {
    let mut table = [0; 256];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 256 {
        if stands_for_itself(byte as u8) {
            table[byte] = byte as u16;
        } else {
            table[byte] = next;
            next += 1;
        }
        byte += 1;
    }
    table
};

/// Code point → byte, or 0xffff where the alphabet has none.
static BYTES: [u16; END] = {
    let mut table = [0xffff; END];
    let mut byte = 0;
    while byte < 256 {
        table[CHARS[byte] as usize] = byte as u16;
        byte += 1;
    }
    table
};

/// The character that stands for `byte`.
pub(super) fn char_of(byte: u8) -> char {
    char::from_u32(u32::from(CHARS[usize::from(byte)])).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that `c` stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    BYTES.get(c as usize).and_then(|&byte| u8::try_from(byte).ok())
}

/// Appends the bytes that the token text `text` stands for; characters outside the alphabet (added tokens
/// written as plain text) stand for themselves.
pub(super) fn decode(text: &str, out: &mut Vec<u8>) {
    let mut rest = text;
    while !rest.is_empty() {
        // Most of most tokens at once: a whole vocabulary is read before an answer can follow a grammar.
        let plain = rest.bytes().take_while(|byte| matches!(byte, 0x21..=0x7e)).count();
        out.extend_from_slice(&rest.as_bytes()[..plain]);
        let mut chars = rest[plain..].chars();
        if let Some(c) = chars.next() {
            match byte_of(c) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=255 {
            assert!(seen.insert(char_of(byte)));
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('漢'), None);
    }

    #[test]
    fn texts_decode_character_by_character() {
        let decoded = |text| {
            let mut bytes = b"<".to_vec();
            decode(text, &mut bytes);
            bytes
        };
        assert_eq!(decoded(""), b"<");
        assert_eq!(decoded("the"), b"<the");
        assert_eq!(decoded("ĠtheĠĊ~!"), b"< the \n~!");
        assert_eq!(decoded("Ã¤x"), "<äx".as_bytes());
        // Outside the alphabet.
        assert_eq!(decoded("a 漢b"), "<a 漢b".as_bytes());
    }
}
