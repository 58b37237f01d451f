//! Sessions saved, resumed, and killed while they are saved; contexts that fill up.
#![cfg(unix)]
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use super::chat::{chat, read};
use super::common::{Folder, Ran, command, lapwing, run, smollm2};
use super::terminal::Terminal;

const SYSTEM: [&str; 4] = ["--system", "You are a helpful AI assistant.", "--temp", "0"];

/// A chat in a pipe, with its sessions in `home`.
fn piped(home: &Folder, args: &[&str], lines: &str) -> Option<Ran> {
    let model = smollm2()?.to_str()?;
    let first = if args.contains(&"--resume") { vec!["chat"] } else { vec!["chat", model] };
    let args = [&first[..], &SYSTEM, args].concat();
    Some(run(command(&args).env("XDG_DATA_HOME", home.path()), lines.as_bytes()))
}

#[test]
fn a_session_is_saved_listed_and_taken_up_where_it_was() {
    let home = Folder::new("sessions");
    let env = home.path().to_str().expect("a test path").to_owned();
    let env = [("XDG_DATA_HOME", env.as_str())];
    let Some(mut first) = chat(&["-n", "24"], (100, 120), &env) else { return };
    for (line, word) in [
        ("/sessions", "No session is saved"),
        ("/load one", "no session named one"),
        ("What is the capital of France?", "Paris"),
        ("/set stop \"END\"", "is \"END\" now."),
        ("/save ../one", "not a name for a session"),
        ("/save one", "Saved as one ("),
        ("/fork idea", "You are on idea now"),
        ("And of Italy?", "Rome"),
        ("/set save-cache on", "on now."),
        ("/save two", "Saved as two with its cache"),
        ("/sessions", "5 turns, cache, smollm2-135m-instruct-q4_1: \"And of Italy?\""),
        ("/sessions", "* two"),
    ] {
        first.ask(line, word);
    }
    first.line("/save one");
    let question = "There is a session named one. Replace it? [y/N] ";
    first.reply(question, "n", "there is a session named one already");
    first.leave();

    let folder = home.path().join("lapwing/sessions");
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("one.session"))), (0o700, 0o600));

    // The last one, with its cache: of the next message only what is new is read.
    let Some(mut again) = chat(&["--resume"], (100, 120), &env) else { return };
    assert!(again.text().contains("You are back in two: 5 turns, the last message is \"And of Italy?\"."));
    again.ask("/history", "* idea: 5 turns, 3 of them as in main");
    again.ask("And of Spain?", "Madrid");
    let (_, cached, new) = read(&mut again);
    assert!(cached >= 50 && new <= 20, "{cached} {new}");
    // This one is not saved.
    again.line("/load one");
    again.reply("This conversation is not saved. Leave it? [y/N] ", "y", "You are back in one: 3 turns");
    again.ask("/set stop", "stop is \"END\"");
    again.keys("/load t\t");
    again.wait_line("> /load two");
    again.keys("\r");
    again.wait("the other", |text| text.matches("You are back in two: 5 turns").count() == 2);
    again.ask("/sessions rm tow", "no session named tow; did you mean two?");
    again.line("/sessions rm two");
    again.wait_line("Delete the session two for good? [y/N] ");
    // Thought better of.
    again.keys("y\u{3}");
    again.wait("the word", |text| text.contains("[y/N] y\nIt stays."));
    again.wait_prompt();
    for (answer, word) in [("", "It stays."), ("y", "two is deleted.")] {
        again.line("/sessions rm two");
        again.reply("Delete the session two for good? [y/N] ", answer, word);
        assert_eq!(folder.join("two.session").exists(), answer.is_empty());
    }
    again.ask("/sessions", "/sessions rm deletes one.");
    again.leave();
}

