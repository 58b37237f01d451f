//! `lapwing run` and a chat through pipes, as scripts use them.
use serde_json::Value;

use super::common::{Folder, command, lapwing, run, smollm2};

/// Runs `lapwing run` on SmolLM2 with a fixed choice of tokens; JSON of the answer.
fn json(options: &[&str]) -> Option<Value> {
    let model = smollm2()?.to_str()?;
    let ran = lapwing(&[&["run", model, "--temp", "0", "-o", "json"], options].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(ran.out.lines().count(), 1, "one line of JSON");
    Some(serde_json::from_str(&ran.out).expect("JSON on stdout"))
}

#[test]
fn one_answer_on_stdout_and_nothing_else() {
    let Some(model) = smollm2() else { return };
    let model = model.to_str().expect("a test path");
    let args = ["--system", "You are a helpful AI assistant.", "--temp", "0"];
    let question = "What is the capital of France?";
    let by_option = lapwing(&[&["run", model, "-p", question], &args[..]].concat());
    assert_eq!((by_option.code, by_option.err.as_str()), (Some(0), ""));
    assert!(by_option.out.contains("Paris"), "{}", by_option.out);
    assert!(by_option.out.ends_with('\n') && !by_option.out.contains('\u{1b}'));
    let by_pipe =
        run(&mut command(&[&["run", model], &args[..]].concat()), format!("{question}\n").as_bytes());
    assert_eq!(by_pipe.out, by_option.out);
    let folder = Folder::new("prompt");
    let file = folder.file("question", question.as_bytes());
    let by_file = lapwing(&[&["run", model, "-f", file.to_str().unwrap()], &args[..]].concat());
    assert_eq!(by_file.out, by_option.out);
    // By name, from the folder it lies in.
    let (folder, name) = model.rsplit_once('/').expect("a path");
    let named = name.trim_end_matches(".gguf");
    let by_name = run(
        command(&[&["run", named, "-p", question], &args[..]].concat()).env("LAPWING_MODELS", folder),
        b"",
    );
    assert_eq!(by_name.out, by_option.out, "{}", by_name.err);
}

#[test]
fn json_has_the_documented_fields() {
    let Some(value) = json(&["-p", "Name a bird.", "-n", "6", "--seed", "42", "--logprobs", "3"]) else {
        return;
    };
    let tokens = value["tokens"].as_array().expect("tokens");
    assert_eq!(tokens.len(), 6);
    assert_eq!(value["n_gen"], 6);
    assert_eq!(value["stop"], "length");
    assert_eq!(value["seed"], 42);
    assert_eq!(value["n_cached"], 0);
    assert_eq!(value["n_prompt"], value["n_eval"]);
    for time in ["load", "prefill", "decode", "first_token"] {
        assert!(value["timings"][time].as_f64().is_some_and(|ms| ms > 0.0), "{time} in {value}");
    }
    let steps = value["logprobs"].as_array().expect("log-probabilities");
    assert_eq!(steps.len(), 6);
    for (step, token) in steps.iter().zip(tokens) {
        // Greedy: the chosen token is the most likely one.
        assert_eq!(&step["id"], token);
        assert_eq!(step["top"][0]["id"], *token);
        let top = step["top"].as_array().expect("the most likely");
        assert_eq!(top.len(), 3);
        assert!(top.is_sorted_by(|a, b| a["logprob"].as_f64() >= b["logprob"].as_f64()));
    }
    let joined: String = steps.iter().map(|step| step["text"].as_str().expect("text")).collect();
    assert_eq!(value["text"], joined);
}

#[test]
fn the_same_seed_gives_the_same_answer_whatever_the_threads() {
    let Some(model) = smollm2() else { return };
    let model = model.to_str().expect("a test path");
    let answer = |options: &[&str]| {
        let ran = lapwing(&[&["run", model, "-p", "Tell me a story.", "-n", "24"], options].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.out
    };
    let first = answer(&["--seed", "7", "-t", "1"]);
    assert_eq!(first, answer(&["--seed", "7", "-t", "2"]));
    assert_eq!(first, answer(&["--seed", "7", "-t", "3", "--no-mmap"]));
    assert_ne!(first, answer(&["--seed", "8"]));
}

#[test]
fn answers_end_where_they_are_told_to() {
    let args = ["--raw", "-p", "1, 2, 3, 4,", "-n", "40"];
    let Some(free) = json(&args) else { return };
    let text = free["text"].as_str().expect("text");
    assert!(text.contains("7"), "{text}");
    let value = json(&[&args[..], &["--stop", "never", "--stop", ", 7"]].concat()).expect("a model");
    assert_eq!(value["stop"], "stop");
    assert_eq!(value["text"].as_str(), text.split(", 7").next());
    let full = json(&["--raw", "-p", "1, 2, 3, 4,", "-c", "24", "--ignore-eos"]).expect("a model");
    assert_eq!(full["stop"], "context");
    // The last token chosen is not evaluated any more.
    assert_eq!(full["n_prompt"].as_u64().unwrap() + full["n_gen"].as_u64().unwrap(), 25);
}

#[test]
fn a_chat_through_a_pipe_is_plain_and_remembers() {
    let Some(model) = smollm2() else { return };
    let args = ["chat", model.to_str().expect("a test path"), "--temp", "0", "-n", "24"];
    let system = ["--system", "You are a helpful AI assistant."];
    let input = "What is the capital of France?\n\"\"\"\nAnd of\nItaly?\n\"\"\"\n/stats\n/frob\n";
    let ran = run(&mut command(&[&args[..], &system].concat()), input.as_bytes());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("Paris"), "{}", ran.out);
    assert!(
        !ran.out.contains('\u{1b}') && !ran.out.contains('\r') && !ran.out.contains("> "),
        "{:?}",
        ran.out
    );
    assert!(ran.err.contains("no command /frob"), "{:?}", ran.err);
    // "prompt      61 tokens: 44 from the cache, …"
    let line = ran.out.lines().find(|line| line.starts_with("prompt")).expect("the stats");
    let numbers: Vec<usize> =
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    let (prompt, cached, read) = (numbers[0], numbers[1], numbers[2]);
    assert_eq!(prompt, cached + read, "{line}");
    assert!(cached > read, "the first turn is not evaluated again: {line}");
}
