//! Golden token ids: 84 texts in six vocabularies, with special tokens as text and recognised.
use std::path::PathBuf;

use lapwing_models::gguf::{Gguf, OpenOptions};
use lapwing_models::tokenizer::{StreamDecoder, Tokenizer};
use serde_json::Value;

fn open(path: PathBuf) -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::open(path, &OpenOptions::default()).unwrap()).unwrap()
}

fn cases(vocabulary: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(crate::common::root().join("tests/data/tokens.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let cases = all[vocabulary].as_array().unwrap().clone();
    assert_eq!(cases.len(), 84);
    cases
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Both columns of one vocabulary.
fn check(vocabulary: &str, path: Option<PathBuf>) {
    let Some(path) = path else { return };
    let tokenizer = open(path);
    for case in cases(vocabulary) {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, false), ids(&case["plain"]), "{vocabulary}, plain: {text:?}");
        assert_eq!(tokenizer.encode(text, true), ids(&case["special"]), "{vocabulary}, special: {text:?}");
        // Text comes back as it was, but SentencePiece cannot tell its mark for a space from a space.
        let spm = matches!(vocabulary, "gemma3" | "llama-spm" | "phi-3");
        let text = if spm { text.replace('\u{2581}', " ") } else { text.to_owned() };
        assert_eq!(tokenizer.decode(&ids(&case["plain"])), text, "{vocabulary}");
        // Token by token, never half a character.
        let mut decoder = StreamDecoder::at_start(&tokenizer);
        let mut streamed = String::new();
        for id in ids(&case["plain"]) {
            let piece = decoder.push(id);
            assert!(text[streamed.len()..].starts_with(&piece), "{vocabulary}: {text:?}, {piece:?}");
            streamed += &piece;
        }
        assert_eq!(streamed, text);
        assert_eq!(decoder.finish(), "");
    }
}

#[test]
fn smollm2() {
    check("smollm2", crate::common::model("smollm2-135m-instruct-q4_1.gguf"));
}

#[test]
fn qwen2() {
    check("qwen2", crate::common::model("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"));
}

#[test]
fn gemma3() {
    check("gemma3", crate::common::model("gemma-3-270m-q4_k_m.gguf"));
}

#[test]
fn llama_spm() {
    check("llama-spm", crate::common::shared("vocab/ggml-vocab-llama-spm.gguf"));
}

#[test]
fn llama_bpe() {
    check("llama-bpe", crate::common::shared("vocab/ggml-vocab-llama-bpe.gguf"));
}

#[test]
fn phi_3() {
    check("phi-3", crate::common::shared("vocab/ggml-vocab-phi-3.gguf"));
}

/// Cases that `scripts/token-cases` made with llama.cpp's own tokenisers, from the file that the variable
/// LAPWING_TOKEN_CASES names: many thousand random texts for every pre-tokeniser.
#[test]
fn llama_cpp_cases() {
    let Some(path) = std::env::var_os("LAPWING_TOKEN_CASES") else {
        println!("SKIPPED: LAPWING_TOKEN_CASES is not set");
        return;
    };
    let lines = std::fs::read_to_string(path).unwrap();
    let mut tokenizer = None;
    let mut tally: Vec<(String, usize, usize)> = Vec::new();
    for line in lines.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if let Some(path) = case["vocab"].as_str() {
            let open = open(PathBuf::from(path));
            tally.push((path.rsplit('/').next().unwrap().to_owned(), 0, 0));
            check_facts(path, &open, &case);
            tokenizer = Some(open);
            continue;
        }
        let (tokenizer, text) = (tokenizer.as_ref().unwrap(), case["text"].as_str().unwrap());
        let (name, cases, wrong) = tally.last_mut().unwrap();
        for (column, special) in [("plain", false), ("special", true)] {
            let (got, expected) = (tokenizer.encode(text, special), ids(&case[column]));
            *cases += 1;
            if got != expected {
                *wrong += 1;
                if *wrong <= 3 {
                    println!("{name}, {column}: {text:?}\n  llama.cpp {expected:?}\n  lapwing   {got:?}");
                }
            }
        }
    }
    for (name, cases, wrong) in &tally {
        println!("{name}: {cases} cases, {wrong} different");
    }
    assert_eq!(tally.iter().map(|t| t.2).sum::<usize>(), 0);
}

/// Special ids and flags of a vocabulary, against llama.cpp's.
fn check_facts(path: &str, tokenizer: &Tokenizer, facts: &Value) {
    assert_eq!(Some(tokenizer.n_vocab() as u64), facts["n_vocab"].as_u64(), "{path}");
    assert_eq!(tokenizer.eog(), ids(&facts["eog"]), "{path}");
    assert_eq!(tokenizer.bos().map(i64::from), facts["bos"].as_i64().filter(|&id| id >= 0), "{path}");
    assert_eq!(tokenizer.eos().map(i64::from), facts["eos"].as_i64().filter(|&id| id >= 0), "{path}");
    assert_eq!(Some(tokenizer.add_bos()), facts["add_bos"].as_bool(), "{path}");
    let control: Vec<u32> = (0..tokenizer.n_vocab() as u32).filter(|&id| tokenizer.is_control(id)).collect();
    assert_eq!(control, ids(&facts["control"]), "{path}");
}
