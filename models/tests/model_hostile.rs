//! Models whose metadata and tensors do not fit together are refused by name; odd but sound ones compute.
use std::path::{Path, PathBuf};

use lapwing_kernels::TensorType;
use lapwing_kernels::isa::Isa;
use lapwing_kernels::team::Team;
use lapwing_models::decoder::{Want, Workspace, forward};
use lapwing_models::gguf::{Array, Value, Writer};
use lapwing_models::kv_cache::{KvCache, KvType};
use lapwing_models::model::Model;
use lapwing_models::synth::Synth;
use lapwing_models::{Class, Error, Result};

/// A model in pieces, to be changed.
struct Parts {
    entries: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone)]
struct Tensor {
    name: String,
    ty: TensorType,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Parts {
    /// A small synthetic model: `shape` as for `lapwing synth`, with `options`.
    fn new(shape: &str, options: &[(&str, &str)]) -> Self {
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
            Tensor { name: t.name.clone(), ty: t.ty, shape: t.shape.clone(), data }
        };
        let tensors = synth.tensors().iter().enumerate().map(tensor).collect();
        Self { entries: synth.entries().to_vec(), tensors }
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.remove_key(key);
        self.entries.push((key.to_owned(), value.into()));
    }

    fn remove_key(&mut self, key: &str) {
        self.entries.retain(|(k, _)| k != key);
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    fn remove(&mut self, name: &str) -> Tensor {
        let at = self.tensors.iter().position(|t| t.name == name).unwrap_or_else(|| panic!("{name}"));
        self.tensors.remove(at)
    }

    /// Adds a tensor of f32 values.
    fn add(&mut self, name: &str, shape: &[usize], value: f32) {
        let n: usize = shape.iter().product();
        let data = value.to_le_bytes().repeat(n);
        self.tensors.push(Tensor { name: name.into(), ty: TensorType::F32, shape: shape.into(), data });
    }

    /// Gives a tensor another shape, as zeros.
    fn reshape(&mut self, name: &str, shape: &[usize]) {
        let tensor = self.tensor(name);
        tensor.shape = shape.to_vec();
        tensor.data = vec![0; shape.iter().product::<usize>() * 4];
        tensor.ty = TensorType::F32;
    }

    fn open(self) -> Result<Model> {
        let mut writer = Writer::new(PathBuf::from("hostile.gguf"));
        for (key, value) in self.entries {
            writer.set(key, value);
        }
        for t in &self.tensors {
            writer.tensor(&t.name, t.ty, &t.shape)?;
        }
        let gguf = writer.in_memory(|places| {
            places.into_iter().zip(&self.tensors).for_each(|(place, t)| place.copy_from_slice(&t.data));
            Ok(())
        })?;
        Model::from_gguf(gguf)
    }

    fn refused(self) -> Error {
        match self.open() {
            Ok(_) => panic!("accepted"),
            Err(error) => {
                assert_eq!(error.class, Class::BadFile, "{error}");
                assert_eq!(error.file.as_deref(), Some(Path::new("hostile.gguf")), "{error}");
                assert!(!error.at.is_empty(), "names no place: {error}");
                error
            }
        }
    }
}

fn logits(model: &Model, tokens: &[u32]) -> Result<Vec<f32>> {
    let team = Team::new(1, Isa::best()).unwrap();
    let mut ws = Workspace::new(model, 8).unwrap();
    let mut cache = KvCache::new(model.spec(), KvType::F16, 32).unwrap();
    forward(model, &team, &mut ws, &mut cache, tokens, Want::Last).map(<[f32]>::to_vec)
}

#[test]
fn every_tensor_must_be_there_in_its_shape() {
    for arch in ["tiny-llama:f32", "tiny-qwen3:f32", "tiny-gemma3:f32"] {
        let options: &[_] = if arch.contains("llama") { &[] } else { &[("kv_heads", "2")] };
        let whole = || Parts::new(arch, options);
        assert!(whole().open().is_ok(), "{arch}");
        let names: Vec<String> = whole().tensors.into_iter().map(|t| t.name).collect();
        for name in names {
            // These may be absent: the embedding then serves as output, and pairs turn as they are.
            let optional = name == "output.weight" || name.starts_with("rope_");
            let mut parts = whole();
            let tensor = parts.remove(&name);
            match parts.open() {
                Ok(_) => assert!(optional, "{arch} without {name} is accepted"),
                Err(error) => assert!(
                    !optional && error.to_string().contains(name.rsplit('.').nth(1).unwrap()),
                    "{error}"
                ),
            }
            let mut parts = whole();
            let mut shape = tensor.shape.clone();
            *shape.last_mut().unwrap() += 1;
            parts.reshape(&name, &shape);
            let error = parts.refused();
            assert!(error.at.contains(&name), "{name}: {error}");
            assert!(!error.expected.is_empty() && !error.got.is_empty(), "{name}: {error}");
            // One more dimension, of equal size.
            let mut parts = whole();
            let mut shape = tensor.shape.clone();
            shape.push(1);
            parts.tensor(&name).shape = shape;
            assert!(parts.refused().at.contains(&name));
        }
    }
}

#[test]
fn tensors_that_would_change_the_result_are_not_ignored() {
    for name in [
        "blk.0.attn_sinks.weight",
        "blk.1.ffn_gate_inp.weight",
        "blk.0.attn_q_norm.weight",
        "output_extra.weight",
    ] {
        let mut parts = Parts::new("tiny-llama:f32", &[]);
        parts.add(name, &[64], 1.0);
        assert_eq!(parts.refused().at, format!("tensor {name}"));
    }
    // What old converters left, and other parts of the file, change nothing.
    let expected = logits(&Parts::new("tiny-llama:f32", &[]).open().unwrap(), &[300, 301]).unwrap();
    let mut parts = Parts::new("tiny-llama:f32", &[]);
    parts.add("blk.0.attn_rot_embd.weight", &[8], 1.0);
    parts.add("v.patch_embd.weight", &[64], 1.0);
    assert_eq!(logits(&parts.open().unwrap(), &[300, 301]).unwrap(), expected);
}

#[test]
fn fused_tensors_are_cut_into_views() {
    // The same weights as separate tensors of llama and as the fused ones of phi3 are the same matrices.
    let mut parts = Parts::new("tiny-llama:f32", &[]);
    let expected = logits(&Parts::new("tiny-llama:f32", &[]).open().unwrap(), &[300, 305, 301]).unwrap();
    for i in 0..2 {
        for (fused, names) in
            [("attn_qkv", &["attn_q", "attn_k", "attn_v"][..]), ("ffn_up", &["ffn_gate", "ffn_up"])]
        {
            let tensors: Vec<Tensor> =
                names.iter().map(|n| parts.remove(&format!("blk.{i}.{n}.weight"))).collect();
            let rows = tensors.iter().map(|t| t.shape[1]).sum();
            let data = tensors.iter().flat_map(|t| t.data.clone()).collect();
            let name = format!("blk.{i}.{fused}.weight");
            parts.tensors.push(Tensor {
                name,
                ty: TensorType::F32,
                shape: vec![tensors[0].shape[0], rows],
                data,
            });
        }
    }
    assert_eq!(logits(&parts.open().unwrap(), &[300, 305, 301]).unwrap(), expected);
}

#[test]
fn hyper_parameters_must_fit_the_tensors() {
    let llama = || Parts::new("tiny-llama:f32", &[]);
    for (key, value, at) in [
        ("llama.block_count", 3, "blk.2"),
        ("llama.block_count", 1, "blk.1"),
        ("llama.block_count", 513, "llama.block_count"),
        ("llama.embedding_length", 128, "token_embd.weight"),
        ("llama.attention.head_count", 3, "llama.attention.head_count"),
        ("llama.attention.head_count_kv", 2, "blk.0.attn_k.weight"),
        ("llama.attention.key_length", 32, "blk.0.attn_q.weight"),
        ("llama.attention.value_length", 32, "llama.attention.value_length"),
        ("llama.feed_forward_length", 95, "blk.0.ffn"),
        ("llama.rope.dimension_count", 18, "llama.rope.dimension_count"),
        ("llama.expert_count", 4, "llama.expert_count"),
        ("llama.context_length", 0, "llama.context_length"),
    ] {
        let mut parts = llama();
        parts.set(key, value as u32);
        let error = parts.refused();
        assert!(error.at.contains(at), "{key} = {value}: {error}");
    }
    let mut parts = llama();
    parts.set("general.architecture", "mamba");
    let error = parts.refused();
    assert!(error.expected.contains("llama, qwen2") && error.got == "mamba", "{error}");
    let mut parts = llama();
    parts.set("llama.attention.layer_norm_rms_epsilon", f32::NAN);
    assert!(parts.refused().at.contains("llama.attention.layer_norm_rms_epsilon"));
    let mut parts = llama();
    parts.set("llama.block_count", "2");
    assert!(parts.refused().at.contains("llama.block_count"));
    let mut parts = Parts::new("tiny-gemma3:f32", &[("kv_heads", "2")]);
    parts.set("gemma3.attention.sliding_window_pattern", Value::Array(Array::Bool(vec![true])));
    assert!(parts.refused().at.contains("sliding_window_pattern"));
}

#[test]
fn the_vocabulary_must_have_the_rows_of_the_embedding() {
    let mut parts = Parts::new("tiny-llama:f32", &[]);
    parts.reshape("token_embd.weight", &[64, 513]);
    parts.reshape("output.weight", &[64, 513]);
    let error = parts.refused();
    assert!(error.at.contains("token_embd") && error.got == "513", "{error}");
    let mut parts = Parts::new("tiny-llama:f32", &[]);
    parts.reshape("token_embd.weight", &[64]);
    assert!(parts.refused().at.contains("token_embd"));
}

#[test]
fn divisors_of_frequencies_are_checked() {
    let model = |len: usize, value: f32| {
        let mut parts = Parts::new("tiny-llama:f32", &[]);
        parts.add("rope_freqs.weight", &[len], value);
        parts
    };
    assert!(model(8, 2.0).open().is_ok());
    for (len, value) in [(7, 2.0), (8, 0.0), (8, -1.0), (8, f32::NAN), (8, f32::INFINITY)] {
        assert!(model(len, value).refused().at.contains("rope_freqs.weight"), "{len} of {value}");
    }
}

#[test]
fn numbers_that_are_not_finite_end_in_an_error() {
    // Norms and biases are read when the model is opened.
    for name in ["blk.1.ffn_norm.weight", "output_norm.weight"] {
        let mut parts = Parts::new("tiny-llama:f32", &[]);
        parts.tensor(name).data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(parts.refused().at, format!("tensor {name}"));
    }
    // Matrices are not: what they spoil is noticed in the logits, and the cache stays usable.
    for (name, value) in [("blk.1.ffn_down.weight", f32::INFINITY), ("output.weight", f32::NAN)] {
        let mut parts = Parts::new("tiny-llama:f32", &[]);
        parts.tensor(name).data.chunks_exact_mut(4).for_each(|v| v.copy_from_slice(&value.to_le_bytes()));
        let model = parts.open().unwrap();
        let error = logits(&model, &[300, 301]).expect_err(name);
        assert_eq!(error.class, Class::BadFile, "{name}");
        assert!(error.to_string().contains("not a finite number"), "{error}");
    }
    // Blocks of quantised types with scales of all ones: NaN in f16.
    for ty in ["q4_0", "q8_0", "q6_k"] {
        let mut parts =
            Parts::new(&format!("tiny-llama:{ty}"), &[("width", "256"), ("head_dim", "64"), ("ffn", "256")]);
        parts.tensor("blk.0.attn_output.weight").data.fill(0xff);
        let error = logits(&parts.open().unwrap(), &[300, 301]).unwrap_err();
        assert_eq!(error.class, Class::BadFile, "{ty}: {error}");
    }
}

#[test]
fn a_failed_evaluation_leaves_the_cache_as_it_was() {
    // Only one token's embedding is damaged.
    let mut parts = Parts::new("tiny-llama:f32", &[]);
    parts.tensor("token_embd.weight").data[310 * 64 * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let model = parts.open().unwrap();
    let team = Team::new(1, Isa::best()).unwrap();
    let mut ws = Workspace::new(&model, 2).unwrap();
    let mut cache = KvCache::new(model.spec(), KvType::F16, 32).unwrap();
    let mut eval = |cache: &mut KvCache, tokens: &[u32]| {
        forward(&model, &team, &mut ws, cache, tokens, Want::Last).map(<[f32]>::to_vec)
    };
    let before = eval(&mut cache, &[300, 301, 302]).unwrap();
    assert!(eval(&mut cache, &[303, 304, 310]).is_err());
    assert_eq!(cache.len(), 3);
    cache.truncate(2);
    assert_eq!(eval(&mut cache, &[302]).unwrap(), before);
}
