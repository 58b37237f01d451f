//! `lapwing perplexity` on a real model.
use super::common::{Folder, lapwing, smollm2};

#[test]
fn adapters_count() {
    let Some(model) = smollm2().and_then(|model| model.to_str()) else { return };
    let folder = Folder::new("perplexity");
    let ppl = |text: &std::path::Path, more: &[&str]| {
        let args = ["perplexity", model, "-f", text.to_str().unwrap(), "-c", "128", "--chunks", "2"];
        lapwing(&[&args[..], &["-o", "json"], more].concat())
    };
    let words = folder.file("words", "some words ".repeat(300).as_bytes());
    let missing = ppl(&words, &["--lora", "no such adapter"]);
    assert_eq!(missing.code, Some(3), "{}", missing.err);
    let Some(shared) = std::env::var_os("LAPWING_SHARED") else { return };
    let golden = std::path::Path::new(&shared).join("golden");
    let (text, adapter) = (golden.join("eval.txt"), golden.join("lora/bard-f16.gguf"));
    if !adapter.is_file() {
        return;
    }
    let number = |more: &[&str]| {
        let ran = ppl(&text, more);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let report: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
        report["ppl"].as_f64().expect("a perplexity")
    };
    let adapter = adapter.to_str().expect("a test path");
    let plain = number(&[]);
    let with = number(&["--lora", adapter]);
    // The adapter was trained on text of this kind.
    assert!(with < 0.95 * plain, "{with} with the adapter, {plain} without");
    assert_eq!(number(&["--lora", &format!("{adapter}=0")]), plain);
}
