//! Stacks written as one adapter or into the weights, on models and adapters of random numbers.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use lapwing::divergence::{Divergence, Tuned, divergence};
use lapwing::engine::team;
use lapwing::synthetic;
use lapwing_kernels::TensorType;
use lapwing_kernels::isa::Isa;
use lapwing_kernels::team::Team;
use lapwing_models::gguf::Writer;
use lapwing_models::lora::{Adapter, Stack, cosine};
use lapwing_models::model::{Model, OpenOptions};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// Standard output of a run that must succeed.
fn lapwing(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_lapwing")).args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&lapwing(&[args, &["-o", "json"]].concat())).unwrap()
}

/// An adapter on the embedding and on the output.
fn of_both_ends(path: &Path, model: &Model) -> Adapter {
    let (width, vocab) = (model.spec().width, model.spec().vocab);
    let tensors = [
        ("token_embd.weight.lora_a", [2, vocab]),
        ("token_embd.weight.lora_b", [2, width]),
        ("output.weight.lora_a", [width, 3]),
        ("output.weight.lora_b", [3, vocab]),
    ];
    let mut writer = Writer::new(path);
    writer.set("general.architecture", model.spec().architecture);
    writer.set("general.type", "adapter").set("adapter.type", "lora");
    for (name, shape) in tensors {
        writer.tensor(name, TensorType::F32, &shape).unwrap();
    }
    let mut stream = writer.start().unwrap();
    for (seed, (_, shape)) in tensors.iter().enumerate() {
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 5045.0 - 0.1;
        let bytes: Vec<u8> = (0..shape[0] * shape[1]).flat_map(|i| value(i).to_le_bytes()).collect();
        stream.write(&bytes).unwrap();
    }
    stream.finish().unwrap();
    Adapter::open(path).unwrap()
}

/// Three adapters with scales.
fn adapters(folder: &TempDir, shape: &str, model: &Model) -> Vec<(Adapter, f32)> {
    let of_layers = |rank, seed| synthetic::adapter(&format!("{shape}:f32"), rank, seed).unwrap();
    vec![
        (of_layers(3, 1), 0.7),
        (of_layers(5, 2), -0.5),
        (of_both_ends(&folder.path().join("ends.gguf"), model), 1.5),
    ]
}

fn stack(model: &Model, team: &Team, adapters: &[(Adapter, f32)]) -> Stack {
    let mut stack = Stack::default();
    for (adapter, scale) in adapters {
        let fitted = model.fit(adapter.clone(), TensorType::F32, team).unwrap();
        stack.add(&adapter.name, Arc::new(fitted), *scale).unwrap();
    }
    stack
}

fn tuned<'a>(model: &'a Model, stack: &'a Stack) -> Tuned<'a> {
    Tuned { model, stack }
}

fn compare(team: &Team, p: Tuned<'_>, q: Tuned<'_>) -> Divergence {
    let tokens: Vec<u32> = (0..70).map(|i| 200 + i * 31 % 700).collect();
    divergence(team, p, q, &tokens, 0, |_, _| true).unwrap()
}

#[test]
fn an_exported_stack_computes_what_the_stack_does() {
    for shape in ["tiny-llama3", "tiny-qwen2", "tiny-gemma3", "tiny-phi3"] {
        let folder = tempdir().unwrap();
        let model = synthetic::model(&format!("{shape}:f32"), 1, 1).unwrap();
        let team = team(1, Isa::best()).unwrap();
        let adapters = adapters(&folder, shape, &model);
        let whole = stack(&model, &team, &adapters);
        let combined = model.combine(&adapters).unwrap();
        let (file, peft) = (folder.path().join("all.gguf"), folder.path().join("all"));
        combined.write_gguf(&team, &file, TensorType::F32).unwrap();
        combined.write_peft(&team, &peft, TensorType::F32).unwrap();
        let none = Stack::default();
        assert!(
            compare(&team, tuned(&model, &whole), tuned(&model, &none)).mean() > 0.05,
            "{shape}: the stack changes much"
        );
        for path in [&file, &peft] {
            let one = Adapter::open(path).unwrap();
            assert!(one.deltas["blk.1.ffn_down.weight"].rank == 8 && one.deltas["output.weight"].rank == 3);
            let one = stack(&model, &team, &[(one, 1.0)]);
            let found = compare(&team, tuned(&model, &whole), tuned(&model, &one));
            // The same sums in another order, in a cache of f16. A scale that is 1% wrong makes some 1e-5.
            assert!(found.max() < 1e-6, "{shape}, {}: {}", path.display(), found.max());
        }
        let [gguf, peft] = [file, peft].map(|path| Adapter::open(&path).unwrap());
        assert!((cosine(&gguf, &peft, Some(&model)).unwrap() - 1.0).abs() < 1e-6, "{shape}");
    }
}

