use super::{ALL, PreTokenizer};

fn split(name: &str, text: &str) -> Vec<String> {
    let mut words = Vec::new();
    PreTokenizer::named(name).unwrap().split(text, |word| words.push(word.to_owned()));
    words
}

#[test]
fn names_are_unique_and_unknown_ones_are_not_guessed() {
    let names: Vec<_> = PreTokenizer::names().collect();
    for (i, name) in names.iter().enumerate() {
        assert!(!names[..i].contains(name), "{name}");
    }
    assert!(PreTokenizer::named("no-such").is_none());
    assert!(PreTokenizer::named("").is_none());
}

#[test]
fn words_of_known_expressions() {
    for (name, text, words) in [
        ("gpt-2", "I'm 3x  faster\n\n", vec!["I", "'m", " 3", "x", " ", " faster", "\n\n"]),
        ("gpt-2", "I'M it's'", vec!["I", "'", "M", " it", "'s", "'"]),
        ("smollm", " 123", vec![" ", "1", "2", "3"]),
        ("llama-bpe", "I'M 12345 a\n \n b", vec!["I", "'M", " ", "123", "45", " a", "\n \n", " b"]),
        ("llama-bpe", "(hello)!!\r\n\t\tx ", vec!["(hello", ")!!\r\n", "\t", "\tx", " "]),
        ("qwen2", "a1234", vec!["a", "1", "2", "3", "4"]),
        ("qwen2", "e\u{301}x", vec!["e", "\u{301}x"]),
        ("qwen35", "e\u{301}x", vec!["e\u{301}x"]),
        ("tekken", "HelloWORLD's can'T", vec!["Hello", "WORLD", "'s", " can", "'T"]),
        ("gpt-4o", "HelloWORLD's can'T 1234", vec!["Hello", "WORLD's", " can'T", " ", "123", "4"]),
        ("tekken", "ÉÉAB a/b//\n/", vec!["ÉÉ", "AB", " a", "/b", "//\n/"]),
        ("falcon", "a`b 12345", vec!["a", "`", "b", " ", "123", "45"]),
        ("default", "a`b 12345", vec!["a", "`", "b", " ", "123", "45"]),
        ("deepseek-llm", "Hé  llo\n\n12  ", vec!["H", "é", " ", " llo", "\n", "\n", "12", "  "]),
        ("deepseek-coder", "Hé  llo漢\n12", vec!["Hé", " ", " llo", "漢", "\n", "1", "2"]),
    ] {
        assert_eq!(split(name, text), words, "{name} {text:?}");
    }
}

/// Every pre-tokeniser only cuts: nothing is lost, added or left empty.
#[test]
fn the_words_are_the_text() {
    let alphabet: Vec<char> = "aZé漢1٣ \u{a0}\n\r\t'sLl!/$`~\u{301}😀\u{3000}。\u{0}".chars().collect();
    let mut state = 7_u64;
    for round in 0..2000 {
        let text: String = (0..round % 40)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                alphabet[(state >> 33) as usize % alphabet.len()]
            })
            .collect();
        for pre in ALL {
            let words = split(pre.names[0], &text);
            assert_eq!(words.concat(), text, "{}", pre.names[0]);
            assert!(words.iter().all(|word| !word.is_empty()) || text.is_empty(), "{}", pre.names[0]);
        }
    }
}