/// What the command line says, it says of a session that is taken up, at the start or later, too; all else is as it
/// was saved.
#[test]
fn flags_win_over_what_a_session_has_saved() {
    let home = Folder::new("flags");
    let lines = "/set temp 0.5\n/set top-k 7\n/set predict 3\n/set when-full drop\n/set autosave on\n\
                 /set ctx-size 300\n/set kv-type q8_0\n/set stop \"END\"\nHello!\n/save one\n";
    let adapters = ["one", "two"].map(|name| home.path().join(name).to_str().expect("UTF-8").to_owned());
    for adapter in &adapters {
        let made = lapwing(&["synth", "smollm2-135m:f16", adapter, "--lora", "4", "-q"]);
        assert_eq!(made.code, Some(0), "{}", made.err);
    }
    let Some(ran) = piped(&home, &["--lora", &adapters[0]], lines) else { return };
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let model = smollm2().and_then(Path::to_str).expect("it was here");
    let show = |args: &[&str]| {
        let shown = |before: &[&str], lines: &str| {
            let args = [&["chat"], before, args].concat();
            let ran = run(command(&args).env("XDG_DATA_HOME", home.path()), lines.as_bytes());
            assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
            ran.out.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let resumed = shown(&["--resume", "one"], "/set\n/show\n/system\n");
        let loaded = shown(&[model], "/load one\n/set\n/show\n/system\n");
        [resumed, loaded]
    };
    let saved = show(&[]);
    let flags = show(&["--temp", "0.9", "--system", "Be brief.", "-n", "5", "-c", "600"]);
    let others = ["--when-full", "stop", "--kv-type", "f16", "--stop", "X", "--top-k", "9", "--save-cache"];
    let others = show(&[&others[..], &["--lora", &adapters[1]]].concat());
    for (saved, (flags, others)) in saved.iter().zip(flags.iter().zip(&others)) {
        for (of_saved, of_flags) in [
            ("temp 0.5 ", "temp 0.9 "),
            ("predict 3 ", "predict 5 "),
            (" of 300 tokens used", " of 600 tokens used"),
            ("told: You are a helpful", "told: Be brief."),
        ] {
            assert!(saved.contains(of_saved) && !saved.contains(of_flags), "{of_saved}: {saved}");
            assert!(flags.contains(of_flags) && !flags.contains(of_saved), "{of_flags}: {flags}");
            assert!(others.contains(of_saved), "{of_saved}: {others}");
        }
        for (of_saved, of_flags) in [
            ("top-k 7 ", "top-k 9 "),
            ("when-full drop ", "when-full stop "),
            ("kv-type q8_0 ", "kv-type f16 "),
            ("stop \"END\" ", "stop \"X\" "),
            ("save-cache off ", "save-cache on "),
            ("adapters one ×", "adapters two ×"),
        ] {
            assert!(saved.contains(of_saved) && flags.contains(of_saved), "{of_saved}: {saved} {flags}");
            assert!(others.contains(of_flags) && !others.contains(of_saved), "{of_flags}: {others}");
        }
        assert!(saved.contains("autosave on "), "{saved}");
    }
}

/// A chat under a template of the person's own goes on under it, whatever became of its file.
#[test]
fn a_template_file_is_part_of_the_session() {
    let home = Folder::new("template");
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}{% if mood %} ({{ mood }}){% endif %}\n{{ m.content }}\
                  <|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let file = home.file("template.jinja", source.as_bytes());
    let other = home.file("other.jinja", source.replace("m.role", "m.role * 3").as_bytes());
    let (file, other) = (file.to_str().expect("UTF-8"), other.to_str().expect("UTF-8"));
    let mood = r#"{"mood": "calm, and of good cheer"}"#;
    let talk = "And of Italy?\n/context\n";
    let options = ["-n", "24", "--chat-template-file", file, "--chat-template-kwargs", mood];
    let lines = format!("What is the capital of France?\n/save one\n{talk}");
    let Some(ran) = piped(&home, &options, &lines) else { return };
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let expected = ran.out.rsplit_once("takes it up.\n").expect("it is saved").1;
    assert!(expected.contains("Italy") && expected.contains("tokens used"), "{expected}");

    let go_on = |args: &[&str], before: &str, word: &str| {
        let ran = piped(&home, args, &format!("{before}{talk}/show\n")).expect("the model is here");
        assert_eq!(ran.code, Some(0));
        assert!(if word.is_empty() { ran.err.is_empty() } else { ran.err.contains(word) }, "{}", ran.err);
        ran.out
    };
    let resumed = ["--resume", "one"];
    let same = |out: &str| out.contains(expected) && out.contains(&format!("the one in {file}"));
    for (args, before) in [(&resumed[..], ""), (&[], "/load one\n")] {
        let out = go_on(args, before, "");
        assert!(same(&out), "{expected:?}\n{out}");
    }
    // Flags win, each over its own.
    let out = go_on(&[&resumed[..], &["--chat-template-file", other]].concat(), "", "");
    assert!(!out.contains(expected) && out.contains(&format!("the one in {other}")), "{out}");
    let out = go_on(&[&resumed[..], &["--chat-template-kwargs", "{}"]].concat(), "", "");
    assert!(!out.contains(expected) && out.contains(&format!("the one in {file}")), "{out}");
    // So do those of a session without one.
    let out = go_on(&[], "/save plain\n/load one\n/load plain\n", "");
    assert!(!out.contains(expected) && out.contains("the model's own"), "{out}");

    // Under another model it could be anything.
    let tiny = home.path().join("tiny.gguf");
    let tiny = tiny.to_str().expect("UTF-8");
    assert_eq!(lapwing(&["synth", "tiny-llama:q8_0", tiny, "-q"]).code, Some(0));
    let args = [&["chat", tiny], &resumed[..]].concat();
    let ran = run(command(&args).env("XDG_DATA_HOME", home.path()), b"/show\n");
    assert!(ran.code == Some(0) && !ran.out.contains(file), "{}", ran.out);
    for word in ["held with another model", "template.jinja was for that model: it is not used"] {
        assert!(ran.err.contains(word), "{}", ran.err);
    }

    std::fs::write(file, "{{ raise_exception('never used') }}").expect("it can be written");
    assert!(same(&go_on(&resumed, "", "template.jinja has changed since: the one that was saved is used")));
    std::fs::remove_file(file).expect("it is there");
    assert!(same(&go_on(
        &resumed,
        "",
        "template.jinja cannot be read any more: the one that was saved is used"
    )));
}

