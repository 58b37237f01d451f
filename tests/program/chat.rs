//! A chat on a terminal.
#![cfg(unix)]
use super::common::{Folder, smollm2};
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

/// Tokens of the last prompt: all, from the cache, read; as `/stats` says.
pub fn read(chat: &mut Terminal) -> (usize, usize, usize) {
    chat.ask("/stats", "from the cache");
    let text = chat.text();
    let line = text.lines().rfind(|line| line.contains("from the cache")).expect("waited for");
    let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(numbers.len() >= 3 && numbers[0] == numbers[1] + numbers[2], "{line}");
    (numbers[0], numbers[1], numbers[2])
}

#[test]
fn questions_are_answered_and_ctrl_d_leaves() {
    let Some(mut chat) = chat(&["-v"], USUAL, &[]) else { return };
    assert!(chat.text().contains("/help lists commands"), "{}", chat.text());
    chat.ask("What is the capital of France?", "The capital of France is Paris.");
    // -v: tokens and speeds.
    assert!(chat.text().contains("written at"), "{}", chat.text());
    chat.leave();
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
    chat.ask("/stats", "from the cache");
    chat.keys("half a line");
    chat.wait_line("> half a line");
    chat.keys("\u{3}");
    chat.wait_prompt();
    // A line that is thrown away is no wish to leave.
    assert_eq!(chat.text().matches("Ctrl-C again").count(), 1, "{}", chat.text());
    chat.keys("\u{3}");
    chat.wait("the word anew", |text| text.matches("Ctrl-C again").count() == 2);
    chat.wait_prompt();
    chat.keys("\u{3}");
    chat.wait_end();
}

/// While the prompt is read, too: nothing is left of the bar, nor of the key, and the message is kept.
#[test]
fn ctrl_c_stops_the_reading_of_a_prompt() {
    let folder = Folder::new("long");
    let file = folder.file("text", "The quick brown fox jumps over the lazy dog. ".repeat(300).as_bytes());
    let Some(mut chat) = chat(&["-c", "8192", "-n", "4"], USUAL, &[]) else { return };
    chat.ask(&format!("/read {}", file.display()), "Goes before your next message");
    chat.line("What is this?");
    chat.wait("the bar", |text| text.lines().any(|line| line.starts_with("reading ")));
    chat.keys("\u{3}");
    chat.wait("the word", |text| text.lines().any(|line| line == "[stopped before the answer began]"));
    chat.wait_prompt();
    let text = chat.text();
    assert!(!text.contains("reading ") && !text.contains("^C"), "{text}");
    chat.ask("/context", "wait for your next message (/read)");
    // What was read of it until then is not read again.
    chat.line("/regen");
    chat.wait("the answer", |text| text.contains("[cut"));
    chat.wait_prompt();
    assert!(!chat.text().contains("reading "), "{}", chat.text());
    let (all, cached, _) = read(&mut chat);
    assert!(all > 3000 && cached >= 512, "{all} {cached}");
    // What cannot be stopped does not end the chat, either.
    let long = folder.file("long", "All work and no play makes Jack a dull boy. ".repeat(200_000).as_bytes());
    chat.keys(&format!("/read {}", long.display()));
    chat.wait("the line", |text| text.trim_end().ends_with("/long"));
    chat.keys("\r");
    chat.wait_screen("the line to be taken", |screen| screen.cursor_position().1 == 0);
    chat.keys("\u{3}");
    chat.wait("what was read", |text| text.contains("is more than the"));
    chat.wait_prompt();
    chat.ask("/read none", "Nothing goes before your next message.");
    chat.leave();
}

#[test]
fn commands_are_listed_completed_and_corrected() {
    let Some(mut chat) = chat(&["-n", "8"], USUAL, &[]) else { return };
    chat.line("/help");
    chat.wait("the help", |text| text.contains("/clear") && text.contains("/exit"));
    chat.wait_prompt();
    chat.ask("/hlep", "did you mean /help?");
    chat.keys("/sta\t");
    chat.wait_line("> /stats");
    chat.keys("\r");
    chat.wait("the stats", |text| text.contains("answer      0 tokens"));
    chat.ask("Hello!", "[cut");
    chat.ask("/clear", "The conversation starts anew");
    chat.ask("/undo", "nothing has been said yet");
    chat.line("/exit");
    chat.wait_end();
}

#[test]
fn several_lines_are_one_message() {
    let Some(mut chat) = chat(&["-n", "4"], USUAL, &[]) else { return };
    chat.keys("Say\u{1b}\rhello");
    chat.wait_line("hello");
    chat.keys("\r");
    chat.wait("the cut", |text| text.contains("[cut"));
    chat.wait_prompt();
    chat.line("\"\"\"");
    chat.line("one");
    chat.line("two\"\"\"");
    chat.wait("the second cut", |text| text.matches("[cut").count() == 2);
    chat.wait_prompt();
    chat.line("three \\");
    chat.wait_screen("the next line", |screen| {
        screen.contents().trim_end().ends_with("> three \\") && screen.cursor_position().1 == 0
    });
    chat.line("four");
    chat.wait("the third cut", |text| text.matches("[cut").count() == 3);
    chat.wait_prompt();
    chat.ask("/history", "> Say hello");
    let text = chat.text();
    let history = text.rsplit_once("> /history").expect("typed").1;
    for message in ["> Say\nhello\n", "> one\ntwo\n", "> three \nfour\n"] {
        assert!(history.contains(message), "{message:?}: {history}");
    }
    chat.wait_prompt();
    chat.leave();
}

