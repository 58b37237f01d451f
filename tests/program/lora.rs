//! The stack of adapters in a chat: adapters of random numbers on a real model.
use super::chat::{chat, read};
use super::common::{Folder, lapwing};
use super::terminal::Terminal;

/// The last answer, as the conversation has it.
fn answer(chat: &mut Terminal, dump: &std::path::Path) -> String {
    drop(std::fs::remove_file(dump));
    chat.ask(&format!("/dump {}", dump.display()), "turns");
    let text = std::fs::read_to_string(dump).expect("just written");
    text.rsplit_once("assistant: ").expect("an answer").1.to_owned()
}

/// Has `/regen` answer again; gives the answer and how many tokens were read for it.
fn again(chat: &mut Terminal, dump: &std::path::Path) -> (String, usize) {
    chat.ask("/regen", "[cut: ");
    (answer(chat, dump), read(chat).2)
}

#[test]
fn stacks_change_between_answers_and_come_back() {
    let folder = Folder::new("chat-lora");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (one, two, dump) = (path("one.gguf"), path("two.gguf"), folder.path().join("dump.txt"));
    for (path, seed) in [(&one, "1"), (&two, "2")] {
        let made = lapwing(&["synth", "smollm2-135m:f16", path, "--lora", "8", "--seed", seed, "-q"]);
        assert_eq!(made.code, Some(0), "{}", made.err);
    }
    let data = [("XDG_DATA_HOME", folder.path().to_str().expect("UTF-8"))];
    // The model is found by its path, so that its folder may be another.
    let Some(mut chat) = chat(&["-n", "8", "--ignore-eos"], (400, 100), &data) else { return };
    chat.ask("/lora", "no adapters");
    chat.ask("What is the capital of France?", "[cut: ");
    let base = answer(&mut chat, &dump);
    assert!(base.contains("Paris"), "{base}");

    // Paths are completed, and a scale follows.
    chat.keys(&format!("/lora add {}", &one[..one.len() - 7]));
    chat.keys("\t");
    chat.wait("the path", |text| text.contains("one.gguf"));
    chat.line(" 5");
    chat.wait("the adapter", |text| {
        text.contains("one added with scale 5: from the next answer on, after reading")
    });
    chat.wait_prompt();
    let (of_one, n) = again(&mut chat, &dump);
    assert!(of_one != base && n > 20, "{of_one}: {n} read");
    chat.ask(&format!("/lora add {two} 5"), "two added with scale 5: from the next answer on, after reading");
    let (of_both, n) = again(&mut chat, &dump);
    assert!(of_both != of_one && n > 20, "{of_both}: {n} read");

    // Back to stacks of before: nothing is read, and the answers are those of before.
    chat.keys("/lora rm t\t");
    chat.wait_line("> /lora rm two");
    chat.keys("\u{15}");
    chat.ask("/lora rm two", "two removed: from the next answer on, with what this stack had read before");
    assert_eq!(again(&mut chat, &dump), (of_one.clone(), 0));
    chat.ask("/lora off", "adapters off: from the next answer on, with what");
    assert_eq!(again(&mut chat, &dump), (base, 0));
    chat.ask("/lora", "off: the base answers alone");
    chat.ask("/lora on", "adapters on");
    assert_eq!(again(&mut chat, &dump), (of_one.clone(), 0));

    chat.ask("/lora save mine", "1 adapter saved as mine");
    chat.ask("/lora scale one -0.5", "one has scale -0.5: from the next answer on, after reading");
    chat.ask("/lora load mine", "mine with 1 adapter: from the next answer on, with what");
    assert_eq!(again(&mut chat, &dump), (of_one, 0));
    chat.ask("/lora", "one   5      8     2.67 MB");

    chat.ask("/lora compare Name a colour.", "KL(stack‖base)");
    let text = chat.text();
    assert!(text.contains("base") && text.contains(" │ stack"), "{text}");

    for (typed, word) in [
        ("/lora rm three", "no adapter is called three: expected one, got three"),
        ("/lora scale one", "which adapter, and how strong?"),
        ("/lora scale one x", "expected a number such as 0.7, got x"),
        ("/lora add /nowhere", "/nowhere: no such file"),
        ("/lora load other", "no stack other; there are: mine"),
        ("/lora save ../x", "not a name for a stack"),
        ("/lora compare", "compare on what?"),
        ("/lora ad x", "/lora takes nothing after it"),
    ] {
        chat.ask(typed, word);
    }
    // An adapter that is no longer the one that was saved is told, unless it is in memory.
    std::fs::copy(&two, &one).expect("a copy");
    chat.ask("/lora load mine", "mine with 1 adapter");
    chat.ask("/lora rm one", "one removed");
    chat.ask("/lora load mine", "is not the one that was saved");
    chat.leave();
}
