//! Recipes of whole models: small synthetic ones with one thing wrong, which the table of tensors does not show.
use std::path::Path;

use lapwing_kernels::TensorType;
use lapwing_models::gguf::{Array, Value, Writer};
use lapwing_models::synth::Synth;

/// A model in pieces, to be changed.
pub struct Parts {
    pub entries: Vec<(String, Value)>,
    pub tensors: Vec<Part>,
}

/// A tensor of such a model.
#[derive(Clone)]
pub struct Part {
    pub name: String,
    pub ty: TensorType,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Parts {
    /// A small synthetic model: `shape` as for `lapwing synth`, with `options`.
    pub fn new(shape: &str, options: &[(&str, &str)]) -> Self {
        let (mut shape, mix) = Synth::parse(shape).unwrap();
        let small = [
            ("layers", "2"),
            ("width", "64"),
            ("heads", "4"),
            ("head_dim", "16"),
            ("ffn", "96"),
            ("vocab", "512"),
        ];
        for (name, value) in small.iter().chain(options) {
            shape.set(name, value).unwrap();
        }
        let synth = Synth::new(&shape, mix, 3).unwrap();
        let tensor = |(i, t): (usize, &lapwing_models::synth::Planned)| {
            let mut data = vec![0; t.rows() * t.row_bytes()];
            synth.fill(i, 0, &mut data);
            Part { name: t.name.clone(), ty: t.ty, shape: t.shape.clone(), data }
        };
        let tensors = synth.tensors().iter().enumerate().map(tensor).collect();
        Self { entries: synth.entries().to_vec(), tensors }
    }

    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.remove_key(key);
        self.entries.push((key.to_owned(), value.into()));
    }

    pub fn remove_key(&mut self, key: &str) {
        self.entries.retain(|(k, _)| k != key);
    }

