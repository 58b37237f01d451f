//! Bad input: one clear line on stderr, nothing on stdout, the documented exit code.
use std::path::Path;

use super::common::{Folder, Ran, command, lapwing, run, smollm2};

/// Asserts what every failure has in common, and that its line says `words`.
fn assert_fails(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "stderr: {}", ran.err);
    assert_eq!(ran.out, "", "a failure writes nothing to stdout");
    assert_eq!(ran.err.lines().count(), 1, "one line: {:?}", ran.err);
    assert!(ran.err.starts_with("lapwing: ") && ran.err.ends_with('\n'), "{:?}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no {word:?} in {:?}", ran.err);
    }
}

fn answer(model: &Path, options: &[&str]) -> Ran {
    let model = model.to_str().expect("a test path");
    lapwing(&[&["run", model, "-p", "Hello", "-n", "1"], options].concat())
}

#[test]
fn files_that_are_no_models() {
    let folder = Folder::new("no-models");
    let missing = folder.path().join("missing.gguf");
    assert_fails(&answer(&missing, &[]), 3, &["missing.gguf", "no such file"]);
    assert_fails(&answer(folder.path(), &[]), 3, &["no-models"]);
    assert_fails(&answer(&folder.file("empty.gguf", b""), &[]), 3, &["empty.gguf"]);
    let text = folder.file("text.gguf", "This is a letter, and not a model at all.\n".repeat(99).as_bytes());
    assert_fails(&answer(&text, &[]), 3, &["text.gguf", "GGUF"]);
    // The same through every command that takes a model.
    let text = text.to_str().expect("a test path");
    for args in [
        vec!["chat", text],
        vec!["bench", text],
        vec!["inspect", text],
        vec!["tokenize", text, "-p", "x"],
        vec!["perplexity", text, "-f", text],
    ] {
        assert_fails(&lapwing(&args), 3, &["text.gguf"]);
    }
}

#[test]
fn models_that_are_damaged_or_foreign() {
    let Some(model) = smollm2() else { return };
    let folder = Folder::new("damaged");
    let whole = std::fs::read(model).expect("the model");
    let cut = folder.file("cut.gguf", &whole[..whole.len() / 2]);
    assert_fails(&answer(&cut, &[]), 3, &["cut.gguf", "expected", "got"]);

    // A text of the metadata replaced by another of the same length: the file stays well-formed.
    let with = |name: &str, key: &str, value: &str, other: &str| {
        let find = |from: usize, text: &str| {
            let at = whole[from..].windows(text.len()).position(|window| window == text.as_bytes());
            from + at.expect("the text is in the file")
        };
        let at = find(find(0, key), value);
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(other.as_bytes());
        folder.file(name, &bytes)
    };
    let foreign = with("foreign.gguf", "general.architecture", "llama", "mamba");
    assert_fails(&answer(&foreign, &[]), 3, &["foreign.gguf", "mamba", "general.architecture"]);
    let words = with("words.gguf", "tokenizer.ggml.pre", "smollm", "smurfs");
    assert_fails(&answer(&words, &[]), 3, &["words.gguf", "smurfs", "tokenizer.ggml.pre"]);
}

#[test]
fn requests_that_cannot_be_met() {
    let Some(model) = smollm2() else { return };
    let path = model.to_str().expect("a test path");
    let long = "word ".repeat(100);
    let ran = lapwing(&["run", path, "-p", &long, "-c", "64"]);
    assert_fails(&ran, 2, &["longer than the context", "64", "--ctx-size"]);
    // 2³¹ tokens of cache are 90 TB.
    assert_fails(&answer(model, &["-c", "2000000000"]), 4, &["context", "--ctx-size"]);
    assert_fails(&answer(model, &["--isa", "abacus"]), 2, &["abacus", "scalar"]);
    assert_fails(&answer(model, &["--kv-type", "q9"]), 2, &["q9", "f16"]);
    assert_fails(&lapwing(&["run", path, "-p", "", "--raw"]), 2, &["prompt is empty"]);
    let cpu: serde_json::Value = serde_json::from_str(&lapwing(&["cpu", "-o", "json"]).out).expect("JSON");
    let sets = cpu["isas"].as_array().expect("instruction sets");
    for set in sets.iter().filter(|set| set["available"] == false) {
        let name = set["name"].as_str().expect("a name");
        assert_fails(&answer(model, &["--isa", name]), 2, &[name, "this machine has"]);
    }
    let folder = Folder::new("prompts");
    let binary = folder.file("binary", b"ab\xff\xfe");
    let binary = binary.to_str().expect("a test path");
    assert_fails(&lapwing(&["run", path, "-f", binary]), 3, &["UTF-8", "byte 2"]);
    assert_fails(&lapwing(&["run", path, "-f", "/nowhere/at/all"]), 1, &["/nowhere/at/all"]);
}

#[test]
fn wrong_usage() {
    for (args, words) in [
        (&["dance"][..], &["dance"][..]),
        (&["run"], &["MODEL"]),
        (&["run", "x", "--top-p", "1.5"], &["--top-p", "1.5", "0 to 1"]),
        (&["run", "x", "--top-k", "many"], &["--top-k", "many"]),
        (&["run", "x", "--temprature", "1"], &["--temprature", "--temp"]),
        (&["run", "x", "-t", "0"], &["0", "threads"]),
        (&["run", "x", "-p", "a", "-f", "b"], &["--prompt", "--file"]),
        (&["bench", "x", "-p", "9-x"], &["9-x"]),
        (&["run", "x", "-o", "yaml"], &["yaml"]),
    ] {
        assert_fails(&lapwing(args), 2, words);
    }
    let ran = lapwing(&["run", "no-such-model", "-p", "x"]);
    assert_fails(&ran, 3, &["no-such-model"]);
    let empty = Folder::new("no-home");
    let ran = run(command(&["chat"]).env("XDG_DATA_HOME", empty.path()), b"hello\n");
    assert_fails(&ran, 3, &["./quickstart"]);
}

/// The output may go to a file on a full disk.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_has_an_exit_code_of_its_own() {
    let Some(model) = smollm2().and_then(|model| model.to_str()) else { return };
    let full =
        std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full");
    let child = command(&["tokenize", model, "-p", "hello"])
        .stdout(full)
        .stderr(std::process::Stdio::piped())
        .spawn();
    let out = child.expect("the binary starts").wait_with_output().expect("the binary ends");
    assert_eq!(out.status.code(), Some(4), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn errors_are_json_when_the_output_is() {
    let folder = Folder::new("json");
    let text = folder.file("text.gguf", b"not a model, but long enough to have a header");
    let text = text.to_str().expect("a test path");
    for (args, class, file) in [
        (&["run", text, "-p", "x", "-o", "json"][..], "bad-file", true),
        (&["run", "-o", "json"], "usage", false),
        (&["--output=json", "dance"], "usage", false),
    ] {
        let ran = lapwing(args);
        assert_eq!(ran.err.lines().count(), 1, "{:?}", ran.err);
        let value: serde_json::Value = serde_json::from_str(&ran.err).expect("JSON on stderr");
        let error = &value["error"];
        assert_eq!(error["class"], class, "{value}");
        for key in ["file", "at", "expected", "got", "message"] {
            assert!(error.get(key).is_some(), "{key} in {value}");
        }
        assert_eq!(error["file"].is_string(), file, "{value}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()));
    }
}
