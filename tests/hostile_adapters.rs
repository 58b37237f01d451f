//! Adapters that must be refused, each made by a recipe and given to the real program in a process of its own with
//! little memory: a typed error that names file and tensor or setting, before the first token.
#![forbid(unsafe_code)]
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lapwing_kernels::TensorType;
use lapwing_models::gguf::{Value as Gguf, Writer};
use serde_json::{Value, json};
use tempfile::tempdir;

/// Shape of the base: width, which is also the width of q, and width of k.
const WIDTH: usize = 256;
const KV: usize = 128;
const RANK: usize = 4;

/// A tensor of a safetensors file: name, dtype, shape, bytes.
#[derive(Clone)]
struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    data: Vec<u8>,
}

/// A PEFT folder; whatever is set replaces what the tensors would give.
#[derive(Clone)]
struct Peft {
    config: Value,
    config_text: Option<String>,
    tensors: Vec<Tensor>,
    /// The whole weights file; `Some(None)` leaves it out.
    weights: Option<Option<Vec<u8>>>,
    /// Further files.
    others: Vec<(&'static str, Vec<u8>)>,
}

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

fn floats(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| (i as f32 % 7.0 * 0.01).to_le_bytes()).collect()
}

fn matrix(name: &str, rows: usize, cols: usize) -> Tensor {
    Tensor {
        name: name.into(),
        dtype: "F32",
        shape: vec![rows as u64, cols as u64],
        data: floats(rows * cols),
    }
}

impl Peft {
    fn valid() -> Self {
        Self {
            config: json!({ "peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"] }),
            config_text: None,
            tensors: vec![
                matrix(&format!("{Q}.lora_A.weight"), RANK, WIDTH),
                matrix(&format!("{Q}.lora_B.weight"), WIDTH, RANK),
            ],
            weights: None,
            others: Vec::new(),
        }
    }

    fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let text = self.config_text.clone().unwrap_or_else(|| self.config.to_string());
        std::fs::write(folder.join("adapter_config.json"), text).unwrap();
        let weights = self.weights.clone().unwrap_or_else(|| Some(safetensors(&self.tensors)));
        if let Some(weights) = weights {
            std::fs::write(folder.join("adapter_model.safetensors"), weights).unwrap();
        }
        for (name, bytes) in &self.others {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
}

/// Written by hand, so that names can occur twice.
fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut at = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|t| {
            let (start, end) = (at, at + t.data.len());
            at = end;
            let entry = json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": [start, end] });
            format!("{}:{entry}", json!(t.name))
        })
        .collect();
    with_header(
        &format!("{{{}}}", entries.join(",")),
        &tensors.iter().flat_map(|t| t.data.clone()).collect::<Vec<_>>(),
    )
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// What is wrong, the words that the error must hold, and the adapter.
struct Recipe {
    name: String,
    says: Vec<String>,
    make: Box<dyn Fn(&Path) -> PathBuf>,
}

fn peft(name: &str, says: &[&str], change: impl FnOnce(&mut Peft)) -> Recipe {
    let mut adapter = Peft::valid();
    change(&mut adapter);
    let make = move |folder: &Path| {
        adapter.write(folder);
        folder.to_path_buf()
    };
    recipe(name, says, make)
}

fn recipe(name: &str, says: &[&str], make: impl Fn(&Path) -> PathBuf + 'static) -> Recipe {
    Recipe { name: name.into(), says: says.iter().map(|s| (*s).to_owned()).collect(), make: Box::new(make) }
}

/// A setting that is refused, named with its value.
fn setting(key: &'static str, value: Value) -> Recipe {
    let says = [key.to_owned()];
    Recipe { says: says.into(), ..peft(&format!("{key} {value}"), &[], |p| p.config[key] = value) }
}

