//! A chat on a terminal.
#![cfg(unix)]
use super::common::smollm2;
use super::terminal::{Terminal, USUAL};

/// A chat with SmolLM2, always the same, waiting at its first prompt.
pub fn chat(options: &[&str], size: (u16, u16), env: &[(&str, &str)]) -> Option<Terminal> {
    let model = smollm2()?.to_str()?;
    let system = "You are a helpful AI assistant.";
    let mut terminal =
        Terminal::start(&[&["chat", model, "--temp", "0", "--system", system], options].concat(), size, env);
    terminal.wait_prompt();
    Some(terminal)
}

#[test]
fn questions_are_answered_and_ctrl_d_leaves() {
    let Some(mut chat) = chat(&["-v"], USUAL, &[]) else { return };
    assert!(chat.text().contains("/help lists commands"), "{}", chat.text());
    chat.line("What is the capital of France?");
    chat.wait("the answer", |text| text.contains("The capital of France is Paris."));
    chat.wait_prompt();
    // -v: tokens and speeds.
    assert!(chat.text().contains("written at"), "{}", chat.text());
    chat.keys("\u{4}");
    let status = chat.wait_end();
    assert_eq!(status.code(), Some(0));
    assert!(!chat.screen().hide_cursor());
    assert_eq!(chat.screen().cursor_position().1, 0, "the shell's prompt starts a line: {}", chat.text());
}

#[test]
fn ctrl_c_stops_an_answer_and_keeps_the_chat() {
    let Some(mut chat) = chat(&["--ignore-eos"], USUAL, &[]) else { return };
    chat.line("Count from one to one thousand.");
    chat.wait("the answer to begin", |text| text.lines().filter(|line| !line.starts_with('>')).count() > 3);
    chat.keys("\u{3}");
    chat.wait("the stop", |text| text.contains("[stopped]"));
    chat.wait_prompt();
    // At the prompt: once is a word, and only twice in a row leaves.
    chat.keys("\u{3}");
    chat.wait("the word", |text| text.contains("Ctrl-C again"));
    chat.wait_prompt();
    chat.line("/stats");
    chat.wait("the stats", |text| text.contains("from the cache"));
    chat.wait_prompt();
    chat.keys("half a line");
    chat.wait("the half line", |text| text.ends_with("> half a line"));
    chat.keys("\u{3}");
    chat.wait_prompt();
    chat.keys("\u{3}");
    let status = chat.wait_end();
    assert_eq!(status.code(), Some(0), "{}", chat.text());
}

#[test]
fn commands_are_listed_completed_and_corrected() {
    let Some(mut chat) = chat(&["-n", "8"], USUAL, &[]) else { return };
    chat.line("/help");
    chat.wait("the help", |text| text.contains("/clear") && text.contains("/exit"));
    chat.wait_prompt();
    chat.line("/hlep");
    chat.wait("a correction", |text| text.contains("did you mean /help?"));
    chat.keys("/sta\t");
    chat.wait("the completion", |text| text.lines().last().is_some_and(|line| line.starts_with("> /stats")));
    chat.keys("\r");
    chat.wait("the stats", |text| text.contains("answer      0 tokens"));
    chat.wait_prompt();
    chat.line("Hello!");
    chat.wait("the cut", |text| text.contains("[cut"));
    chat.line("/clear");
    chat.wait("the new start", |text| text.contains("The conversation starts anew"));
    chat.line("/exit");
    assert_eq!(chat.wait_end().code(), Some(0));
}

#[test]
fn several_lines_are_one_message() {
    let Some(mut chat) = chat(&["-n", "4"], USUAL, &[]) else { return };
    chat.keys("Say\u{1b}\rhello");
    chat.wait("the second line", |text| text.lines().last().is_some_and(|line| line.starts_with("hello")));
    chat.keys("\r");
    chat.wait("the cut", |text| text.contains("[cut"));
    chat.wait_prompt();
    chat.line("\"\"\"");
    chat.line("one");
    chat.line("two\"\"\"");
    chat.wait("the second cut", |text| text.matches("[cut").count() == 2);
}

#[test]
fn no_color_and_narrow_terminals_are_respected() {
    let Some(mut plain) = chat(&["-n", "12"], (24, 20), &[("NO_COLOR", "1")]) else { return };
    plain.line("What is the capital of France?");
    plain.wait("the answer", |text| text.contains("Paris"));
    plain.wait_prompt();
    plain.keys("\u{4}");
    assert_eq!(plain.wait_end().code(), Some(0));
    let raw = String::from_utf8_lossy(&plain.raw).into_owned();
    // Colours and bold are `ESC [ … m`; moving the cursor is still allowed.
    let coloured = raw
        .split("\u{1b}[")
        .skip(1)
        .any(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'));
    assert!(!coloured, "{raw:?}");
}
