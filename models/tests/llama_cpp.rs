//! Checks against a checkout of llama.cpp, where the variable LAPWING_LLAMA_CPP says that one is.
use std::path::PathBuf;

use lapwing_models::gguf::{Gguf, OpenOptions};
use lapwing_models::tokenizer::Tokenizer;

fn checkout() -> Option<PathBuf> {
    let path = std::env::var_os("LAPWING_LLAMA_CPP").map(PathBuf::from);
    if path.is_none() {
        println!("SKIPPED: LAPWING_LLAMA_CPP is not set");
    }
    path
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
