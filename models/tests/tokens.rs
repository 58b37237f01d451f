//! Golden token ids: 84 texts in six vocabularies, with special tokens as text and recognised.
use std::path::PathBuf;

use lapwing_models::gguf::{Gguf, OpenOptions};
use lapwing_models::tokenizer::{StreamDecoder, Tokenizer};
use serde_json::Value;

mod common;

fn open(path: PathBuf) -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::open(path, &OpenOptions::default()).unwrap()).unwrap()
}

fn cases(vocabulary: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(common::root().join("tests/data/tokens.json")).unwrap();
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
    check("smollm2", common::model("smollm2-135m-instruct-q4_1.gguf"));
}

#[test]
fn qwen2() {
    check("qwen2", common::model("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"));
}

#[test]
fn gemma3() {
    check("gemma3", common::model("gemma-3-270m-q4_k_m.gguf"));
}

#[test]
fn llama_spm() {
    check("llama-spm", common::shared("vocab/ggml-vocab-llama-spm.gguf"));
}

#[test]
fn llama_bpe() {
    check("llama-bpe", common::shared("vocab/ggml-vocab-llama-bpe.gguf"));
}

#[test]
fn phi_3() {
    check("phi-3", common::shared("vocab/ggml-vocab-phi-3.gguf"));
}
