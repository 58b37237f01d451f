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
    chat.ask(&format!("/schema '{}'", schema.display()), "have this form from now on");
    chat.ask("What is the capital of France?", r#"{"city": "#);
    assert!(chat.text().lines().any(|line| line.starts_with(r#"{"city": "#) && line.ends_with('}')));
    chat.ask(&format!("/schema {}", bad.display()), "uniqueItems");
    assert!(chat.text().contains("the JSON schema cannot be used"));
    chat.ask("/schema off", "Answers are free.");
    chat.ask("/clear", "starts anew");
    chat.ask("What is the capital of France?", "The capital of France is");
    chat.ask("/set lookup on", "lookup is on now.");
    chat.leave();
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
