//! Recipes of adapters for the model that [`super::models`] makes from `tiny-llama`: PEFT folders and GGUF files.
use std::path::{Path, PathBuf};

use lapwing_kernels::TensorType;
use lapwing_models::gguf::Value;

use super::models::{Part, Parts};

/// An adapter in pieces.
pub enum Adapter {
    Peft {
        config: String,
        weights: Vec<u8>,
    },
    /// A folder as old versions of PEFT wrote it.
    Pickle,
    Gguf(Parts),
}

impl Adapter {
    /// Writes the adapter into `folder`, which is empty; gives what to pass to `--lora`.
    pub fn write(&self, folder: &Path) -> PathBuf {
        match self {
            Adapter::Peft { config, weights } => {
                std::fs::write(folder.join("adapter_config.json"), config).unwrap();
                std::fs::write(folder.join("adapter_model.safetensors"), weights).unwrap();
                folder.to_path_buf()
            }
            Adapter::Pickle => {
                std::fs::write(folder.join("adapter_config.json"), CONFIG).unwrap();
                std::fs::write(folder.join("adapter_model.bin"), b"\x80\x02}q\x00.").unwrap();
                folder.to_path_buf()
            }
            Adapter::Gguf(parts) => {
                let path = folder.join("adapter.gguf");
                parts.write(&path);
                path
            }
        }
    }
}

/// An adapter that must be refused.
pub struct BadAdapter {
    pub name: String,
    pub adapter: Adapter,
    /// Words that the error must contain.
    pub says: Vec<String>,
}

/// A tensor of a safetensors file, as its header tells it.
#[derive(Clone)]
struct Entry {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    offsets: [usize; 2],
}

const CONFIG: &str = r#"{"peft_type":"LORA","r":4,"lora_alpha":8}"#;
const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// A valid file: A and B of one module.
struct Weights {
    entries: Vec<Entry>,
    data: Vec<u8>,
}

impl Weights {
    fn new() -> Self {
        let size = 4 * 64 * 4;
        let entry = |part: &str, shape: &[usize], at: usize| Entry {
            name: format!("{Q}.lora_{part}.weight"),
            dtype: "F32",
            shape: shape.to_vec(),
            offsets: [at, at + size],
        };
        let entries = vec![entry("A", &[4, 64], 0), entry("B", &[64, 4], size)];
        Self { entries, data: 0.01f32.to_le_bytes().repeat(2 * 4 * 64) }
    }

    fn bytes(&self) -> Vec<u8> {
        let entry = |e: &Entry| {
            format!(
                r#""{}":{{"dtype":"{}","shape":{:?},"data_offsets":{:?}}}"#,
                e.name, e.dtype, e.shape, e.offsets
            )
        };
        let entries: Vec<_> = self.entries.iter().map(entry).collect();
        raw(&format!("{{{}}}", entries.join(",")), &self.data)
    }
}

/// A header and what follows it.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn bad(name: impl Into<String>, adapter: Adapter, says: &[&str]) -> BadAdapter {
    BadAdapter { name: name.into(), adapter, says: says.iter().map(|s| (*s).to_owned()).collect() }
}

fn peft(weights: Vec<u8>) -> Adapter {
    Adapter::Peft { config: CONFIG.to_owned(), weights }
}

/// Every adapter that must be refused, with class bad-file.
pub fn bad_adapters() -> Vec<BadAdapter> {
    let mut all = configs();
    all.extend(files());
    all.extend(factors());
    all.extend(ggufs());
    all
}