#[test]
fn no_color_and_narrow_terminals_are_respected() {
    let Some(mut meter) = chat(&[], (24, 40), &[]) else { return };
    meter.ask("/context", "tokens used");
    let text = meter.text();
    assert!(text.lines().any(|line| line.starts_with('[') && line.ends_with("] 0%")), "{text}");
    let Some(mut plain) = chat(&["-n", "12"], (24, 20), &[("NO_COLOR", "1")]) else { return };
    // The editor of lines breaks them itself, where they end on the screen.
    plain.keys("What is the capital of France?");
    plain.wait_line("l of France?");
    plain.keys("\r");
    plain.wait("the answer", |text| text.contains("Paris"));
    plain.wait_prompt();
    plain.leave();
    let raw = String::from_utf8_lossy(&plain.raw).into_owned();
    // Colours and bold are `ESC [ … m`; moving the cursor is still allowed.
    let coloured = raw
        .split("\u{1b}[")
        .skip(1)
        .any(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'));
    assert!(!coloured, "{raw:?}");
}

/// The cursor stands behind what is typed, wherever that takes two columns a character or more than one line.
#[test]
fn wide_characters_are_edited() {
    let Some(mut chat) = chat(&["-n", "8"], (24, 20), &[]) else { return };
    let (row, _) = chat.screen().cursor_position();
    for (keys, line, at) in [
        ("日本語", "> 日本語", (row, 8)),
        ("\u{1b}[D", "> 日本語", (row, 6)),
        ("\u{7f}", "> 日語", (row, 4)),
        // Home, and the end.
        ("\u{1}é", "> é日語", (row, 3)),
        ("\u{5}漢字漢字漢字漢", "> é日語漢字漢字漢字\n漢", (row + 1, 2)),
        ("\u{7f}\u{7f}", "> é日語漢字漢字漢", (row, 17)),
    ] {
        chat.keys(keys);
        chat.wait_screen(&format!("{line:?} with the cursor at {at:?}"), |screen| {
            let rows: Vec<_> = screen.rows(0, 20).map(|row| row.trim_end().to_owned()).collect();
            let below = rows[row.into()..].join("\n");
            below.trim_end() == line && screen.cursor_position() == at && !screen.hide_cursor()
        });
    }
    chat.keys("\r");
    chat.wait("the answer", |text| text.contains("[cut"));
    chat.wait_prompt();
    chat.leave();
}

#[test]
fn what_may_follow_is_hinted_at() {
    let Some(mut chat) = chat(&[], USUAL, &[]) else { return };
    let dim = |screen: &vt100::Screen, columns: std::ops::Range<u16>| {
        let row = screen.cursor_position().0;
        columns.map(|column| screen.cell(row, column).is_some_and(vt100::Cell::dim)).collect::<Vec<_>>()
    };
    chat.keys("/reg");
    chat.wait_screen("the hint", |screen| {
        screen.contents().ends_with("> /regen") && screen.cursor_position().1 == 6
    });
    assert_eq!(dim(chat.screen(), 5..8), [false, true, true]);
    // To the right, it is taken.
    chat.keys("\u{1b}[C");
    chat.wait_line("> /regen");
    assert_eq!(dim(chat.screen(), 5..8), [false; 3]);
    chat.keys("\r");
    chat.wait("the word", |text| text.contains("nothing has been said yet"));
    chat.wait_prompt();
    chat.keys("/undo ");
    chat.wait("what follows a name", |text| text.ends_with("> /undo [N]"));
    // A line that is given up stays as it was typed, and is not kept.
    chat.keys("\u{3}");
    chat.wait_prompt();
    assert!(chat.text().trim_end().ends_with("> /undo \n>"), "{}", chat.text());
    chat.keys("\u{1b}[A");
    chat.wait_line("> /regen");
    chat.keys("\u{3}");
    chat.wait_prompt();
    chat.leave();
}

/// A terminal that is made narrower, or wider, while the chat waits or answers.
#[test]
fn lines_fit_the_terminal_as_it_is_now() {
    let Some(mut chat) = chat(&["-n", "60", "--ignore-eos"], USUAL, &[]) else { return };
    chat.resize((24, 40));
    let question = "Tell me about the sea.";
    chat.line(question);
    chat.wait("the answer", |text| text.contains("[cut"));
    chat.wait_prompt();
    let text = chat.text();
    let answer = text.rsplit_once(question).expect("typed").1;
    let longest = |text: &str| text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
    assert!((30..40).contains(&longest(answer)), "{text}");
    chat.ask("/clear", "anew");
    chat.resize((24, 100));
    chat.line(question);
    chat.wait("the answer", |text| text.matches("[cut").count() == 2);
    chat.wait_prompt();
    let text = chat.text();
    let answer = text.rsplit_once(question).expect("typed").1;
    assert!((80..100).contains(&longest(answer)), "{text}");
    chat.leave();
}