#[test]
fn a_merged_stack_computes_what_the_stack_does() {
    // One with an output of its own, and two where it is the embedding.
    for shape in ["tiny-llama3", "tiny-qwen2", "tiny-gemma3"] {
        let folder = tempdir().unwrap();
        let (base, out) = (folder.path().join("base.gguf"), folder.path().join("merged.gguf"));
        let [base, out] = [&base, &out].map(|path| path.to_str().unwrap());
        lapwing(&["synth", &format!("{shape}:f32"), base, "-q"]);
        let model = Model::open(base, &OpenOptions::default()).unwrap();
        let team = team(1, Isa::best()).unwrap();
        let adapters = adapters(&folder, shape, &model);
        let mut loras = Vec::new();
        for (i, seed) in [1, 2].into_iter().enumerate() {
            let path = folder.path().join(format!("{i}.gguf"));
            let (rank, seed) = ((3 + 2 * i).to_string(), seed.to_string());
            let args =
                ["synth", &format!("{shape}:f32"), path.to_str().unwrap(), "--lora", &rank, "--seed", &seed];
            lapwing(&args);
            loras.extend(["--lora".to_owned(), format!("{}={}", path.display(), adapters[i].1)]);
        }
        loras.extend(["--lora".to_owned(), format!("{}=1.5", folder.path().join("ends.gguf").display())]);
        let loras: Vec<&str> = loras.iter().map(String::as_str).collect();
        let merge = |ty: &str| {
            json(&[&["lora", "merge", base, out, ty, "--tokens", "48", "-t", "1"][..], &loras].concat())
        };

        let report = merge("f32");
        let number = |report: &Value, key: &str| report[key].as_f64().unwrap();
        assert!(number(&report, "kld_mean") < 1e-6 && number(&report, "kld_mean_base") > 0.01, "{report}");
        assert_eq!(number(&report, "tokens"), 48.0);
        let merged = Model::open(out, &OpenOptions::default()).unwrap();
        assert!(!merged.weights().tied, "the embedding and the output are changed in different ways");
        let (none, whole) = (Stack::default(), stack(&model, &team, &adapters));
        let found = compare(&team, tuned(&model, &whole), tuned(&merged, &none));
        assert!(found.max() < 1e-5, "{shape}: {}", found.max());

        let losses: Vec<f64> = ["q8_0", "q5_1", "q4_0"].map(|ty| number(&merge(ty), "kld_mean")).into();
        assert!(losses[0] > 1e-6 && losses[0] < losses[1] && losses[1] < losses[2], "{shape}: {losses:?}");
    }
}

#[test]
fn what_a_stack_does_not_change_is_not_rounded_again() {
    let folder = tempdir().unwrap();
    let [base, lora, out] = ["base.gguf", "lora.gguf", "out.gguf"].map(|name| folder.path().join(name));
    let [base, lora, out] = [&base, &lora, &out].map(|path| path.to_str().unwrap());
    lapwing(&["synth", "tiny-llama:q8_0", base, "-q"]);
    lapwing(&["synth", "tiny-llama:f16", lora, "--lora", "2", "-q"]);
    lapwing(&["lora", "merge", base, out, "q4_0", "--lora", lora, "--tokens", "0", "-q"]);
    let [base, out] = [base, out].map(|path| Model::open(path, &OpenOptions::default()).unwrap());
    let tensor =
        |model: &Model, name: &str| model.gguf().tensor(name).map(|t| (t.ty, t.data.to_vec())).unwrap();
    for same in ["token_embd.weight", "output.weight", "blk.0.attn_norm.weight"] {
        assert_eq!(tensor(&base, same), tensor(&out, same), "{same}");
    }
    assert_eq!(tensor(&out, "blk.0.attn_q.weight").0, TensorType::Q4_0);
}

#[test]
fn inspect_tells_fit_likeness_and_problems() {
    let folder = tempdir().unwrap();
    let names = ["base.gguf", "one.gguf", "two.gguf", "other.gguf"].map(|name| folder.path().join(name));
    let [base, one, two, other] = names.each_ref().map(|path| path.to_str().unwrap());
    lapwing(&["synth", "tiny-llama:q4_0", base, "-q"]);
    for (path, shape, seed) in
        [(one, "tiny-llama:f16", "1"), (two, "tiny-llama:f16", "2"), (other, "tiny-qwen2:f16", "3")]
    {
        lapwing(&["synth", shape, path, "--lora", "4", "--seed", seed, "-q"]);
    }
    let exported = folder.path().join("peft");
    let exported = exported.to_str().unwrap();
    lapwing(&["lora", "export", base, exported, "--lora", &format!("{one}=-2"), "-q"]);
    let report = json(&["lora", "inspect", one, two, exported, "--model", base, "--tensors"]);
    let adapters = report["adapters"].as_array().unwrap();
    assert!(
        adapters.iter().all(|a| a["fits"] == true && a["problems"].as_array().unwrap().is_empty()),
        "{report}"
    );
    assert_eq!(adapters[0]["tensors"][0]["rank"], 4);
    let cosines: Vec<f64> =
        report["cosines"].as_array().unwrap().iter().map(|c| c["cosine"].as_f64().unwrap()).collect();
    // Two of random numbers have nothing in common; the export of one with scale -2 is its opposite.
    assert!(
        cosines[0].abs() < 0.02 && (cosines[1] + 1.0).abs() < 1e-4 && cosines[2].abs() < 0.02,
        "{cosines:?}"
    );

    // Without the model it is not known how the rows of a GGUF relate to those of a PEFT adapter.
    let report = json(&["lora", "inspect", one, exported]);
    assert!(report["cosines"][0]["cosine"].is_null() && report["adapters"][0]["fits"].is_null(), "{report}");

    let args = ["lora", "inspect", one, other, "--model", base];
    let out = Command::new(env!("CARGO_BIN_EXE_lapwing")).args(args).output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("fits          yes") && text.contains("fits          no: "), "{text}");
}
