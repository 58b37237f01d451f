//! The commands that read and write model files, on the real program.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output};

use lapwing_kernels::TensorType;
use lapwing_kernels::format::decode_row;
use lapwing_kernels::isa::Isa;
use lapwing_kernels::team::Team;
use lapwing_models::gguf::{Gguf, OpenOptions, Value};
use lapwing_models::lora::Adapter;
use lapwing_models::model::Model;
use lapwing_models::synth::Shape;
use serde_json::Value as Json;
use tempfile::{TempDir, tempdir};

/// A path in a folder.
fn in_folder(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// Names of what is in a folder, in order.
fn names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn lapwing(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lapwing")).args(args).output().unwrap()
}

/// Standard output of a run that must succeed without a word on stderr.
fn ok(args: &[&str]) -> String {
    let out = lapwing(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && stderr.is_empty(), "{args:?}: {:?} {stderr}", out.status);
    String::from_utf8(out.stdout).unwrap()
}

/// Exit code and the one line on stderr of a run that must fail.
fn fails(args: &[&str]) -> (i32, String) {
    let out = lapwing(args);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(out.stdout.is_empty() && stderr.lines().count() == 1, "{args:?}: {stderr}");
    (out.status.code().unwrap(), stderr)
}

fn open(path: &str) -> Gguf {
    Gguf::open(path, &OpenOptions::default()).unwrap()
}

#[test]
fn synthetic_models_of_every_small_shape_open() {
    let folder = tempdir().unwrap();
    for shape in Shape::names().filter(|n| n.starts_with("tiny-")) {
        for ty in ["f32", "q4_0", "q4_k_m", "iq4_xs", "bf16"] {
            let path = in_folder(&folder, "m.gguf");
            ok(&["synth", &format!("{shape}:{ty}"), &path]);
            let model =
                Model::open(&path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{shape}: {e}"));
            assert_eq!(model.spec().vocab, model.tokenizer().n_vocab());
            // Any text can be encoded, and decoded again.
            let text = "The quick brown fox, 17 naïve ☃ and\ttabs\n";
            let ids = model.tokenizer().encode(text, false);
            assert!(!ids.is_empty() && ids.len() <= text.len() + 1, "{shape}: {} tokens", ids.len());
            assert!(model.chat_template_source().unwrap().is_some());
        }
    }
}

#[test]
fn options_change_the_shape() {
    let folder = tempdir().unwrap();
    let path = in_folder(&folder, "m.gguf");
    let with =
        "layers=2,kv_heads=1,head_dim=32,rope=yarn:8,original_context=256,bias=qkv,vocab=700,tied=true";
    ok(&["synth", "tiny-llama:q8_0", &path, "--with", with]);
    let model = Model::open(&path, &OpenOptions::default()).unwrap();
    let spec = model.spec();
    assert_eq!((spec.layers.len(), spec.heads, spec.kv_heads, spec.head_dim, spec.vocab), (2, 4, 1, 32, 700));
    assert!(format!("{:?}", spec.ropes[0].scaling).contains("Yarn { factor: 8.0, original_context: 256"));
    assert!(
        model.gguf().tensor("output.weight").is_none() && model.gguf().tensor("blk.1.attn_k.bias").is_some()
    );
    for (with, place) in [
        ("layers=0", "layers"),
        ("kv_heads=3", "kv_heads"),
        ("colour=1", "unknown option"),
        ("layers", "OPTION=VALUE"),
    ] {
        let (code, line) = fails(&["synth", "tiny-llama:q8_0", &path, "--with", with]);
        assert_eq!(code, 2, "{line}");
        assert!(line.contains(place), "{line}");
    }
    for (name, word) in [("tiny-llama", "SHAPE:TYPE"), ("tiny-llama:q9", "q4_k_m"), ("tiny:q8_0", "llama-7b")]
    {
        let (code, line) = fails(&["synth", name, &path]);
        assert!(code == 2 && line.contains(word), "{line}");
    }
}

#[test]
fn the_seed_and_nothing_else_decides_the_bytes() {
    let folder = tempdir().unwrap();
    let make = |name: &str, extra: &[&str]| {
        let path = in_folder(&folder, name);
        ok(&[&["synth", "tiny-qwen2:q5_k", &path], extra].concat());
        std::fs::read(path).unwrap()
    };
    let one = make("a", &["--seed", "5", "-t", "1"]);
    assert!(one == make("b", &["--seed", "5", "-t", "3"]));
    assert!(one != make("c", &["--seed", "6", "-t", "1"]));
}

#[test]
fn split_models_hold_what_the_whole_one_does() {
    let folder = tempdir().unwrap();
    let whole = in_folder(&folder, "m.gguf");
    ok(&["synth", "tiny-gemma3:q4_k_m", &whole]);
    let whole = open(&whole);
    for (option, value, parts) in [("--split", "3", 3), ("--split-max-size", "1M", 4)] {
        let out = in_folder(&folder, "s.gguf");
        let json: Json =
            serde_json::from_str(&ok(&["synth", "tiny-gemma3:q4_k_m", &out, option, value, "-o", "json"]))
                .unwrap();
        let files = json["files"].as_array().unwrap();
        assert_eq!(files.len(), parts, "{option}");
        let split = open(files[1].as_str().unwrap());
        assert_eq!(split.n_tensors(), whole.n_tensors());
        for (a, b) in whole.tensors().zip(split.tensors()) {
            assert!(a.name == b.name && a.ty == b.ty && a.shape == b.shape && a.data == b.data, "{}", a.name);
        }
        // Quantising puts it together again.
        let joined = in_folder(&folder, "joined.gguf");
        ok(&["quantize", files[0].as_str().unwrap(), &joined, "q4_k_m"]);
        let joined = open(&joined);
        assert!(joined.get("split.count").is_none());
        assert!(whole.tensors().zip(joined.tensors()).all(|(a, b)| a.data == b.data));
        files.iter().for_each(|f| std::fs::remove_file(f.as_str().unwrap()).unwrap());
    }
}

#[test]
fn f32_is_exact_and_other_types_are_near() {
    let folder = tempdir().unwrap();
    let source = in_folder(&folder, "m.gguf");
    ok(&["synth", "tiny-llama3:q4_k_m", &source]);
    let source_gguf = open(&source);
    let mut exact = Vec::new();
    for (ty, file_type, most) in [
        ("f32", 0, 0.0),
        ("f16", 1, 1e-3),
        ("bf16", 32, 1e-2),
        ("q8_0", 7, 1e-2),
        ("q4_0", 2, 0.12),
        ("q4_1", 3, 0.12),
        ("q5_0", 8, 0.06),
        ("q5_1", 9, 0.06),
        ("q4_k_m", 15, 0.12),
    ] {
        let path = in_folder(&folder, &format!("{ty}.gguf"));
        ok(&["quantize", &source, &path, ty]);
        let gguf = open(&path);
        assert_eq!(gguf.get_u32("general.file_type").unwrap(), file_type, "{ty}");
        for (key, value) in source_gguf.entries().filter(|(k, _)| *k != "general.file_type") {
            assert_eq!(gguf.get(key), Some(value), "{ty}: {key}");
        }
        for (a, b) in source_gguf.tensors().zip(gguf.tensors()) {
            assert_eq!((a.name, a.shape), (b.name, b.shape));
            if a.shape.len() == 1 {
                assert!(a.data == b.data && b.ty == lapwing_kernels::TensorType::F32, "{ty}: {}", a.name);
                continue;
            }
            let (a, b) = (values(&a), values(&b));
            if ty == "f32" {
                assert!(a == b);
                exact.push(a.len());
            }
            let norm = a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            let error = a.iter().zip(&b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
            let relative = (error / norm).sqrt();
            assert!(relative <= most, "{ty}: relative error {relative}");
        }
    }
    assert_eq!(exact.len(), 1 + 4 * 7);
    // There and back again: the values a type can hold survive.
    let back = in_folder(&folder, "back.gguf");
    ok(&["quantize", &in_folder(&folder, "q8_0.gguf"), &in_folder(&folder, "wide.gguf"), "f32"]);
    ok(&["quantize", &in_folder(&folder, "wide.gguf"), &back, "f32"]);
    assert!(std::fs::read(in_folder(&folder, "wide.gguf")).unwrap() == std::fs::read(back).unwrap());
}

fn values(t: &lapwing_models::gguf::Tensor<'_>) -> Vec<f32> {
    let mut out = vec![0.0; t.len()];
    for (row, out) in t.data.chunks_exact(t.data.len() / t.rows()).zip(out.chunks_exact_mut(t.cols())) {
        decode_row(t.ty, row, out);
    }
    out
}

#[test]
fn quantize_onto_its_own_source_and_onto_bad_places() {
    let folder = tempdir().unwrap();
    let path = in_folder(&folder, "m.gguf");
    ok(&["synth", "tiny-llama:f32", &path]);
    ok(&["quantize", &path, &path, "q8_0"]);
    assert_eq!(open(&path).get("general.file_type"), Some(&Value::U32(7)));
    assert_eq!(names(&folder), ["m.gguf"]);
    let (code, line) = fails(&["quantize", &path, &in_folder(&folder, "o.gguf"), "q2_k"]);
    assert!(code == 2 && line.contains("q4_0"), "{line}");
    let (code, line) = fails(&["quantize", &path, folder.path().to_str().unwrap(), "f32"]);
    assert!(code == 2 && line.contains("folder"), "{line}");
    let (code, line) = fails(&["quantize", &path, &in_folder(&folder, "no/such/o.gguf"), "f32"]);
    assert!(code == 1 && line.contains("o.gguf"), "{line}");
    let (code, line) = fails(&["quantize", &in_folder(&folder, "absent.gguf"), &path, "f32"]);
    assert!(code == 3 && line.contains("no such file"), "{line}");
    assert_eq!(names(&folder), ["m.gguf"], "failures leave nothing behind");
}

#[test]
fn weights_that_are_not_numbers_are_named() {
    let folder = tempdir().unwrap();
    let path = in_folder(&folder, "m.gguf");
    ok(&["synth", "tiny-llama:f32", &path]);
    let gguf = open(&path);
    let at = gguf.tensor("blk.2.ffn_up.weight").unwrap().data.as_ptr() as usize;
    let first = gguf.tensors().map(|t| t.data.as_ptr() as usize).min().unwrap();
    let front =
        gguf.file_bytes() as usize - gguf.tensors().map(|t| t.data.len().next_multiple_of(32)).sum::<usize>();
    drop(gguf);
    let mut bytes = std::fs::read(&path).unwrap();
    let place = front + (at - first) + 4 * (3 * 256 + 5);
    bytes[place..place + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let (code, line) = fails(&["quantize", &path, &in_folder(&folder, "o.gguf"), "q4_0"]);
    assert_eq!(code, 3);
    assert!(line.contains("blk.2.ffn_up.weight") && line.contains("NaN in row 3, column 5"), "{line}");
    // Types that can hold it keep it.
    ok(&["quantize", &path, &in_folder(&folder, "o.gguf"), "f16"]);
}

#[test]
fn a_full_disk_is_exit_4_and_leaves_nothing() {
    let folder = tempdir().unwrap();
    let disk = in_folder(&folder, "disk");
    std::fs::create_dir(&disk).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=1m none {disk} || exit 99; \
         {bin} synth tiny-llama:f32 {disk}/m.gguf; code=$?; ls -A {disk}; exit $code",
        bin = env!("CARGO_BIN_EXE_lapwing")
    );
    let out = match Command::new("unshare").args(["-rm", "sh", "-c", &script]).output() {
        Ok(out) if out.status.code() != Some(99) && out.status.code() != Some(1) => out,
        _ => {
            println!("skipped: no right to make a small disk here");
            return;
        }
    };
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("no room on the disk") && out.stdout.is_empty(), "{stderr}");
}

#[test]
fn inspect_says_what_a_model_is_and_costs() {
    let folder = tempdir().unwrap();
    let path = in_folder(&folder, "m.gguf");
    ok(&["synth", "tiny-gemma3:q4_0", &path]);
    let text = ok(&["inspect", &path]);
    for part in [
        "gemma3: 8 layers, width 256, 4 heads (1 for keys and values) of 128",
        "7 of 8 layers see a window of 48",
        "q4_0",
        "1024 tokens",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let json: Json = serde_json::from_str(&ok(&["inspect", &path, "--tensors", "-o", "json"])).unwrap();
    assert_eq!(json["spec"]["layers"], 8);
    // 2 (k and v) × 8 layers × 1 head × 128 values × 2 bytes.
    assert_eq!(json["cost"]["cache_bytes_per_position"], 2 * 8 * 128 * 2);
    let tensors = json["tensors"].as_array().unwrap();
    let sum: u64 = tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    // Tied: the embedding is read as a whole for the logits.
    assert_eq!(
        (json["cost"]["weight_bytes"].as_u64(), json["cost"]["bytes_per_token"].as_u64()),
        (Some(sum), Some(sum))
    );
    assert!(ok(&["inspect", &path, "--template"]).contains("<|im_start|>"));
    for (file, code, word) in [("absent.gguf", 3, "no such file"), ("", 3, "folder")] {
        let (got, line) = fails(&["inspect", &in_folder(&folder, file)]);
        assert!(got == code, "{line}");
        assert!(line.contains(word) || line.contains("PEFT"), "{line}");
    }
}

/// Escape codes in a name must not reach the terminal.
#[test]
fn inspect_is_safe_for_terminals() {
    let folder = tempdir().unwrap();
    let path = in_folder(&folder, "m.gguf");
    let mut writer = lapwing_models::gguf::Writer::new(&path);
    writer.set("general.architecture", "llama").set("general.name", "x\u{1b}[2J\nname fake\u{202e}\r");
    writer.set("general.license", "\u{9b}31m").set("tokenizer.chat_template", "\u{1b}]0;title\u{7}");
    writer.start().unwrap().finish().unwrap();
    for option in ["--tensors", "--template"] {
        let text = ok(&["inspect", &path, option]);
        assert!(text.chars().all(lapwing::text::is_safe), "{text:?}");
        assert!(!text.contains("\nname fake"), "{text}");
    }
    assert!(Path::new(&path).exists());
}

#[test]
fn synthetic_adapters_fit_their_shape() {
    let folder = tempdir().unwrap();
    for shape in Shape::names().filter(|n| n.starts_with("tiny-")) {
        let (base, lora) = (in_folder(&folder, "m.gguf"), in_folder(&folder, "l.gguf"));
        ok(&["synth", &format!("{shape}:q8_0"), &base]);
        ok(&["synth", &format!("{shape}:f16"), &lora, "--lora", "4", "--seed", "5"]);
        let model = Model::open(&base, &OpenOptions::default()).unwrap();
        let adapter = Adapter::open(lora.as_ref()).unwrap();
        assert!(adapter.deltas.values().all(|d| d.rank == 4 && d.scale == 1.0), "{shape}");
        let team = Team::new(1, Isa::best()).unwrap();
        model.fit(adapter, TensorType::F16, &team).unwrap_or_else(|e| panic!("{shape}: {e}"));
    }
}