fn configs() -> Vec<BadAdapter> {
    let settings = [
        ("", "JSON"),
        ("{", "JSON"),
        ("[1]", "object"),
        ("{}", "peft_type"),
        (r#"{"peft_type":"LOHA"}"#, "peft_type"),
        (r#"{"peft_type":"LORA","bias":"all"}"#, "bias"),
        (r#"{"peft_type":"LORA","modules_to_save":["lm_head"]}"#, "modules_to_save"),
        (r#"{"peft_type":"LORA","init_lora_weights":"pissa_niter_16"}"#, "init_lora_weights"),
        (r#"{"peft_type":"LORA","layer_replication":[[0,2]]}"#, "layer_replication"),
        (r#"{"peft_type":"LORA","alora_invocation_tokens":[1]}"#, "alora_invocation_tokens"),
        (r#"{"peft_type":"LORA","lora_bias":true}"#, "lora_bias"),
        (r#"{"peft_type":"LORA","r":0}"#, "rank"),
        (r#"{"peft_type":"LORA","r":-4}"#, "rank"),
        (r#"{"peft_type":"LORA","r":4.5}"#, "rank"),
        (r#"{"peft_type":"LORA","r":1e9}"#, "rank"),
        (r#"{"peft_type":"LORA","r":"8"}"#, "at r"),
        (r#"{"peft_type":"LORA","lora_alpha":1e999}"#, "adapter_config.json"),
        (r#"{"peft_type":"LORA","lora_alpha":null}"#, "lora_alpha"),
        (r#"{"peft_type":"LORA","use_dora":1}"#, "use_dora"),
        (r#"{"peft_type":"LORA","use_rslora":"yes"}"#, "use_rslora"),
        (r#"{"peft_type":"LORA","rank_pattern":{"(":4}}"#, "rank_pattern"),
        (r#"{"peft_type":"LORA","rank_pattern":3}"#, "rank_pattern"),
        (r#"{"peft_type":"LORA","alpha_pattern":{"q":"x"}}"#, "alpha_pattern"),
        (r#"{"peft_type":"LORA","a_future_trick":{"x":1}}"#, "a_future_trick"),
    ];
    let mut all: Vec<_> = settings
        .iter()
        .map(|(config, says)| {
            let adapter = Adapter::Peft { config: (*config).to_owned(), weights: Weights::new().bytes() };
            bad(format!("settings {config:?}"), adapter, &[says])
        })
        .collect();
    let deep = format!(r#"{{"peft_type":"LORA","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let long = format!(r#"{{"peft_type":"LORA","revision":"{}"}}"#, "x".repeat(2 << 20));
    all.push(bad("a pickle file", Adapter::Pickle, &["pickle", "safe_serialization"]));
    let dora = Adapter::Peft {
        config: CONFIG.replace("\"r\":4", "\"r\":4,\"use_dora\":true"),
        weights: Weights::new().bytes(),
    };
    all.push(bad("DoRA without magnitudes", dora, &["DoRA", "use_dora"]));
    for (name, config, says) in [("deep settings", deep, "JSON"), ("settings of 2 MiB", long, "too large")] {
        all.push(bad(name, Adapter::Peft { config, weights: Weights::new().bytes() }, &[says]));
    }
    all
}

fn files() -> Vec<BadAdapter> {
    let whole = Weights::new().bytes();
    let with_length = |n: u64| [&n.to_le_bytes()[..], &whole[8..]].concat();
    let mut all = Vec::new();
    for (name, bytes) in [
        ("no bytes", Vec::new()),
        ("seven bytes", vec![0; 7]),
        ("a length and nothing", 100u64.to_le_bytes().to_vec()),
        ("a length of 2^64-1", with_length(u64::MAX)),
        ("a length of 2^63", with_length(1 << 63)),
        ("a length of 2^40", with_length(1 << 40)),
        ("a length beyond the file", with_length(whole.len() as u64)),
        ("a length of 0", with_length(0)),
        ("a header that is no object", raw("[]", &[])),
        ("a header that is not JSON", raw("{\"a\":", &[])),
        ("a header of zeros", [&64u64.to_le_bytes()[..], &[0; 64]].concat()),
        ("a header not UTF-8", [&2u64.to_le_bytes()[..], b"\xff\xfe"].concat()),
        ("data a byte short", whole[..whole.len() - 1].to_vec()),
        ("data a byte long", [&whole[..], b"x"].concat()),
        ("a pickle", b"\x80\x02}q\x00.".to_vec()),
        ("no tensors", raw("{}", &[])),
    ] {
        all.push(bad(name, peft(bytes), &["adapter"]));
    }
    all
}

fn factors() -> Vec<BadAdapter> {
    let with = |change: fn(&mut Weights)| {
        let mut weights = Weights::new();
        change(&mut weights);
        peft(weights.bytes())
    };
    let set = |w: &mut Weights, at: usize, value: f32| {
        w.data[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
    };
    let spoilt = |at: usize, value: f32| {
        let mut weights = Weights::new();
        set(&mut weights, at, value);
        peft(weights.bytes())
    };
    let mut all = vec![
        bad("NaN in A", spoilt(3, f32::NAN), &["finite"]),
        bad("infinity in B", spoilt(300, f32::INFINITY), &["finite"]),
    ];
    type Change = fn(&mut Weights);
    let cases: [(&str, Change, &str); 21] = [
        (
            "magnitudes without DoRA",
            |w| {
                let name = format!("{Q}.lora_magnitude_vector");
                w.entries.push(Entry { name, dtype: "F32", shape: vec![64], offsets: [2048, 2304] });
                w.data.resize(2304, 0);
            },
            "use_dora",
        ),
        ("the same tensor twice", |w| w.entries.push(w.entries[0].clone()), "twice"),
        (
            "no A",
            |w| (w.entries.remove(0), w.data.truncate(1024), w.entries[0].offsets = [0, 1024]).2,
            "q_proj",
        ),
        ("no B", |w| (w.entries.truncate(1), w.data.truncate(1024)).1, "q_proj"),
        ("offsets beyond the file", |w| w.entries[1].offsets = [1024, 4096], "safetensors"),
        ("offsets the wrong way round", |w| w.entries[1].offsets = [2048, 1024], "safetensors"),
        ("offsets that overlap", |w| w.entries[1].offsets = [512, 1536], "safetensors"),
        (
            "a hole between tensors",
            |w| (w.entries[1].offsets = [1028, 2052], w.data.resize(2052, 0)).1,
            "safetensors",
        ),
        ("another size than the shape's", |w| w.entries[0].shape = vec![4, 63], "safetensors"),
        ("a shape that wraps", |w| w.entries[0].shape = vec![usize::MAX, 4, 64], "safetensors"),
        ("integers", |w| w.entries[0].dtype = "I32", "type"),
        ("bools", |w| (w.entries[0].dtype = "BOOL", w.entries[0].shape = vec![4, 256]).1, "type"),
        ("an unknown type", |w| w.entries[0].dtype = "F99", "safetensors"),
        ("three dimensions", |w| w.entries[0].shape = vec![4, 8, 8], "dimensions"),
        (
            "another rank than stated",
            |w| {
                w.entries[0].shape = vec![8, 32];
                w.entries[1].shape = vec![32, 8];
            },
            "rank",
        ),
        ("A of another width", |w| w.entries[0].shape = vec![4, 32], "safetensors"),
        (
            "A and B turned",
            |w| {
                w.entries[0].shape = vec![64, 4];
                w.entries[1].shape = vec![4, 64];
            },
            "rank",
        ),
        (
            "a module that the model does not have",
            |w| {
                w.entries.iter_mut().for_each(|e| e.name = e.name.replace("layers.0", "layers.9"));
            },
            "blk.9",
        ),
        (
            "a layer number that wraps",
            |w| {
                w.entries.iter_mut().for_each(|e| e.name = e.name.replace("layers.0", "layers.4294967296"));
            },
            "4294967296",
        ),
        (
            "a module that nothing computes",
            |w| {
                w.entries.iter_mut().for_each(|e| e.name = e.name.replace("q_proj", "rotary_emb"));
            },
            "rotary_emb",
        ),
        (
            "a name that is no factor's",
            |w| w.entries[0].name = "base_model.model.lm_head.weight".into(),
            "lm_head",
        ),
    ];
    all.extend(cases.into_iter().map(|(name, change, says)| bad(name, with(change), &[says])));
    all
}

/// A valid GGUF adapter.
fn gguf() -> Parts {
    let mut parts = Parts { entries: Vec::new(), tensors: Vec::new() };
    parts.set("general.architecture", "llama");
    parts.set("general.type", "adapter");
    parts.set("adapter.type", "lora");
    parts.set("adapter.lora.alpha", 8.0f32);
    parts.add("blk.0.attn_q.weight.lora_a", &[64, 4], 0.01);
    parts.add("blk.0.attn_q.weight.lora_b", &[4, 64], 0.01);
    parts
}

fn ggufs() -> Vec<BadAdapter> {
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = gguf();
        change(&mut parts);
        Adapter::Gguf(parts)
    };
    let key = |key: &'static str, value: Value| with(&move |p| p.set(key, value.clone()));
    let named = |name: &'static str| with(&move |p| p.tensors[0].name = name.to_owned());
    let mut all = vec![
        bad("general.type of a model", key("general.type", "model".into()), &["general.type", "adapter"]),
        bad("no general.type", with(&|p| p.remove_key("general.type")), &["general.type"]),
        bad("another kind of adapter", key("adapter.type", "ia3".into()), &["adapter.type", "lora"]),
        bad("another architecture", key("general.architecture", "qwen2".into()), &["architecture"]),
        bad("an activated LoRA", key("adapter.alora.invocation_tokens", 1u32.into()), &["alora"]),
        bad("alpha as text", key("adapter.lora.alpha", "8".into()), &["adapter.lora.alpha"]),
        bad("a tensor that is no factor", named("blk.0.attn_q.weight"), &["lora_a"]),
        bad("A alone", with(&|p| drop(p.remove("blk.0.attn_q.weight.lora_b"))), &["lora_b"]),
        bad("B alone", with(&|p| drop(p.remove("blk.0.attn_q.weight.lora_a"))), &["lora_a"]),
        bad("A of one dimension", with(&|p| p.reshape("blk.0.attn_q.weight.lora_a", &[64])), &["lora_a"]),
        bad("A of another rank", with(&|p| p.reshape("blk.0.attn_q.weight.lora_a", &[64, 8])), &["rank"]),
        bad("A of another width", with(&|p| p.reshape("blk.0.attn_q.weight.lora_a", &[32, 4])), &["attn_q"]),
        bad("B of another height", with(&|p| p.reshape("blk.0.attn_q.weight.lora_b", &[4, 32])), &["attn_q"]),
        bad("no tensors", with(&|p| p.tensors.clear()), &["no tensors"]),
    ];
    for alpha in [f32::NAN, f32::INFINITY] {
        all.push(bad(
            format!("alpha {alpha}"),
            key("adapter.lora.alpha", alpha.into()),
            &["adapter.lora.alpha"],
        ));
    }
    for value in [f32::NAN, f32::NEG_INFINITY] {
        let spoil = |p: &mut Parts| p.tensors[1].data[..4].copy_from_slice(&value.to_le_bytes());
        all.push(bad(format!("{value} in B"), with(&spoil), &["finite"]));
    }
    let blocks = |p: &mut Parts| {
        let name = "blk.0.attn_q.weight.lora_a".to_owned();
        p.tensors[0] = Part { name, ty: TensorType::Q4_0, shape: vec![64, 4], data: vec![0; 4 * 36] };
    };
    all.push(bad("A of a type that adapters do not use", with(&blocks), &["q4_0"]));
    all
}

/// Adapters that are applied.
pub fn odd_adapters() -> Vec<(&'static str, Adapter)> {
    let mut half = Weights::new();
    half.data = vec![0; 1024];
    for (i, entry) in half.entries.iter_mut().enumerate() {
        (entry.dtype, entry.offsets) = ("BF16", [512 * i, 512 * i + 512]);
    }
    vec![
        ("a PEFT folder", peft(Weights::new().bytes())),
        ("bf16", peft(half.bytes())),
        ("a GGUF adapter", Adapter::Gguf(gguf())),
    ]
}