/// Settings of a PEFT adapter.
fn settings() -> Vec<Recipe> {
    let mut all = vec![
        peft("settings that are no JSON", &["not valid JSON", "adapter_config.json"], |p| {
            p.config_text = Some("{".into())
        }),
        peft("settings that are a list", &["not a JSON object"], |p| p.config_text = Some("[]".into())),
        peft("settings nested too deep", &["not valid JSON"], |p| p.config_text = Some("[".repeat(100_000))),
        peft("settings of 2 MiB", &["too large"], |p| p.config_text = Some(" ".repeat(2 << 20))),
        peft("no kind of adapter", &["peft_type", "nothing"], |p| p.config = json!({ "r": 4 })),
        peft("an infinite alpha", &["not valid JSON"], |p| {
            p.config_text = Some(r#"{"peft_type":"LORA","lora_alpha":1e999}"#.into());
        }),
        peft("a scale beyond f32", &["blk.0.attn_q.weight", "finite"], |p| {
            p.config["lora_alpha"] = json!(1e300)
        }),
        peft("magnitudes promised and missing", &["layers.0.self_attn.q_proj", "use_dora"], |p| {
            p.config["use_dora"] = json!(true);
        }),
        peft("another rank in a pattern", &["blk.0.attn_q.weight", "rank 2", "4"], |p| {
            p.config["rank_pattern"] = json!({ "q_proj": 2 });
        }),
        peft("a rank that is none in a pattern", &["rank_pattern", "1.5"], |p| {
            p.config["rank_pattern"] = json!({ "q_proj": 1.5 });
        }),
    ];
    all.extend([
        setting("peft_type", json!("LOHA")),
        setting("bias", json!("all")),
        setting("modules_to_save", json!(["lm_head"])),
        setting("trainable_token_indices", json!([1])),
        setting("layer_replication", json!([[0, 2]])),
        setting("alora_invocation_tokens", json!([1])),
        setting("lora_bias", json!(true)),
        setting("a_trick_of_tomorrow", json!({ "x": 1 })),
        setting("r", json!(0)),
        setting("r", json!(-4)),
        setting("r", json!(1e9)),
        setting("r", json!("4")),
        setting("lora_alpha", json!("8")),
        setting("use_dora", json!(1)),
        setting("rank_pattern", json!({ "(": 4 })),
        setting("alpha_pattern", json!(3)),
    ]);
    for init in ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"] {
        all.push(setting("init_lora_weights", json!(init)));
    }
    all
}

