//! Answers of a form, and thoughts, in a chat on a terminal.
#![cfg(unix)]
use super::chat::chat;
use super::common::Folder;
use super::terminal::USUAL;

#[test]
fn a_form_can_be_given_and_taken_away() {
    let folder = Folder::new("forms");
    let schema = folder.file("a schema.json", br#"{"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": false}"#);
    let bad = folder.file("bad.json", br#"{"type": "array", "uniqueItems": true}"#);
    let Some(mut chat) = chat(&["-n", "60"], (30, 200), &[]) else { return };
    chat.ask("/schema", "Answers are free; /schema FILE");
    chat.ask(&format!("/schema '{}'", schema.display()), "Answers follow ");
    chat.ask("What is the capital of France?", r#"{"city": "#);
    assert!(chat.text().lines().any(|line| line.starts_with(r#"{"city": "#) && line.ends_with('}')));
    chat.ask(&format!("/schema {}", bad.display()), "uniqueItems");
    assert!(chat.text().contains("the JSON schema cannot be used"));
    chat.ask("/schema off", "Answers are free; /schema FILE gives them a form.");
    chat.ask("/clear", "starts anew");
    chat.ask("What is the capital of France?", "The capital of France is");
    chat.ask("/set lookup on", "lookup is on now.");
    chat.leave();
}

/// The form is a part of the session, by its file.
#[test]
fn a_form_is_saved_with_the_session() {
    let home = Folder::new("forms saved");
    let schema = home.file("schema.json", br#"{"enum": ["yes", "no"]}"#);
    let grammar = home.file("grammar", b"root ::= \"maybe\"\n");
    let env = [("XDG_DATA_HOME", home.path().to_str().expect("a test path"))];
    let schema_option = ["--json-schema", schema.to_str().expect("a test path")];
    let Some(mut first) = chat(&schema_option, (60, 200), &env) else { return };
    first.ask("/schema", &format!("Answers follow {}", schema.display()));
    first.ask("/save one", "Saved as one");
    first.leave();
    let asked = |options: &[&str], word: &str| {
        let options = [&["--resume", "one"], options].concat();
        let mut again = chat(&options, (60, 200), &env).expect("the model is here");
        again.ask("Is water wet?", word);
        again.leave();
        again.text()
    };
    let text = asked(&[], "\"");
    assert!(["\"yes\"", "\"no\""].iter().any(|answer| text.lines().any(|line| line == *answer)), "{text}");
    let text = asked(&["--grammar", grammar.to_str().expect("a test path")], "maybe");
    assert!(text.lines().any(|line| line == "maybe"), "{text}");
    std::fs::remove_file(schema).expect("it is there");
    let text = asked(&[], "Water");
    assert!(
        text.contains("a setting is left as it is: ") && text.contains("cannot read the schema"),
        "{text}"
    );
}

#[test]
fn thoughts_are_dimmed() {
    let folder = Folder::new("thoughts");
    // A model that thinks is not at hand: a grammar makes this one do as if.
    let grammar = folder.file(
        "g",
        b"root ::= \"<think>\\nhm hm hm hm hm hm hm hm hm hm\\n</think>\\n\\n\" (\"Yes\" | \"No\") \".\"\n",
    );
    let options = ["--grammar", grammar.to_str().unwrap()];
    let Some(mut chat) = chat(&options, USUAL, &[]) else { return };
    chat.line("Is water wet?");
    chat.wait("the answer", |text| ["Yes.", "No."].iter().any(|answer| text.contains(answer)));
    chat.wait_prompt();
    let text = chat.text();
    assert!(!text.contains("think>"), "{text}");
    let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("> Is water")).collect();
    assert_eq!((lines[1], lines[2]), ("hm hm hm hm hm hm hm hm hm hm", ""), "{text}");
    assert!(["Yes.", "No."].contains(&lines[3]), "{text}");
    let row = |start: &str| text.lines().position(|line| line.starts_with(start)).unwrap() as u16;
    assert!(chat.screen().cell(row("hm hm"), 0).unwrap().dim(), "a thought is dimmed");
    assert!(!chat.screen().cell(row("hm hm") + 2, 0).unwrap().dim(), "the answer is not");
    chat.leave();
}