    pub fn tensor(&mut self, name: &str) -> &mut Part {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    pub fn remove(&mut self, name: &str) -> Part {
        let at = self.tensors.iter().position(|t| t.name == name).unwrap_or_else(|| panic!("{name}"));
        self.tensors.remove(at)
    }

    /// Adds a tensor of f32 values.
    pub fn add(&mut self, name: &str, shape: &[usize], value: f32) {
        let n: usize = shape.iter().product();
        let data = value.to_le_bytes().repeat(n);
        self.tensors.push(Part { name: name.into(), ty: TensorType::F32, shape: shape.into(), data });
    }

    /// Gives a tensor another shape, as zeros.
    pub fn reshape(&mut self, name: &str, shape: &[usize]) {
        let tensor = self.tensor(name);
        tensor.shape = shape.to_vec();
        tensor.data = vec![0; shape.iter().product::<usize>() * 4];
        tensor.ty = TensorType::F32;
    }

    /// Writes the model to `path`.
    pub fn write(&self, path: &Path) {
        let mut writer = Writer::new(path);
        for (key, value) in &self.entries {
            writer.set(key, value.clone());
        }
        for t in &self.tensors {
            writer.tensor(&t.name, t.ty, &t.shape).unwrap();
        }
        let mut stream = writer.start().unwrap();
        self.tensors.iter().for_each(|t| stream.write(&t.data).unwrap());
        stream.finish().unwrap();
    }
}

/// A model that must be refused, when it is opened or at its first token.
pub struct BadModel {
    pub name: String,
    pub parts: Parts,
    /// Words that the error must contain.
    pub says: Vec<String>,
}

fn bad(name: impl Into<String>, parts: Parts, says: &[&str]) -> BadModel {
    BadModel { name: name.into(), parts, says: says.iter().map(|s| (*s).to_owned()).collect() }
}

fn llama() -> Parts {
    Parts::new("tiny-llama:f32", &[])
}

/// A byte-level vocabulary.
fn bpe() -> Parts {
    Parts::new("tiny-llama3:f32", &[("kv_heads", "4")])
}

fn gemma() -> Parts {
    Parts::new("tiny-gemma3:f32", &[("kv_heads", "2")])
}

/// `llama` with a key set.
fn with(key: &str, value: impl Into<Value>) -> Parts {
    let mut parts = llama();
    parts.set(key, value);
    parts
}

fn without(key: &str) -> Parts {
    let mut parts = llama();
    parts.remove_key(key);
    parts
}

/// Every model that must be refused, with class bad-file.
pub fn bad_models() -> Vec<BadModel> {
    let mut all = hyper_parameters();
    all.extend(rotations_and_windows());
    all.extend(tensors());
    all.extend(vocabulary());
    all.extend(numbers());
    all
}

fn hyper_parameters() -> Vec<BadModel> {
    let mut all = Vec::new();
    for (key, values, at) in [
        ("context_length", &[0, 1 << 28][..], "llama.context_length"),
        ("embedding_length", &[0, 1 << 18, u64::MAX], "llama.embedding_length"),
        ("embedding_length", &[128], "token_embd.weight"),
        ("block_count", &[0, 513, u64::MAX], "llama.block_count"),
        ("block_count", &[1], "blk.1"),
        ("block_count", &[3], "blk.2"),
        ("attention.head_count", &[0, 3, 4097], "llama.attention.head_count"),
        ("attention.head_count_kv", &[0, 3, 5], "llama.attention.head_count_kv"),
        ("attention.head_count_kv", &[2], "blk.0.attn_k.weight"),
        ("attention.key_length", &[0, 1025], "llama.attention.key_length"),
        ("attention.key_length", &[32], "blk.0.attn_q.weight"),
        ("attention.value_length", &[0, 32], "llama.attention.value_length"),
        ("feed_forward_length", &[0, 1 << 21], "llama.feed_forward_length"),
        ("feed_forward_length", &[95], "blk.0.ffn"),
        ("expert_count", &[4, 1 << 20], "llama.expert_count"),
        ("nextn_predict_layers", &[1], "llama.nextn_predict_layers"),
    ] {
        for &value in values {
            let name = format!("{key} = {value}");
            all.push(bad(name, with(&format!("llama.{key}"), value), &[at]));
        }
    }
    for key in
        ["context_length", "embedding_length", "block_count", "attention.head_count", "feed_forward_length"]
    {
        let key = format!("llama.{key}");
        all.push(bad(format!("{key} missing"), without(&key), &[&key, "missing"]));
        all.push(bad(format!("{key} as text"), with(&key, "2"), &[&key]));
        all.push(bad(format!("{key} negative"), with(&key, -4i32), &[&key]));
    }
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    all.push(bad("no epsilon", without(epsilon), &[epsilon, "missing"]));
    for value in [f32::NAN, f32::INFINITY, -1e-5, 1.5] {
        all.push(bad(format!("epsilon {value}"), with(epsilon, value), &[epsilon]));
    }
    for value in [f32::NAN, -1.0, f32::INFINITY] {
        let key = "llama.attention.scale";
        all.push(bad(format!("attention scale {value}"), with(key, value), &[key]));
    }
    let architecture = "general.architecture";
    all.push(bad("another architecture", with(architecture, "mamba"), &["llama, qwen2", "mamba"]));
    all.push(bad("no architecture", without(architecture), &[architecture]));
    all.push(bad("an architecture of number 1", with(architecture, 1u32), &[architecture]));
    let list = |values: Vec<u32>| Value::Array(Array::U32(values));
    let key = "llama.feed_forward_length";
    all.push(bad("layers of different sizes", with(key, list(vec![96, 64])), &[key, "differ"]));
    all.push(bad("an empty list of sizes", with(key, list(Vec::new())), &[key, "empty"]));
    all
}

fn rotations_and_windows() -> Vec<BadModel> {
    let mut all = Vec::new();
    let mut number = |key: &str, kind: Option<&str>, values: &[f32]| {
        for value in values {
            let key = format!("llama.rope.{key}");
            let mut parts = with(&key, *value);
            if let Some(kind) = kind {
                parts.set("llama.rope.scaling.type", kind);
            }
            all.push(bad(format!("{key} = {value}"), parts, &[&key]));
        }
    };
    number("freq_base", None, &[0.0, -1.0, f32::NAN, f32::INFINITY]);
    number("scaling.factor", None, &[-2.0, f32::NAN, f32::INFINITY, 1e-9]);
    number("scaling.attn_factor", None, &[0.0, f32::NAN]);
    number("scaling.yarn_beta_fast", Some("yarn"), &[f32::NAN, -1.0]);
    number("scaling.yarn_beta_slow", Some("yarn"), &[f32::NAN, 0.0]);
    number("scaling.yarn_log_multiplier", Some("yarn"), &[f32::NAN, -1.0]);
    for value in [0u32, 1, 15, 18] {
        let key = "llama.rope.dimension_count";
        all.push(bad(format!("{value} rotated values"), with(key, value), &[key]));
    }
    let key = "llama.rope.scaling.type";
    all.push(bad("unknown scaling", with(key, "magic"), &[key, "yarn", "magic"]));
    all.push(bad("scaling as a number", with(key, 1u32), &[key]));
    let key = "llama.rope.scaling.original_context_length";
    all.push(bad("no original context", with(key, 0u32), &[key]));
    for (len, value) in [(7, 2.0), (9, 2.0), (8, 0.0), (8, -1.0), (8, f32::NAN), (8, f32::INFINITY)] {
        let mut parts = llama();
        parts.add("rope_freqs.weight", &[len], value);
        all.push(bad(format!("{len} divisors of {value}"), parts, &["rope_freqs.weight"]));
    }
    let key = "gemma3.attention.sliding_window_pattern";
    for list in [vec![true], vec![true; 3], Vec::new()] {
        let mut parts = gemma();
        let name = format!("a pattern of {} windows", list.len());
        parts.set(key, Value::Array(Array::Bool(list)));
        all.push(bad(name, parts, &[key]));
    }
    for value in [f32::NAN, -1.0, f32::INFINITY] {
        let mut parts = Parts::new("tiny-gemma2:f32", &[("kv_heads", "2")]);
        let key = "gemma2.attn_logit_softcapping";
        parts.set(key, value);
        all.push(bad(format!("{key} = {value}"), parts, &[key]));
    }
    all
}

fn tensors() -> Vec<BadModel> {
    let mut all = Vec::new();
    for name in ["token_embd", "output_norm", "blk.0.attn_q", "blk.1.attn_norm", "blk.1.ffn_gate"] {
        let name = format!("{name}.weight");
        let mut parts = llama();
        parts.remove(&name);
        all.push(bad(format!("without {name}"), parts, &[&name, "missing"]));
        let mut parts = llama();
        let mut shape = parts.tensor(&name).shape.clone();
        *shape.last_mut().unwrap() += 1;
        parts.reshape(&name, &shape);
        all.push(bad(format!("{name} of another shape"), parts, &[&name]));
    }
    for name in
        ["blk.0.attn_sinks.weight", "blk.1.ffn_gate_inp.weight", "blk.2.attn_q.weight", "output_extra.weight"]
    {
        let mut parts = llama();
        parts.add(name, &[64], 1.0);
        all.push(bad(format!("{name} that nothing computes"), parts, &[name]));
    }
    let mut parts = llama();
    parts.add("blk.0.attn_q.bias", &[63], 1.0);
    all.push(bad("a bias of another size", parts, &["blk.0.attn_q.bias"]));
    let mut parts = Parts::new("tiny-phi3:f32", &[]);
    parts.reshape("blk.1.attn_qkv.weight", &[64, 191]);
    all.push(bad("a fused tensor a row short", parts, &["blk.1.attn_qkv.weight"]));
    all
}

fn vocabulary() -> Vec<BadModel> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let mut all = Vec::new();
    for name in ["model", "tokens"] {
        all.push(bad(format!("{name} missing"), without(&key(name)), &[&key(name)]));
    }
    for (name, value) in [("model", "bert"), ("tokens", "many")] {
        all.push(bad(format!("{name} = {value}"), with(&key(name), value), &[&key(name)]));
    }
    for name in ["model", "tokens", "scores", "token_type", "add_bos_token", "bos_token_id"] {
        all.push(bad(format!("{name} of another type"), with(&key(name), 1.5f32), &[&key(name)]));
    }
    for name in [
        "bos_token_id",
        "eos_token_id",
        "unknown_token_id",
        "eot_token_id",
        "eom_token_id",
        "fim_pre_token_id",
        "fim_suf_token_id",
        "fim_mid_token_id",
        "fim_pad_token_id",
        "fim_rep_token_id",
        "fim_sep_token_id",
    ] {
        all.push(bad(format!("{name} = 512"), with(&key(name), 512u32), &[&key(name), "512"]));
    }
    let floats = |values: Vec<f32>| Value::Array(Array::F32(values));
    let kinds = |values: Vec<i32>| Value::Array(Array::I32(values));
    all.push(bad("a score too few", with(&key("scores"), floats(vec![0.0; 511])), &["scores", "511"]));
    let mut scores = vec![0.0; 512];
    scores[300] = f32::NAN;
    all.push(bad("a score that is no number", with(&key("scores"), floats(scores)), &["scores", "300"]));
    all.push(bad("a type too few", with(&key("token_type"), kinds(vec![1; 511])), &["token_type", "511"]));
    // Type 6 is a byte.
    all.push(bad("words as bytes", with(&key("token_type"), kinds(vec![6; 512])), &["tokens", "<0x00>"]));
    let words = |change: &dyn Fn(&mut Vec<String>)| {
        let mut words: Vec<String> = (0..512).map(|i| format!("word{i}")).collect();
        change(&mut words);
        Value::Array(Array::String(words.iter().collect()))
    };
    let tokens = |change: &dyn Fn(&mut Vec<String>)| {
        let mut parts = with(&key("tokens"), words(change));
        parts.set(&key("token_type"), kinds(vec![1; 512]));
        parts
    };
    for (name, n, says) in [
        ("a token fewer", 511, "511"),
        ("a token more than the embedding has", 513, "513"),
        ("no tokens", 0, "impossible size"),
    ] {
        let parts = tokens(&|words| words.resize(n, "more".into()));
        all.push(bad(name, parts, &[says]));
    }
    let mut parts = tokens(&|_| {});
    parts.remove_key(&key("unknown_token_id"));
    parts.set(&key("unknown_token_id"), 600u32);
    all.push(bad("unknown token beyond the vocabulary", parts, &["unknown_token_id"]));
    for text in ["<0xZZ>", "<0x100>", "<0xA>", "0x41", "<0X41>", "<0x4g>", ""] {
        let mut parts = tokens(&|words| words[5] = text.to_owned());
        let mut types = vec![1; 512];
        types[5] = 6;
        parts.set(&key("token_type"), kinds(types));
        all.push(bad(format!("byte token {text:?}"), parts, &["tokens, element 5"]));
    }
    let mut parts = tokens(&|words| words[7] = "x".repeat(100_000));
    let mut types = vec![1; 512];
    types[7] = 3;
    parts.set(&key("token_type"), kinds(types));
    all.push(bad("a special token of 100,000 bytes", parts, &["tokens, element 7", "100000"]));
    // Byte-level.
    let mut parts = bpe();
    parts.remove_key(&key("merges"));
    all.push(bad("no merges", parts, &[&key("merges")]));
    for text in ["", "one", " ", "a ", " b"] {
        let mut parts = bpe();
        let merges: lapwing_models::gguf::Strings = ["a b", text].iter().copied().collect();
        parts.set(&key("merges"), Value::Array(Array::String(merges)));
        all.push(bad(format!("merge {text:?}"), parts, &["merges, element 1"]));
    }
    for name in ["martian", "LLAMA-BPE", "llama-bpe "] {
        let mut parts = bpe();
        parts.set(&key("pre"), name);
        all.push(bad(format!("pre-tokeniser {name:?}"), parts, &[&key("pre"), "llama-bpe"]));
    }
    let key = "tokenizer.chat_template";
    all.push(bad("a template that is a number", with(key, 7u32), &[key]));
    all
}