/// The conversation is safe after each answer, and soon its cache, without anybody leaving.
#[test]
fn the_cache_is_saved_after_each_answer_if_wished() {
    let home = Folder::new("cached");
    let env = [("XDG_DATA_HOME", home.path().to_str().expect("a test path"))];
    let Some(mut chat) = chat(&["-n", "24", "--autosave", "--save-cache"], (60, 100), &env) else { return };
    let saved = || {
        let session = std::fs::read_dir(home.path().join("lapwing/sessions")).ok()?.flatten();
        let mut session = session.map(|entry| entry.path()).filter(|path| path.extension().is_some());
        let whole =
            std::fs::read(session.find(|path| path.extension().is_some_and(|e| e == "session"))?).ok()?;
        Some(whole.len())
    };
    for (question, answer) in [("What is the capital of France?", "Paris"), ("And of Italy?", "Rome")] {
        chat.ask(question, answer);
        let begun = Instant::now();
        // 64 positions of this model take a megabyte and a half.
        while saved().is_none_or(|bytes| bytes < 1 << 20) {
            assert!(begun.elapsed().as_secs() < 60, "no cache is saved: {:?} bytes", saved());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    // Killed, not left.
    drop(chat);
    let ran = piped(&home, &["--resume", "-n", "24"], "And of Spain?\n/stats\n").expect("the model is here");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let line = ran.out.lines().find(|line| line.contains("from the cache")).expect("the stats");
    let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(ran.out.contains("Madrid") && numbers[1] >= 50 && numbers[2] <= 20, "{}", ran.out);
}

/// The context grows around what it holds, and never shrinks below it.
#[test]
fn the_context_is_made_larger_and_smaller_in_a_chat() {
    let Some(mut chat) = chat(&["-n", "12", "-c", "96"], (60, 200), &[]) else { return };
    chat.ask("What is the capital of France?", "Paris");
    let (all, _, _) = read(&mut chat);
    chat.ask("/set ctx-size 16", "the conversation is longer than that: expected at least");
    chat.ask("/set ctx-size x", "expected a whole number");
    chat.ask("/set ctx-size 99999999999", "does not fit in memory");
    chat.ask("/set ctx-size 1024", "ctx-size is 1024 now.");
    assert!(
        chat.text().contains("\nMemory: ") && chat.text().contains(" when full, f16)"),
        "{}",
        chat.text()
    );
    chat.ask("/context", "of 1024 tokens used");
    chat.ask("/show", "of 1024 tokens used");
    // The start of it is not read again, and the answers are those of a chat that was as large from the start.
    chat.ask("And of Italy?", "Rome");
    let (_, cached, new) = read(&mut chat);
    assert!(cached >= all && new <= 20, "{all} {cached} {new}");
    chat.ask("/undo", "Taken back");
    chat.ask("/set ctx-size 64", "ctx-size is 64 now.");
    chat.ask("/context", "of 64 tokens used");
    chat.ask("/set ctx-size 256", "ctx-size is 256 now.");
    // Other numbers: all is read again.
    chat.ask("/set kv-type q8_0", "when full, q8_0)");
    chat.ask("/set kv-type q9", "unknown cache type: expected f32, f16, q8_0, got q9");
    chat.ask("And of Italy?", "Rome");
    let (all, cached, new) = read(&mut chat);
    assert_eq!((cached, new), (0, all));
    chat.leave();
}

/// Nothing that was typed or read for a message is lost when it is refused.
#[test]
fn a_refused_message_and_its_files_are_kept() {
    let home = Folder::new("refused");
    let file = home.file("note", b"The code word is swordfish.\n");
    let Some(mut chat) = chat(&["-n", "12", "-c", "100"], (60, 200), &[]) else { return };
    chat.ask(&format!("/read {}", file.display()), "Goes before your next message");
    let long = format!("What is the code word? {}", "now ".repeat(80));
    chat.line(long.trim_end());
    chat.wait("the refusal", |text| {
        text.contains("this message alone is too long for the context")
            && text.contains(
                "[/regen sends it again, /edit changes it; /read none lets go of what was read for it]",
            )
    });
    chat.wait_prompt();
    chat.ask("/history", "system> ");
    assert!(!chat.text().contains("swordfish"), "{}", chat.text());
    chat.ask("/context", "wait for your next message (/read)");
    // All of it is there to be shortened.
    chat.line("/edit");
    chat.wait("the message", |text| text.matches("now now now").count() > text.matches("> What").count());
    chat.keys(&"\u{7f}".repeat(" now".len() * 80));
    chat.reply("> What is the code word?", "", "ordfish");
    chat.ask("/history", "The code word is swordfish.");
    let context = chat.text();
    chat.ask("/context", "left");
    assert!(!chat.text()[context.len()..].contains("wait for your next message"), "it is sent once");
    chat.ask(&format!("/read {}", file.display()), "Goes before your next message");
    chat.ask("/read none", "Nothing goes before your next message.");
    let context = chat.text();
    chat.ask("/context", "left");
    assert!(!chat.text()[context.len()..].contains("wait for your next message"), "it is let go");
    chat.leave();
}

/// A message that was refused is the last one: `/regen` sends it again, `/edit` changes it, and what it was to replace
/// stays until it is answered.
#[test]
fn a_refused_message_is_the_one_to_answer_and_to_change() {
    let Some(mut chat) = chat(&["-n", "12", "-c", "160"], (120, 200), &[]) else { return };
    chat.ask("What is the capital of France?", "Paris");
    let too_long = "this message alone is too long for the context";
    let advice = "[/regen sends it again, /edit changes it]";
    let long = format!("Count {}", "now ".repeat(180));
    let long = long.trim_end();
    let n = |chat: &Terminal| chat.text().matches(too_long).count();
    let refused = |chat: &mut Terminal, line: &str| {
        let before = n(chat);
        chat.line(line);
        chat.wait("the refusal", |text| text.matches(too_long).count() > before);
        chat.wait_prompt();
        assert!(chat.text().trim_end_matches("> ").trim_end().ends_with(advice), "{}", chat.text());
    };
    refused(&mut chat, long);
    refused(&mut chat, "/regen");
    chat.line("/edit");
    chat.wait("the message", |text| text.matches("> Count now").count() == 2);
    chat.keys("\u{3}");
    chat.wait_prompt();
    chat.ask("/set ctx-size 600", "ctx-size is 600 now.");
    chat.ask("/regen", "Paris");
    chat.ask("/history", "Paris");
    assert_eq!(chat.text().matches("> Count now").count(), 3, "{}", chat.text());

    // In the place of an answered one: that stays, and is replaced when there is an answer.
    refused(&mut chat, &format!("/edit {}", "soon ".repeat(700).trim_end()));
    chat.ask("/history", "Paris");
    assert_eq!(chat.text().matches("> Count now").count(), 4, "{}", chat.text());
    chat.ask("/edit And of Italy?", "Rome");
    chat.ask("/history", "> And of Italy?");
    let text = chat.text();
    let history = text.rsplit_once("> /history").expect("typed").1;
    assert!(history.matches("\n> ").count() == 3 && !history.contains("Count now"), "{history}");
    // One that was taken back cannot be replaced any more.
    refused(&mut chat, &format!("/edit {}", "soon ".repeat(700).trim_end()));
    chat.ask("/undo", "Taken back: 1 message, from \"And of Italy?\" on.");
    chat.ask("/edit And of Spain?", "Madrid");
    chat.ask("/undo 9", "Taken back: 2 messages, from \"What is the capital");
    chat.leave();
}

#[test]
fn damaged_sessions_are_refused_in_one_line() {
    let home = Folder::new("damaged sessions");
    let Some(ran) = piped(&home, &[], "What is the capital of France?\n/save one\n") else { return };
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let file = home.path().join("lapwing/sessions/one.session");
    let mut bytes = std::fs::read(&file).expect("the session");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&file, bytes).expect("it can be written");
    let ran = piped(&home, &["--resume", "one"], "").expect("the model is here");
    assert_eq!(ran.code, Some(3));
    assert!(
        ran.err.lines().count() == 1 && ran.err.contains("one.session") && ran.err.contains("damaged"),
        "{}",
        ran.err
    );
    let ran = piped(&home, &["--resume", "none"], "").expect("the model is here");
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    let ran = piped(&home, &[], "/load one\n/sessions\n").expect("the model is here");
    assert!(ran.code == Some(0) && ran.err.contains("damaged") && ran.out.contains("damaged"), "{}", ran.out);
}

/// Kills the program at any moment of a chat that saves all the time, and takes the session up again: it is as before
/// or after a turn, and what the model says next is what it would have said. `LAPWING_KILLS` sets how often.
#[test]
fn killed_at_any_moment_a_session_is_the_old_or_the_new_one() {
    let messages = ["What is the capital of France?", "And of Italy?", "And of Spain?"];
    let script = |from: usize| {
        let turns: String = messages[from..].iter().map(|text| format!("{text}\n/save s\n")).collect();
        format!("/set save-cache on\n{turns}/save s\n/history\n")
    };
    let home = Folder::new("whole");
    let Some(whole) = piped(&home, &["--autosave"], &format!("/save s\n{}", script(0))) else { return };
    let told = |ran: &Ran| ran.out.rsplit("system> ").next().unwrap_or_default().to_owned();
    let expected = told(&whole);
    assert!(
        expected.contains("Paris") && expected.contains("Rome") && expected.contains("Madrid"),
        "{expected}"
    );

    let kills = std::env::var("LAPWING_KILLS").map_or(6, |n| n.parse::<usize>().expect("a number of kills"));
    let model = smollm2().and_then(Path::to_str).expect("it was here");
    let args = [&["chat", model][..], &SYSTEM, &["--autosave"]].concat();
    let start = |home: &Folder| {
        let mut child = command(&args)
            .env("XDG_DATA_HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut stdin = child.stdin.take().expect("piped");
        std::io::Write::write_all(&mut stdin, format!("/save s\n{}", script(0)).as_bytes())
            .expect("it reads");
        child
    };
    let home = Folder::new("timed");
    let begun = Instant::now();
    start(&home).wait().expect("it ends");
    let whole = begun.elapsed();
    let mut seen = [0; 4];
    for i in 0..kills {
        let home = Folder::new("killed");
        let mut child = start(&home);
        // Moments spread over the run, closer to each other the more there are.
        std::thread::sleep(whole.mul_f64((i as f64 + 0.5) / kills as f64));
        drop(child.kill());
        child.wait().expect("it ends");
        let saved = home.path().join("lapwing/sessions/s.session").exists();
        let resume = if saved { &["--resume", "s"][..] } else { &[] };
        let before = piped(&home, resume, "/history\n").expect("the model is here");
        assert_eq!((before.code, before.err.as_str()), (Some(0), ""), "kill {i}");
        let turns = before.out.matches("\n> ").count();
        assert!(expected.starts_with(told(&before).trim_end()) || turns == 0, "kill {i}: {}", before.out);
        seen[turns] += 1;
        let after = piped(&home, resume, &script(turns)).expect("the model is here");
        assert_eq!(after.err, "", "kill {i}");
        assert_eq!(told(&after), expected, "kill {i} after {turns} turns");
        // What the killed one left behind is gone.
        let left = std::fs::read_dir(home.path().join("lapwing/sessions")).expect("sessions").count();
        assert_eq!(left, 1, "kill {i}");
    }
    eprintln!("killed {kills} times; turns found: {seen:?}");
}

#[test]
fn a_full_context_drops_summarises_or_stops_as_asked() {
    let home = Folder::new("full");
    let talk = format!("Tell me a story about a bird.\n{}/history\n/context\n", "Go on.\n".repeat(5));
    let full = |policy: &str| piped(&home, &["-c", "224", "-n", "40", "--when-full", policy], &talk);
    let Some(ran) = full("drop") else { return };
    assert!(ran.code == Some(0) && ran.err.is_empty(), "{}", ran.err);
    assert!(ran.out.contains("no longer shown to the model; /history still has all]"), "{}", ran.out);
    let history = ran.out.rsplit("system> ").next().unwrap_or_default();
    assert!(
        history.contains("> Tell me a story")
            && history.contains("[what is above, the model is no longer shown]")
    );

    let ran = full("summarise").expect("the model is here");
    assert!(ran.code == Some(0) && ran.out.contains("[a summary instead of the oldest"), "{}", ran.out);
    assert!(ran.out.contains("[This is what we talked about before:"), "{}", ran.out);

    for policy in ["stop", "ask"] {
        let ran = full(policy).expect("the model is here");
        assert_eq!(ran.code, Some(0));
        assert!(
            ran.out.contains("[not sent]") || ran.err.contains("this message was not sent"),
            "{}",
            ran.out
        );
        assert!(ran.out.matches("> Go on.").count() < 5, "what was not sent is not in the conversation");
    }
    let ran = piped(&home, &["-c", "96", "--ignore-eos"], "Tell me a story about a bird.\n")
        .expect("the model is here");
    assert!(ran.err.contains("the context of 96 tokens is full: the answer is cut"), "{}", ran.err);
    assert!(ran.out.contains("[the context is 100% full; /context says of what]"), "{}", ran.out);
    let long = format!("{}\n/history\n", "word ".repeat(200));
    let ran = piped(&home, &["-c", "160", "--when-full", "drop"], &long).expect("the model is here");
    assert!(ran.err.contains("this message alone is too long for the context"), "{}", ran.err);
}

#[test]
fn a_person_is_asked_what_a_full_context_should_lose() {
    let Some(mut chat) = chat(&["-c", "224", "-n", "40"], (200, 100), &[]) else { return };
    chat.ask("Tell me a story about a bird.", "[cut");
    let go_on_until = |chat: &mut Terminal, word: &str| {
        for _ in 0..9 {
            let cuts = chat.text().matches("[cut").count();
            chat.line("Go on.");
            chat.wait("an answer, or more", |text| {
                text.contains(word) || text.matches("[cut").count() > cuts
            });
            if chat.text().contains(word) {
                return;
            }
            chat.wait_prompt();
        }
        panic!("nine messages, and no {word:?}: {}", chat.text());
    };
    go_on_until(&mut chat, "d, s or Enter?");
    assert!(chat.text().contains("The context is full"), "{}", chat.text());
    chat.reply("d, s or Enter? ", "", "[not sent]");
    // The message is not lost.
    chat.line("/edit");
    chat.wait_line("> Go on.");
    chat.keys("\r");
    chat.reply("d, s or Enter? ", "d", "no longer shown to the model");
    chat.ask("/set when-full summarise", "is summarise now.");
    go_on_until(&mut chat, "[a summary instead of the oldest");
    chat.wait_prompt();
    chat.leave();
}
