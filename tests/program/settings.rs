//! The settings file, the list of models, shell completions and manual pages.
use super::common::{Folder, command, run, smollm2};

#[test]
fn the_settings_file_names_models_and_flags_win() {
    let Some(model) = smollm2() else { return };
    let folder = Folder::new("settings");
    std::fs::create_dir(folder.path().join("lapwing")).expect("a folder");
    let path = folder.file(
        "lapwing/config.toml",
        format!(
            "model = \"bird\"\n[defaults]\nctx-size = 512\nsampling = {{ temp = 0 }}\n[models.bird]\nfile = {:?}\n\
             system = \"You are a helpful AI assistant.\"\npredict = 9\n",
            model.display()
        )
        .as_bytes(),
    );
    let chat = |args: &[&str], lines: &str| {
        let args = [&["chat"][..], args].concat();
        run(command(&args).env("XDG_CONFIG_HOME", folder.path()), lines.as_bytes())
    };
    let ran = chat(&[], "What is the capital of France?\n/show\n/system\n");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    for word in ["Paris", "of 512 tokens used", "predict 9", "temp 0", "The model is told: You are"] {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
    }
    let ran =
        chat(&["bird", "-c", "256", "-n", "5", "--temp", "0.5", "--system", "Be brief."], "/show\n/system\n");
    for word in ["of 256 tokens used", "predict 5", "temp 0.5", "The model is told: Be brief."] {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
    }
    // What is said of the model, or of all, counts wherever there is such an option.
    std::fs::write(
        &path,
        std::fs::read_to_string(&path)
            .expect("the settings")
            .replace("[models.bird]", "threads = 1\nkv-type = \"q8_0\"\n[models.bird]"),
    )
    .expect("it can be written");
    let bench = |args: &[&str]| {
        let args =
            [&["bench", "-p", "8", "-n", "0", "-r", "1", "--no-limits", "-o", "jsonl"][..], args].concat();
        let ran = run(command(&args).env("XDG_CONFIG_HOME", folder.path()), b"");
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let row: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
        (row["type_k"].as_str().expect("a type").to_owned(), row["n_threads"].as_u64())
    };
    assert_eq!(bench(&["bird"]), ("q8_0".to_owned(), Some(1)));
    assert_eq!(bench(&[]), ("q8_0".to_owned(), Some(1)), "the usual model");
    assert_eq!(bench(&["bird", "--kv-type", "f32", "-t", "2"]), ("f32".to_owned(), Some(2)));
    let answer = |args: &[&str]| {
        let args =
            [&["run", "bird", "-p", "Hello!", "--logprobs", "1", "-n", "8", "-o", "json"], args].concat();
        let ran = run(command(&args).env("XDG_CONFIG_HOME", folder.path()), b"");
        let answer: serde_json::Value =
            serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.err));
        answer["logprobs"].to_string()
    };
    assert_eq!(answer(&[]), answer(&["--kv-type", "q8_0"]));
    assert_ne!(answer(&[]), answer(&["--kv-type", "f16"]));
    let text = folder.file("text", "All work and no play makes Jack a dull boy. ".repeat(30).as_bytes());
    let perplexity = |args: &[&str]| {
        let args = [
            &[
                "perplexity",
                "bird",
                "-c",
                "64",
                "--chunks",
                "1",
                "-o",
                "json",
                "-f",
                text.to_str().expect("UTF-8"),
            ],
            args,
        ]
        .concat();
        let ran = run(command(&args).env("XDG_CONFIG_HOME", folder.path()), b"");
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.out
    };
    assert_eq!(perplexity(&[]), perplexity(&["--kv-type", "q8_0"]));
    assert_ne!(perplexity(&[]), perplexity(&["--kv-type", "f16"]));
    let list = run(command(&["models", "-o", "json"]).env("XDG_CONFIG_HOME", folder.path()), b"");
    let list: serde_json::Value = serde_json::from_str(&list.out).expect("JSON");
    let bird =
        list.as_array().and_then(|list| list.iter().find(|row| row["name"] == "bird")).expect("the model");
    assert!(
        bird["type"].as_str().is_some_and(|ty| ty.contains("llama 135M")) && bird["context"] == 8192,
        "{bird}"
    );

    std::fs::write(path, "modle = \"bird\"\n").expect("it can be written");
    let ran = chat(&[], "");
    assert_eq!(ran.code, Some(3));
    assert!(
        ran.err.contains("config.toml") && ran.err.contains("line 1") && ran.err.contains("modle"),
        "{}",
        ran.err
    );
}

#[test]
fn models_in_any_folder_are_listed_with_what_is_wrong() {
    let folder = Folder::new("list");
    folder.file("broken.gguf", b"GGUF, or not");
    folder.file("notes.txt", b"not a model");
    let ran = run(&mut command(&["models", folder.path().to_str().expect("a test path")]), b"");
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 1), "{}", ran.out);
    assert!(ran.out.starts_with("broken ") && ran.out.contains("broken.gguf"), "{}", ran.out);
}

#[test]
fn completions_and_manual_are_made() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = run(&mut command(&["completions", shell]), b"");
        assert!(ran.code == Some(0) && ran.out.contains("perplexity"), "{shell}");
    }
    let page = run(&mut command(&["man"]), b"");
    assert!(page.out.contains(".TH lapwing 1") && page.out.contains("chat"), "{}", page.out);
    let folder = Folder::new("man");
    let ran = run(&mut command(&["man", folder.path().to_str().expect("a test path")]), b"");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let chat = std::fs::read_to_string(folder.path().join("lapwing-chat.1")).expect("the page");
    assert!(chat.contains("resume") && chat.contains(".TH LAPWING-CHAT 1"), "{chat}");
}
