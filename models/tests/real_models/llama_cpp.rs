//! Checks against what llama.cpp ships: vocabularies and chat templates (scripts/fetch-llama-cpp).
use std::path::PathBuf;

use lapwing_models::chat_template::{ChatTemplate, Clock, Message};
use lapwing_models::gguf::{Gguf, OpenOptions, Strings};
use lapwing_models::tokenizer::{Parts, Tokenizer};
use serde_json::Value;

fn checkout() -> Option<PathBuf> {
    crate::common::llama_cpp()
}

/// Every vocabulary there with its `.inp` and `.out`: texts and the ids that Hugging Face's tokenisers give them.
#[test]
fn vocabularies() {
    let Some(llama_cpp) = checkout() else { return };
    let mut paths: Vec<_> = std::fs::read_dir(llama_cpp.join("models"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    let (mut passed, mut refused) = (Vec::new(), Vec::new());
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let side =
            |extension: &str| std::fs::read_to_string(path.with_extension(format!("gguf.{extension}")));
        let file = Gguf::open(&path, &OpenOptions::default()).unwrap();
        let tokenizer = match Tokenizer::from_gguf(&file) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                println!("{name}: refused: {error}");
                refused.push(name);
                continue;
            }
        };
        let (Ok(texts), Ok(ids)) = (side("inp"), side("out")) else {
            println!("{name}: loads; no cases");
            continue;
        };
        let texts: Vec<_> = texts.split("\n__ggml_vocab_test__\n").collect();
        let ids: Vec<_> = ids.lines().collect();
        assert_eq!(texts.len(), ids.len() + 1, "{name}: the last text is empty and has no line");
        for (text, ids) in texts.iter().zip(&ids) {
            let expected: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, false), expected, "{name}: {text:?}");
        }
        println!("{name}: {} cases equal", ids.len());
        passed.push(name);
    }
    // Encoders, and architectures that are not run.
    assert!(refused.iter().all(|name| name.contains("bert") || name.contains("gemma-4")), "{refused:?}");
    assert!(passed.len() >= 13, "{passed:?}");
}

/// Every chat template there renders as jinja2 renders it with transformers' settings.
#[test]
fn templates() {
    let Some(llama_cpp) = checkout() else { return };
    let golden = std::fs::read_to_string(crate::common::root().join("tests/data/templates.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let now: Vec<i8> = golden["now"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap() as i8).collect();
    let clock = Clock::At(2025, now[1], now[2], now[3], now[4], now[5]);
    let chats: Vec<Vec<Message>> = golden["chats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|chat| {
            let text = |message: &Value, field: &str| message[field].as_str().unwrap().to_owned();
            chat.as_array()
                .unwrap()
                .iter()
                .map(|m| Message::new(text(m, "role"), text(m, "content")))
                .collect()
        })
        .collect();
    let files = std::fs::read_dir(llama_cpp.join("models/templates")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut shipped: Vec<String> = names.filter(|name| name.ends_with(".jinja")).collect();
    shipped.sort();
    let compared: Vec<&String> = golden["templates"].as_object().unwrap().keys().collect();
    assert!(shipped.iter().eq(compared), "scripts/template-cases must be run again");
    let tokenizer = vocabulary();
    let (mut equal, mut refused) = (0, Vec::new());
    for (name, cases) in golden["templates"].as_object().unwrap() {
        let source = std::fs::read_to_string(llama_cpp.join("models/templates").join(name)).unwrap();
        let template =
            ChatTemplate::with_clock(&source, &tokenizer, clock).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (i, case) in cases.as_array().unwrap().iter().enumerate() {
            let rendered = template.render(&tokenizer, &chats[i / 2], i % 2 == 0);
            let rendered = rendered.map(|segments| segments.into_iter().map(|s| s.text).collect::<String>());
            match (rendered, case["text"].as_str()) {
                (Ok(text), Some(expected)) => {
                    assert_eq!(text, expected, "{name}, case {i}");
                    equal += 1;
                }
                // What jinja2 refuses is refused here too, by name.
                (Err(error), None) => {
                    println!("{name}, case {i}: {error} (jinja2: {})", case["error"]);
                    refused.push(name.clone());
                }
                (Ok(_), None) => panic!("{name}, case {i}: renders, although jinja2 says {}", case["error"]),
                (Err(error), Some(_)) => panic!("{name}, case {i}: {error}"),
            }
        }
        // In a chat, system text goes to the user where a template has no place for it.
        let template = ChatTemplate::for_model(Some(&source), &tokenizer).unwrap();
        println!("{name}: {}", template.fallback().unwrap_or("used"));
    }
    refused.dedup();
    println!("{equal} cases equal, {} templates refused: {refused:?}", refused.len());
    assert!(refused.len() <= 5 && equal >= 272);
}

/// Bytes, and a few control tokens that the templates write.
fn vocabulary() -> Tokenizer {
    let mut texts = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    texts.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    texts.extend(["<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<start_of_turn>"].map(str::to_owned));
    let types: Vec<i64> = (0..texts.len()).map(|id| if (3..259).contains(&id) { 6 } else { 3 }).collect();
    let tokens: Strings = texts.iter().collect();
    let mut parts = Parts::new("llama", &tokens);
    parts.token_type = Some(&types);
    Tokenizer::from_parts(&parts).unwrap()
}
