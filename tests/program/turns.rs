//! Commands of the chat that change and show the conversation: what they say, and what the model has to read again.
#![cfg(unix)]
use super::chat::{chat, read};
use super::common::Folder;
use super::terminal::USUAL;

#[test]
fn taking_back_and_answering_anew_read_only_what_changed() {
    let Some(mut chat) = chat(&["-n", "24"], (60, 100), &[]) else { return };
    chat.ask("What is the capital of France?", "Paris");
    let (all, cached, new) = read(&mut chat);
    assert_eq!((cached, new), (0, all), "nothing was known before");
    chat.ask("And of Italy?", "Rome");
    let (all, cached, new) = read(&mut chat);
    assert!(cached >= 30 && new <= 20, "only the new message: {all} {cached} {new}");

    // The same prompt again: nothing at all, since what chooses the first word is kept.
    chat.ask("/regen", "Rome");
    assert_eq!(read(&mut chat), (all, all, 0));

    // The prompt differs from the last message on.
    chat.ask("/edit And of Spain?", "Madrid");
    let (_, edited, new) = read(&mut chat);
    assert!(edited >= cached && new <= 20, "{edited} {new}");

    chat.ask("/undo", "Taken back: 1 message, from \"And of Spain?\" on.");
    chat.ask("And of Spain, please?", "Madrid");
    let (_, again, new) = read(&mut chat);
    assert!(again >= edited && new <= 20, "{again} {new}");

    chat.ask("/undo 5", "Taken back: 2 messages, from \"What is the capital");
    chat.ask("/undo", "nothing has been said yet");
    for (line, word) in [
        ("/undo x", "expected a number, such as /undo 2, got x"),
        ("/history", "system> You are a helpful AI assistant."),
        ("/regen", "nothing has been said yet"),
        ("/edit", "nothing has been said yet"),
    ] {
        chat.ask(line, word);
    }
    chat.leave();
}

#[test]
fn the_last_message_is_changed_where_it_stands() {
    let Some(mut chat) = chat(&["-n", "24"], USUAL, &[]) else { return };
    chat.ask("What is the capital of France?", "Paris");
    chat.line("/edit");
    chat.wait_line("> What is the capital of France?");
    // Seven back over "France?", and one word anew.
    chat.keys(&"\u{7f}".repeat("France?".len()));
    chat.reply("> What is the capital of ", "Italy?", "Rome");
    // Given up, it stays.
    chat.line("/edit");
    chat.wait_line("> What is the capital of Italy?");
    chat.keys("\u{3}");
    chat.wait("the word", |text| text.contains("The message stays as it was."));
    chat.wait_prompt();
    chat.line("/history");
    chat.wait("the history", |text| text.matches("> What is the capital of Italy?").count() >= 3);
    chat.wait_prompt();
    chat.leave();
}

#[test]
fn branches_are_made_and_returned_to() {
    let Some(mut chat) = chat(&["-n", "24"], (60, 100), &[]) else { return };
    chat.ask("What is the capital of France?", "Paris");
    for (line, word) in [
        ("/fork", "not a name for a branch"),
        ("/fork main", "there is a branch named main already"),
        ("/fork idea", "You are on idea now; /goto main returns."),
        ("And of Italy?", "Rome"),
        ("/goto mian", "no branch named mian; did you mean main?"),
        ("/goto main", "You are on main; the last message is \"What is the capital of France?\"."),
        ("/history", "* main: 3 turns"),
        ("/history", "idea: 5 turns, 3 of them as in main"),
        ("And of Spain?", "Madrid"),
    ] {
        chat.ask(line, word);
    }
    let (_, cached, new) = read(&mut chat);
    assert!(cached >= 30 && new <= 20, "the common part is not read again: {cached} {new}");
    chat.keys("/goto i\t\r");
    chat.wait("the word", |text| text.contains("You are on idea; the last message is \"And of Italy?\"."));
    chat.wait_prompt();
    chat.leave();
}