/// Tensors of a PEFT adapter.
fn tensors() -> Vec<Recipe> {
    let (a, b) = (format!("{Q}.lora_A.weight"), format!("{Q}.lora_B.weight"));
    let target = "blk.0.attn_q.weight";
    let rename = |what: &str, says: &[&str], from: &'static str, to: &'static str| {
        peft(what, says, move |p| p.tensors.iter_mut().for_each(|t| t.name = t.name.replace(from, to)))
    };
    let embedding = |rows, cols, width| {
        let name = "base_model.model.model.embed_tokens.lora_embedding_";
        vec![matrix(&format!("{name}A"), rows, cols), matrix(&format!("{name}B"), width, RANK)]
    };
    let extra = |what: &str, name: &'static str| {
        peft(what, &[name], move |p| p.tensors.push(matrix(name, WIDTH, WIDTH)))
    };
    vec![
        peft("A without B", &["layers.0.self_attn.q_proj", "lora_B is missing"], |p| p.tensors.truncate(1)),
        peft("B without A", &["layers.0.self_attn.q_proj", "lora_A is missing"], |p| {
            drop(p.tensors.remove(0))
        }),
        peft("a tensor twice", &["twice", &a], |p| p.tensors.push(p.tensors[0].clone())),
        peft("a factor under two names", &["two tensors", "lora_A"], |p| {
            p.tensors.push(matrix(&format!("{Q}.lora_A.default.weight"), RANK, WIDTH));
        }),
        peft("A transposed", &[target, "rank"], |p| p.tensors[0].shape.reverse()),
        peft("B transposed", &[target, "rank"], |p| p.tensors[1].shape.reverse()),
        peft("factors of two ranks", &[target, "rank"], |p| p.tensors[1] = matrix(&b, WIDTH, 3)),
        peft("another rank than stated", &[target, "rank 8", "4"], |p| p.config["r"] = json!(8)),
        peft("rank 0", &[target], |p| p.tensors = vec![matrix(&a, 0, WIDTH), matrix(&b, WIDTH, 0)]),
        peft("a narrower base", &[target, "256 inputs", "64"], |p| p.tensors[0] = matrix(&a, RANK, 64)),
        peft("more outputs", &[target, "256 outputs", "512"], |p| p.tensors[1] = matrix(&b, 512, RANK)),
        rename(
            "a layer that is not there",
            &["blk.77.attn_q.weight", "base model"],
            "layers.0.",
            "layers.77.",
        ),
        rename("a layer beyond any number", &["99999999999999"], "layers.0.", "layers.99999999999999."),
        rename("a norm", &["input_layernorm"], "self_attn.q_proj", "input_layernorm"),
        rename("an expert", &["experts.3.w1"], "self_attn.q_proj", "mlp.experts.3.w1"),
        rename("a vision tower", &["vision_tower"], "model.layers.0", "vision_tower.layers.0"),
        rename("a fused module on a base without", &["blk.0.attn_qkv.weight"], "q_proj", "qkv_proj"),
        rename("another library's prefix", &["lora_unet"], "base_model.model.", "lora_unet_"),
        extra("a saved module", "base_model.model.lm_head.weight"),
        extra("a resized embedding", "base_model.model.model.embed_tokens.weight"),
        extra("a bias", "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias"),
        extra("a norm's weights", "base_model.model.model.norm.weight"),
        extra(
            "an embedding's factors under a layer's names",
            "base_model.model.model.embed_tokens.lora_A.weight",
        ),
        peft("an embedding of another vocabulary", &["token_embd.weight", "777"], |p| {
            p.tensors = embedding(RANK, 777, WIDTH);
        }),
        peft("magnitudes that nothing promised", &["layers.0.self_attn.q_proj", "use_dora"], |p| {
            p.tensors.push(matrix(&format!("{Q}.lora_magnitude_vector"), 1, WIDTH));
        }),
        peft("too few magnitudes", &[target, "magnitudes", "64"], |p| {
            p.config["use_dora"] = json!(true);
            p.tensors.push(matrix(&format!("{Q}.lora_magnitude_vector"), 1, 64));
        }),
        peft("a factor of whole numbers", &[&a, "I32"], |p| p.tensors[0].dtype = "I32"),
        peft("a factor of three dimensions", &[&a, "shape"], |p| {
            p.tensors[0].shape = vec![RANK as u64, 32, 8]
        }),
        peft("a NaN", &[target, "element 3"], |p| {
            p.tensors[0].data[12..16].copy_from_slice(&f32::NAN.to_le_bytes())
        }),
        peft("an infinity", &[target, "element 0"], |p| {
            p.tensors[1].data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        }),
        peft("an infinity in f16", &[target, "element 1"], |p| {
            let mut data = vec![0; RANK * WIDTH * 2];
            data[2..4].copy_from_slice(&[0x00, 0x7c]);
            p.tensors[0] = Tensor { dtype: "F16", data, ..p.tensors[0].clone() };
        }),
        peft("a double beyond f32", &[target, "element 0"], |p| {
            let mut data = vec![0; RANK * WIDTH * 8];
            data[..8].copy_from_slice(&1e300f64.to_le_bytes());
            p.tensors[0] = Tensor { dtype: "F64", data, ..p.tensors[0].clone() };
        }),
        peft("NaN in magnitudes", &[target, "element 5"], |p| {
            p.config["use_dora"] = json!(true);
            let mut magnitude = matrix(&format!("{Q}.lora_magnitude_vector"), 1, WIDTH);
            magnitude.data[20..24].copy_from_slice(&f32::NAN.to_le_bytes());
            p.tensors.push(magnitude);
        }),
    ]
}