/// Weights that make no finite numbers: norms are noticed when the model is opened, matrices in what they compute.
fn numbers() -> Vec<BadModel> {
    let mut all = Vec::new();
    for name in ["blk.1.ffn_norm.weight", "output_norm.weight", "blk.0.attn_norm.weight"] {
        for value in [f32::NAN, f32::NEG_INFINITY] {
            let mut parts = llama();
            parts.tensor(name).data[..4].copy_from_slice(&value.to_le_bytes());
            all.push(bad(format!("{value} in {name}"), parts, &[name, "finite"]));
        }
    }
    for (name, value) in [
        ("token_embd.weight", f32::NAN),
        ("blk.0.attn_q.weight", f32::NAN),
        ("blk.1.attn_k.weight", f32::INFINITY),
        ("blk.0.attn_v.weight", f32::NAN),
        ("blk.1.attn_v.weight", f32::NAN),
        ("blk.1.attn_output.weight", f32::NAN),
        ("blk.0.ffn_gate.weight", f32::NAN),
        ("blk.1.ffn_up.weight", f32::NEG_INFINITY),
        ("blk.1.ffn_down.weight", f32::INFINITY),
        ("output.weight", f32::NAN),
        ("output.weight", 3e38),
    ] {
        let mut parts = llama();
        parts.tensor(name).data.as_chunks_mut().0.fill(value.to_le_bytes());
        all.push(bad(format!("{value} everywhere in {name}"), parts, &["not a finite number"]));
    }
    for ty in TensorType::ALL.iter().filter(|ty| ty.is_quantised()) {
        let mut parts = Parts::new("tiny-llama:f32", &[("width", "256"), ("head_dim", "64"), ("ffn", "256")]);
        // Scales of all ones are NaN, whichever format's they are.
        let tensor = parts.tensor("blk.0.attn_output.weight");
        tensor.ty = *ty;
        tensor.data = vec![0xff; 256 * ty.row_bytes(256).unwrap()];
        all.push(bad(format!("scales of {ty} that are NaN"), parts, &["not a finite number"]));
    }
    all
}