#[test]
fn settings_and_state_are_shown_and_changed() {
    let Some(mut chat) = chat(&["-n", "8"], (200, 100), &[]) else { return };
    for (line, word) in [
        ("/system Answer in French.", "that is what the model is told"),
        ("/system", "The model is told: Answer in French."),
        ("/context", "0%"),
        ("/set temp", "temp is 0"),
        ("/set temp 0.5", "temp is 0.5 now."),
        ("/set temp hot", "bad value for temp: expected a number"),
        ("/set tmep 1", "no setting named tmep; did you mean temp?"),
        ("/set predict", "predict is 8"),
        ("/set predict 2", "predict is 2 now."),
        ("/set stop \"END\" \"\\n\\n\"", "is \"END\" \"\\n\\n\" now."),
        ("/set stop none", "stop is none now."),
        ("/show", "temp 0.5"),
        ("/show", "llama 135M q4_1"),
        ("/show", "adapters   none"),
        ("/show", "the model's own"),
        ("/show", "MiB when full, f16"),
        ("Hello!", "[cut"),
        ("/context", "template"),
        ("/set", "top-k"),
        ("/help", "/context"),
        ("/help set", "/set [NAME VALUE]"),
        ("/help nothing", "no command nothing"),
    ] {
        chat.ask(line, word);
    }
    chat.keys("/set top-\t\t");
    chat.wait("the completion", |text| text.contains("top-k") && text.contains("top-nsigma"));
    chat.keys("k 30\r");
    chat.wait("the value", |text| text.contains("top-k is 30 now."));
    chat.wait_prompt();
    chat.leave();
}

#[test]
fn help_fits_one_usual_screen() {
    let Some(mut chat) = chat(&[], USUAL, &[]) else { return };
    chat.ask("/help", "Ctrl-G");
    let text = chat.text();
    assert!(text.contains("/system [TEXT]"), "the first command is still in sight:\n{text}");
    chat.wait_prompt();
    chat.leave();
}

#[test]
fn files_are_read_and_written() {
    let folder = Folder::new("chat files");
    folder.file("my notes.txt", b"The code word is swordfish.\n");
    folder.file("binary", b"ab\xff");
    let Some(mut chat) = chat(&["-n", "16"], (60, 200), &[]) else { return };
    let path = |name: &str| folder.path().join(name).to_str().expect("a test path").to_owned();
    for (line, word) in [
        ("/read", "which file?".to_owned()),
        (&format!("/read {:?}", path("nothing")), "cannot read: No such file or directory\n>".to_owned()),
        (&format!("/read {:?}", path("binary")), "byte 2".to_owned()),
        (&format!("/read {:?}", folder.path().to_str().expect("a test path")), "not a text file".to_owned()),
    ] {
        chat.ask(line, &word);
    }
    // Completed, with the space in its name quoted.
    chat.keys(&format!("/read {}", folder.path().to_str().expect("a test path").replace(' ', "\\ ")));
    chat.keys("/my\t\r");
    chat.wait("the file", |text| {
        text.contains("my notes.txt: ") && text.contains("Goes before your next message")
    });
    chat.wait_prompt();
    chat.ask("/context", "of 4096 tokens used");
    let text = chat.text();
    let number = |before: &str| -> usize {
        let words = text.rsplit_once(before).expect("it is there").1;
        words.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
    };
    assert_eq!(number("which leaves ") + number("my notes.txt: ") + number("] 0%\n"), 4096, "{text}");
    chat.ask("What is the code word?", "ordfish");
    chat.ask(&format!("/dump {:?}", path("chat.txt")), "chat.txt: 3 turns");
    let dumped = std::fs::read_to_string(path("chat.txt")).expect("the dump");
    let message =
        "user: my notes.txt:\n```\nThe code word is swordfish.\n```\n\nWhat is the code word?\n\nassistant: ";
    assert!(
        dumped.starts_with("system: You are a helpful AI assistant.\n\n") && dumped.contains(message),
        "{dumped}"
    );
    chat.ask("/dump /nowhere/at/all", "lapwing: /nowhere/at/all: cannot create");
    chat.ask("/set ctx-size 100", "ctx-size is 100 now.");
    folder.file("long", "word ".repeat(200).as_bytes());
    chat.ask(&format!("/read {:?}", path("long")), "more than the");
    chat.ask("/read none", "Nothing goes before your next message.");
    chat.leave();
}