/// The safetensors container.
fn containers() -> Vec<Recipe> {
    let weights =
        |what: &str, says: &[&str], bytes: Vec<u8>| peft(what, says, |p| p.weights = Some(Some(bytes)));
    let whole = safetensors(&Peft::valid().tensors);
    let entry = |shape: &str, offsets: &str| {
        with_header(
            &format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#),
            &[0; 64],
        )
    };
    let file = "adapter_model.safetensors";
    vec![
        weights("an empty file", &[file, "header"], Vec::new()),
        weights("three bytes", &[file], vec![1, 0, 0]),
        weights("a header longer than the file", &[file, "header"], vec![255; 64]),
        weights(
            "a header of 2^63 bytes",
            &[file, "header"],
            [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat(),
        ),
        weights("a header that is no JSON", &[file, "header"], with_header("nonsense", &[])),
        weights("a header nested too deep", &[file], with_header(&"{\"a\":".repeat(50_000), &[])),
        weights("no tensors", &["no tensors"], with_header("{}", &[])),
        weights("data cut off", &[file], whole[..whole.len() - 1].to_vec()),
        weights("data behind the last tensor", &[file], [&whole[..], &[0]].concat()),
        weights("a tensor beyond the file", &[file], entry("[4,4]", "[0,6400]")),
        weights("a tensor that ends before it starts", &[file], entry("[4,4]", "[64,0]")),
        weights("a shape that overflows", &[file], entry("[4294967296,4294967296]", "[0,64]")),
        weights("a shape of 2^60 values", &[file], entry("[1152921504606846976]", "[0,64]")),
        weights(
            "a pickle under another name",
            &[file],
            b"PK\x03\x04 archive/data.pkl and more of it".to_vec(),
        ),
        peft("a pickle", &["adapter_model.bin", "safe_serialization"], |p| {
            p.weights = Some(None);
            p.others.push(("adapter_model.bin", b"PK\x03\x04".to_vec()));
        }),
        peft("no weights", &[file, "cannot read"], |p| p.weights = Some(None)),
        recipe("a folder with nothing in it", &["adapter_config.json"], |folder| {
            std::fs::create_dir_all(folder).unwrap();
            folder.to_path_buf()
        }),
        recipe("text", &["not a GGUF"], |folder| {
            std::fs::create_dir_all(folder).unwrap();
            let path = folder.join("notes.txt");
            std::fs::write(&path, "an adapter, surely\n").unwrap();
            path
        }),
    ]
}

/// A GGUF adapter: keys, and tensors by name, type and shape (row length first) with their data.
#[derive(Clone)]
struct Adapter {
    keys: Vec<(&'static str, Gguf)>,
    tensors: Vec<(String, TensorType, Vec<usize>, Vec<u8>)>,
}

fn gguf(name: &str, says: &[&str], change: impl FnOnce(&mut Adapter)) -> Recipe {
    let target = "blk.0.attn_k.weight";
    let mut adapter = Adapter {
        keys: vec![
            ("general.architecture", "llama".into()),
            ("general.type", "adapter".into()),
            ("adapter.type", "lora".into()),
            ("adapter.lora.alpha", 8f32.into()),
        ],
        tensors: vec![
            (format!("{target}.lora_a"), TensorType::F32, vec![WIDTH, RANK], floats(WIDTH * RANK)),
            (format!("{target}.lora_b"), TensorType::F32, vec![RANK, KV], floats(RANK * KV)),
        ],
    };
    change(&mut adapter);
    recipe(name, says, move |folder| {
        std::fs::create_dir_all(folder).unwrap();
        let path = folder.join("adapter.gguf");
        let mut writer = Writer::new(&path);
        for (key, value) in &adapter.keys {
            writer.set(*key, value.clone());
        }
        for (name, ty, shape, _) in &adapter.tensors {
            writer.tensor(name, *ty, shape).unwrap();
        }
        let mut stream = writer.start().unwrap();
        adapter.tensors.iter().for_each(|(.., data)| stream.write(data).unwrap());
        stream.finish().unwrap();
        path
    })
}

fn ggufs() -> Vec<Recipe> {
    let set = |what: &str, key: &'static str, value: Gguf, says: &[&str]| {
        let says = [&[key][..], says].concat();
        gguf(what, &says, |a| {
            a.keys.retain(|(k, _)| *k != key);
            a.keys.push((key, value));
        })
    };
    let rename = |what: &str, says: &[&str], from: &'static str, to: &'static str| {
        gguf(what, says, move |a| a.tensors.iter_mut().for_each(|t| t.0 = t.0.replace(from, to)))
    };
    let target = "blk.0.attn_k.weight";
    vec![
        set("a GGUF model", "general.type", "model".into(), &["adapter", "model"]),
        set(
            "another kind of GGUF adapter",
            "adapter.type",
            "control_vector".into(),
            &["lora", "control_vector"],
        ),
        set("another architecture", "general.architecture", "qwen2".into(), &["llama", "qwen2"]),
        set("an alpha that is no number", "adapter.lora.alpha", "8".into(), &[]),
        set("a NaN for alpha", "adapter.lora.alpha", f32::NAN.into(), &["finite"]),
        set("an infinite alpha in GGUF", "adapter.lora.alpha", f32::INFINITY.into(), &["finite"]),
        set("aLoRA", "adapter.alora.invocation_tokens", 7u32.into(), &["aLoRA"]),
        gguf("no kind of GGUF adapter", &["adapter.type", "nothing"], |a| {
            a.keys.retain(|(k, _)| *k != "adapter.type")
        }),
        gguf("a GGUF adapter without tensors", &["no tensors"], |a| a.tensors.clear()),
        gguf("only A", &["blk.0.attn_k.weight.lora_b"], |a| a.tensors.truncate(1)),
        gguf("only B", &["blk.0.attn_k.weight.lora_a"], |a| drop(a.tensors.remove(0))),
        rename("a tensor that is no factor", &["blk.0.attn_k.weight.lora_m"], ".lora_b", ".lora_m"),
        rename("whole weights", &["blk.0.attn_k.weight", "lora_a"], ".lora_b", ""),
        rename("a norm in GGUF", &["blk.0.attn_norm.weight"], "attn_k", "attn_norm"),
        rename("a bias in GGUF", &["blk.0.attn_k.bias"], "attn_k.weight", "attn_k.bias"),
        rename("a layer too many in GGUF", &["blk.77.attn_k.weight"], "blk.0", "blk.77"),
        rename(
            "more outputs than the target has",
            &["blk.0.attn_q.weight", "256 outputs", "128"],
            "attn_k",
            "attn_q",
        ),
        gguf("A transposed in GGUF", &[target, "rank"], |a| a.tensors[0].2.reverse()),
        gguf("both transposed in GGUF", &[target], |a| {
            a.tensors[0].2.reverse();
            a.tensors[1].2.reverse();
        }),
        gguf("a vector for a factor", &["blk.0.attn_k.weight.lora_a", "two dimensions"], |a| {
            a.tensors[0].2 = vec![WIDTH * RANK];
        }),
        gguf("factors in a type for weights", &["blk.0.attn_k.weight.lora_a", "q4_0"], |a| {
            (a.tensors[0].1, a.tensors[0].3) = (TensorType::Q4_0, vec![0; WIDTH * RANK / 32 * 18]);
        }),
        gguf("a NaN in GGUF", &[target, "element 2"], |a| {
            a.tensors[1].3[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        gguf("an infinite scale of a block", &[target, "element 0"], |a| {
            let mut data = vec![1; WIDTH * RANK / 32 * 34];
            data[..2].copy_from_slice(&[0x00, 0x7c]);
            (a.tensors[0].1, a.tensors[0].3) = (TensorType::Q8_0, data);
        }),
        gguf("an embedding of another vocabulary in GGUF", &["token_embd.weight", "777"], |a| {
            a.tensors = vec![
                ("token_embd.weight.lora_a".into(), TensorType::F32, vec![RANK, 777], floats(RANK * 777)),
                ("token_embd.weight.lora_b".into(), TensorType::F32, vec![RANK, WIDTH], floats(RANK * WIDTH)),
            ];
        }),
    ]
}

/// Runs one answer within 1 GB of address space and 10 s of processor time.
fn run(base: &Path, adapters: &[&Path]) -> Output {
    let mut command = Command::new("sh");
    let limited = "ulimit -v 1000000; ulimit -t 10; ulimit -c 0; exec \"$@\"";
    command.args(["-c", limited, "sh", env!("CARGO_BIN_EXE_lapwing"), "run"]).arg(base);
    command.args(["-p", "hello", "-n", "1", "-t", "1", "--raw", "-o", "json"]);
    for adapter in adapters {
        command.arg("--lora").arg(adapter);
    }
    command.output().unwrap()
}

/// The error as JSON, and the text of it.
fn refused(name: &str, out: &Output, code: i32) -> (Value, String) {
    let stderr = String::from_utf8(out.stderr.clone()).unwrap();
    assert_eq!(out.status.code(), Some(code), "{name}: {stderr}");
    assert!(out.stdout.is_empty(), "{name}: something was answered");
    let json: Value = serde_json::from_str(&stderr).unwrap_or_else(|e| panic!("{name}: {e}: {stderr}"));
    (json["error"].clone(), stderr)
}

#[test]
fn bad_adapters_are_refused_by_name_within_limits() {
    let folder = tempdir().unwrap();
    let folder = folder.path();
    let base = folder.join("base.gguf");
    let made = Command::new(env!("CARGO_BIN_EXE_lapwing"))
        .args(["synth", "tiny-llama:q8_0", base.to_str().unwrap(), "-q", "--with", "kv_heads=2"])
        .status();
    assert!(made.unwrap().success());

    // What the recipes change does load.
    Peft::valid().write(&folder.join("good"));
    let good = (gguf("good", &[], |_| {}).make)(&folder.join("good-gguf"));
    let out = run(&base, &[&folder.join("good"), &good]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    let recipes: Vec<Recipe> = [settings(), tensors(), containers(), ggufs()].into_iter().flatten().collect();
    assert!(recipes.len() >= 100, "{}", recipes.len());
    let mut faults = Vec::new();
    for (i, recipe) in recipes.iter().enumerate() {
        let path = (recipe.make)(&folder.join(format!("bad-{i}")));
        let out = run(&base, &[&path]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        let error = serde_json::from_str::<Value>(&text).unwrap_or_default()["error"].clone();
        let message = error["message"].as_str().unwrap_or_default();
        let named = error["file"].as_str().is_some_and(|file| Path::new(file).starts_with(&path));
        let says = recipe.says.iter().all(|word| message.contains(word.as_str()));
        let refused = out.status.code() == Some(3) && out.stdout.is_empty() && error["class"] == "bad-file";
        if !(refused && named && says) {
            faults.push(format!("{}: {:?} {text}", recipe.name, out.status.code()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("{} adapters refused", recipes.len());

    // Two adapters that are each good, but not together.
    let mut dora = Peft::valid();
    dora.config["use_dora"] = json!(true);
    dora.tensors.push(Tensor {
        shape: vec![WIDTH as u64],
        ..matrix(&format!("{Q}.lora_magnitude_vector"), 1, WIDTH)
    });
    let two = [folder.join("dora-1"), folder.join("dora-2")];
    two.iter().for_each(|place| dora.write(place));
    assert!(run(&base, &[&two[0]]).status.success());
    let (error, _) = refused("two DoRA adapters", &run(&base, &[&two[0], &two[1]]), 2);
    assert!(error["message"].as_str().unwrap().contains("dora-2"), "{error}");
}
