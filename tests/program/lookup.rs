//! Guessing ahead: faster where answers quote, and never another answer.
use serde_json::Value;

use super::common::{command, run, smollm2};

const TEXT: &str = "The Northern Lapwing is a bird in the plover family. It is common through temperate Eurosiberia. It is \
    highly migratory over most of its extent, wintering further south as far as North Africa, northern India, and parts \
    of China. It migrates mainly by day, often in large flocks. Lowland breeders in westernmost areas of Europe are \
    resident. It occasionally is a vagrant to North America, especially after storms.";

#[test]
fn guesses_never_change_an_answer() {
    let Some(model) = smollm2().and_then(std::path::Path::to_str) else { return };
    let quote = format!("Repeat this text word for word:\n\n{TEXT}");
    let list = "List the numbers from one to forty, each followed by the words \"little birds\".";
    let code = "Write a Python class with ten methods that each return the name of a month.";
    let mut right = 0;
    for (prompt, sampling) in [
        (quote.as_str(), &["--temp", "0"][..]),
        (list, &["--temp", "0"]),
        (code, &["--temp", "0"]),
        ("Tell me about Rome.", &["--temp", "0", "--repeat-penalty", "1.1"]),
        // Chosen by chance, but from the same logits and the same random numbers.
        (quote.as_str(), &["--seed", "3"]),
        (list, &["--seed", "4", "--mirostat", "2"]),
    ] {
        let answer = |more: &[&str]| -> Value {
            let args = [&["run", model, "-p", prompt, "-n", "100", "-o", "json"], sampling, more].concat();
            let ran = run(&mut command(&args), b"");
            serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.err))
        };
        let (plain, guessed) = (answer(&[]), answer(&["--lookup"]));
        for key in ["tokens", "text", "stop", "n_gen"] {
            assert_eq!(plain[key], guessed[key], "{prompt} {sampling:?}");
        }
        let (n, n_right) = (&guessed["n_guessed"], &guessed["n_guessed_right"]);
        println!("{n_right} of {n} guesses for {} tokens", guessed["n_gen"]);
        right += n_right.as_u64().unwrap_or(0);
    }
    assert!(right > 60, "guessing never came into play: {right}");
}

/// The last places of a context are used up the same way.
#[test]
fn a_full_context_ends_at_the_same_token() {
    let Some(model) = smollm2().and_then(std::path::Path::to_str) else { return };
    let answer = |more: &[&str]| -> Value {
        let prompt = "All work and no play makes Jack a dull boy.\n".repeat(3);
        let args = ["run", model, "--raw", "-p", &prompt, "-c", "96", "-o", "json"];
        let ran = run(&mut command(&[&args[..], &["--ignore-eos", "--temp", "0"], more].concat()), b"");
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.err))
    };
    let (plain, guessed) = (answer(&[]), answer(&["--lookup"]));
    assert_eq!((&plain["tokens"], &plain["stop"]), (&guessed["tokens"], &guessed["stop"]));
    assert_eq!(plain["stop"], "context");
    assert!(guessed["n_guessed_right"].as_u64() > Some(2), "{guessed}");
}