#[test]
fn the_persons_own_editor_writes_a_message() {
    let folder = Folder::new("editor");
    let editor = folder.file("editor", b"#!/bin/sh\ncat \"$2\" >\"$(dirname \"$0\")/saw\"\nprintf 'What is the capital\\nof France?\\n' >\"$2\"\n");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o700)).expect("permissions");
    let editor = format!("{} --wait", editor.to_str().expect("a test path"));
    let Some(mut chat) = chat(&["-n", "24"], USUAL, &[("EDITOR", &editor)]) else { return };
    chat.keys("half a message");
    chat.wait_line("> half a message");
    chat.keys("\u{7}");
    chat.wait("the editor's text", |text| text.ends_with("> What is the capital\nof France?"));
    chat.wait_line("of France?");
    let saw = std::fs::read_to_string(folder.path().join("saw")).expect("what the editor was given");
    assert_eq!(saw, "half a message");
    chat.keys("\r");
    chat.wait("the answer", |text| text.contains("Paris"));
    chat.wait_prompt();
    chat.leave();
}

#[test]
fn pasted_lines_are_one_message() {
    let Some(mut chat) = chat(&["-n", "24"], USUAL, &[]) else { return };
    chat.keys("\u{1b}[200~What is the capital\rof France?\u{1b}[201~");
    chat.wait("the paste", |text| text.ends_with("> What is the capital\nof France?"));
    chat.wait_line("of France?");
    chat.keys("\r");
    chat.wait("the answer", |text| text.contains("Paris"));
    chat.wait_prompt();
    chat.leave();
}

#[test]
fn what_is_typed_ahead_is_kept() {
    let Some(mut chat) = chat(&["-n", "24"], USUAL, &[]) else { return };
    chat.keys("What is the capital of France?\r/set temp\r/undo\r/exit\r");
    chat.wait_end();
    let text = chat.text();
    for word in ["Paris", "temp is 0\n", "Taken back: 1 message"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn what_is_typed_is_kept_only_when_asked_for() {
    let folder = Folder::new("history");
    let env = folder.path().to_str().expect("a test path").to_owned();
    let env = [("XDG_STATE_HOME", env.as_str())];
    let file = folder.path().join("lapwing/history");
    let Some(mut without) = chat(&[], USUAL, &env) else { return };
    without.ask("/set temp", "temp is 0");
    without.leave();
    assert!(!file.exists());
    let Some(mut with) = chat(&["--history"], USUAL, &env) else { return };
    with.ask("/set top-k", "top-k is 40");
    with.leave();
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&file).expect("the history").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let Some(mut again) = chat(&["--history"], USUAL, &env) else { return };
    again.keys("\u{1b}[A");
    again.wait_line("> /set top-k");
}

#[test]
fn answers_on_a_terminal_are_light_markdown_and_plain_in_a_pipe() {
    let Some(mut chat) = chat(&["-n", "64"], (24, 40), &[]) else { return };
    let question = "Print hello in Python, in a block of code.";
    chat.line(question);
    chat.wait("the code", |text| text.matches("```").count() == 2);
    chat.wait_prompt();
    let screen = chat.screen();
    let styled = (0..24).flat_map(|row| (0..40).map(move |col| (row, col)));
    let coloured = styled
        .filter_map(|(row, col)| screen.cell(row, col))
        .filter(|cell| cell.fgcolor() == vt100::Color::Idx(6));
    let coloured: String = coloured.map(|cell| cell.contents()).collect();
    assert!(coloured.contains("print"), "{coloured:?} in {}", chat.text());
    chat.wait_prompt();
    chat.leave();
}
