//! Answers under a JSON schema or a grammar, on the real model.
use std::path::Path;
use std::process::Command;

use super::common::{Folder, LAPWING, command, llama_cpp, run, smollm2};

/// A part of what tests/oracle/schemas.py holds against Python's jsonschema.
#[test]
fn answers_are_what_pythons_jsonschema_accepts() {
    let Some(model) = smollm2() else { return };
    let python = |args: &[&str]| Command::new("python3").args(args).output();
    if !python(&["-c", "import jsonschema"]).is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("LAPWING_REQUIRE_SHARED").is_none(), "python3 has no jsonschema");
        println!("SKIPPED: python3 has no jsonschema");
        return;
    }
    let folder = Folder::new("schemas");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/schemas.py");
    let work = folder.path().to_str().unwrap();
    let options = ["--lapwing", LAPWING, "--prompts", "1", "--predict", "100", "--work", work];
    let output =
        python(&[&[script.to_str().unwrap(), model.to_str().unwrap()][..], &options].concat()).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("15 of 15 answers are valid"));
}

#[test]
fn grammars_are_followed_and_bad_ones_named() {
    let Some(model) = smollm2().and_then(Path::to_str) else { return };
    let folder = Folder::new("grammars");
    let ask = |option: &str, text: &str| {
        let file = folder.file("form", text.as_bytes());
        let args =
            ["run", model, "-p", "How are you?", "--temp", "0", "-n", "40", option, file.to_str().unwrap()];
        run(&mut command(&args), b"")
    };
    let ran = ask("--grammar", "root ::= (\"fine\" | \"bad\") \", \" [a-z ]{3,9} \"!\"\n");
    let rest = ran.out.trim_end().strip_prefix("fine, ").or_else(|| ran.out.trim_end().strip_prefix("bad, "));
    let words = rest.and_then(|rest| rest.strip_suffix('!'));
    assert!(words.is_some_and(|words| (3..=9).contains(&words.len())), "{:?} {}", ran.out, ran.err);

    let ran = ask("--json-schema", r#"{"enum": ["fine", "bad", null]}"#);
    assert!(["\"fine\"\n", "\"bad\"\n", "null\n"].contains(&ran.out.as_str()), "{} {}", ran.out, ran.err);

    let ran = ask("--grammar", "root ::= [a-z\n");
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""), "{}", ran.err);
    assert!(ran.err.contains("form: the grammar cannot be read (at line 1)"), "{}", ran.err);
    let ran = ask("--json-schema", r#"{"type": "array", "uniqueItems": true}"#);
    assert_eq!(ran.code, Some(3), "{}", ran.err);
    assert!(ran.err.contains("uniqueItems"), "{}", ran.err);
    let ran = ask("--json-schema", r#"{"type": "string", "minLength": 500}"#);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("--predict"), "{}", ran.err);
    let none = run(&mut command(&["run", model, "-p", "x", "--grammar", "/nowhere/g"]), b"");
    assert!(none.err.contains("/nowhere/g") && none.code != Some(0), "{}", none.err);
}

/// Every grammar that llama.cpp ships is read, and followed from its start by words that it allows.
#[test]
fn llama_cpps_own_grammars_are_followed() {
    let (Some(model), Some(llama_cpp)) = (smollm2(), llama_cpp()) else { return };
    let mut n = 0;
    for file in std::fs::read_dir(llama_cpp.join("grammars")).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "gbnf") {
            continue;
        }
        let (model, path) = (model.to_str().unwrap(), file.to_str().unwrap());
        let args = ["run", model, "-p", "Write something.", "--seed", "1", "-n", "40", "--grammar", path];
        let ran = run(&mut command(&args), b"");
        assert_eq!(ran.code, Some(0), "{path}: {}", ran.err);
        println!("{path}: {:?}", ran.out);
        let text = ran.out.as_str();
        let begins = |letters: fn(char) -> bool| text.starts_with(letters);
        let right = match file.file_stem().unwrap().to_str().unwrap() {
            "json" => begins(|c| c == '{'),
            "json_arr" => begins(|c| c == '['),
            "list" => text.starts_with("- "),
            "chess" => text.starts_with("1. "),
            "arithmetic" => begins(|c| c.is_ascii_alphanumeric() || c == '('),
            "english" => text.is_ascii(),
            "japanese" => !begins(|c| c.is_ascii_alphabetic()),
            _ => !text.is_empty(),
        };
        assert!(right, "{path}: {text}");
        n += 1;
    }
    assert!(n >= 8, "{n} grammars");
}