/// Models that look odd and compute.
pub fn odd_models() -> Vec<(String, Parts)> {
    let mut all: Vec<(String, Parts)> = vec![
        ("the model that all others change".into(), llama()),
        ("a byte-level vocabulary".into(), bpe()),
        ("windows".into(), gemma()),
        ("fused tensors".into(), Parts::new("tiny-phi3:f32", &[])),
        ("no template".into(), without("tokenizer.chat_template")),
        ("a size that is a list of equal ones".into(), {
            with("llama.feed_forward_length", Value::Array(Array::U32(vec![96, 96])))
        }),
        ("one divisor for each pair".into(), {
            let mut parts = llama();
            parts.add("rope_freqs.weight", &[8], 2.0);
            parts
        }),
        ("what old converters left".into(), {
            let mut parts = llama();
            parts.add("blk.0.attn_rot_embd.weight", &[8], 1.0);
            parts.add("v.patch_embd.weight", &[64], 1.0);
            parts
        }),
        ("weights that are all zero".into(), {
            let mut parts = llama();
            parts.tensors.iter_mut().for_each(|t| t.data.fill(0));
            parts
        }),
    ];
    for (name, template) in [
        ("a template that cannot be read", "{% for %}"),
        ("a template that fails", "{{ none + 1 }}"),
        ("a template that raises", "{{ raise_exception('never') }}"),
        ("a template that leaves out the question", "hello"),
        (
            "a template that loops",
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        ),
        (
            "a template that doubles",
            "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        ),
        (
            "a template of deep nesting",
            "{{ [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]] }}",
        ),
        ("a template that includes", "{% include '/etc/passwd' %}"),
        ("escapes in a template", "\u{1b}[2J{{ messages[0].content }}\u{202e}"),
    ] {
        all.push((name.into(), with("tokenizer.chat_template", template)));
    }
    all
}
