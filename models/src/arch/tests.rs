//! Metadata to specs, without files.
use std::collections::BTreeMap;

use super::*;
use crate::Class;

enum Value {
    Unsigned(u64),
    Float(f64),
    Text(&'static str),
    List(Vec<u64>),
}
use Value::{Float, List, Text, Unsigned};

#[derive(Default)]
struct Map(BTreeMap<String, Value>);

impl Map {
    fn set(mut self, key: &str, value: Value) -> Self {
        self.0.insert(key.to_owned(), value);
        self
    }

    /// Sets a key of the map's own architecture.
    fn own(self, key: &str, value: Value) -> Self {
        let Some(Text(name)) = self.0.get("general.architecture") else { panic!("no architecture") };
        let key = format!("{name}.{key}");
        self.set(&key, value)
    }

    fn without(mut self, key: &str) -> Self {
        assert!(self.0.remove(key).is_some(), "{key}");
        self
    }
}

fn wrong_type(key: &str) -> Error {
    Error::bad_file("wrong type").at(key)
}

impl Keys for Map {
    fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Unsigned(v)) => Ok(Some(*v)),
            Some(_) => Err(wrong_type(key)),
        }
    }
    fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Float(v)) => Ok(Some(*v)),
            Some(_) => Err(wrong_type(key)),
        }
    }
    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Text(v)) => Ok(Some(v)),
            Some(_) => Err(wrong_type(key)),
        }
    }
    fn unsigned_list(&self, key: &str) -> Result<Option<Vec<u64>>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(List(v)) => Ok(Some(v.clone())),
            Some(_) => Err(wrong_type(key)),
        }
    }
}

fn keys(architecture: &'static str) -> Map {
    Map::default()
        .set("general.architecture", Text(architecture))
        .own("context_length", Unsigned(8192))
        .own("embedding_length", Unsigned(512))
        .own("block_count", Unsigned(12))
        .own("attention.head_count", Unsigned(8))
        .own("attention.head_count_kv", Unsigned(2))
        .own("feed_forward_length", Unsigned(1024))
        .own("attention.layer_norm_rms_epsilon", Float(1e-6))
}

fn spec(keys: &Map) -> DecoderSpec {
    describe(keys).unwrap()
}

fn windows(spec: &DecoderSpec) -> Vec<bool> {
    spec.layers.iter().map(|layer| layer.window.is_some()).collect()
}

#[test]
fn every_architecture_describes_a_plain_model() {
    for architecture in ALL {
        let spec = spec(&keys(architecture.name));
        assert_eq!((spec.width, spec.heads, spec.kv_heads, spec.head_dim), (512, 8, 2, 64));
        assert_eq!((spec.q_width(), spec.kv_width(), spec.layers.len()), (512, 128, 12));
        assert_eq!(spec.dense().unwrap().0, 1024);
        let expected = if architecture.name == "llama" { RopeKind::Norm } else { RopeKind::Neox };
        assert!(spec.ropes.iter().all(|rope| rope.kind == expected && rope.dim == 64));
        assert!(spec.layers.iter().all(|layer| layer.rope < spec.ropes.len()));
    }
}

#[test]
fn gemma3_has_five_local_layers_to_a_global_one() {
    let keys = keys("gemma3")
        .own("attention.key_length", Unsigned(256))
        .own("attention.value_length", Unsigned(256))
        .own("attention.sliding_window", Unsigned(512))
        .own("rope.freq_base", Float(1e6))
        .own("rope.scaling.type", Text("linear"))
        .own("rope.scaling.factor", Float(8.0));
    let spec = spec(&keys);
    assert_eq!(windows(&spec), [[true; 5].as_slice(), &[false], &[true; 5], &[false]].concat());
    assert_eq!(spec.q_width(), 2048);
    assert_eq!(spec.embedding_scale, 512f32.sqrt());
    assert_eq!(spec.attention_scale, 1.0 / 16.0);
    let local = &spec.ropes[spec.layers[0].rope];
    let global = &spec.ropes[spec.layers[5].rope];
    assert_eq!((local.base, local.scaling), (10_000.0, RopeScaling::None));
    assert_eq!((global.base, global.scaling), (1e6, RopeScaling::Linear { factor: 8.0 }));
    assert!(spec.qk_norms && spec.norms == NormPlacement::BeforeAndAfter);
    assert_eq!(spec.attention_soft_cap, None);
}

#[test]
fn gemma2_alternates_and_caps() {
    let spec = spec(&keys("gemma2"));
    assert_eq!(windows(&spec)[..4], [true, false, true, false]);
    assert_eq!(spec.layers[0], LayerSpec { window: Some(4096), rope: 0 });
    assert_eq!((spec.attention_soft_cap, spec.logit_soft_cap), (Some(50.0), Some(30.0)));
    let large = keys("gemma2").own("block_count", Unsigned(46)).own("embedding_length", Unsigned(4608));
    let large = large.own("attention.head_count", Unsigned(32)).own("attention.key_length", Unsigned(128));
    let large = describe(&large.own("attention.value_length", Unsigned(128))).unwrap();
    assert_eq!(large.attention_scale, 1.0 / 12.0);
}

#[test]
fn window_patterns_may_be_listed_or_periodic() {
    let base = || keys("gemma3").own("attention.sliding_window", Unsigned(16));
    let pattern = "attention.sliding_window_pattern";
    let listed = [1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 0];
    let spec = spec(&base().own(pattern, List(listed.to_vec())));
    assert_eq!(windows(&spec), listed.map(|v| v != 0));
    let third = describe(&base().own(pattern, Unsigned(3))).unwrap();
    assert_eq!(windows(&third)[..6], [true, true, false, true, true, false]);
    let all = describe(&base().own(pattern, Unsigned(0))).unwrap();
    assert!(windows(&all).iter().all(|&w| w));
    let short = describe(&base().own(pattern, List(vec![1, 0]))).unwrap_err();
    assert_eq!((short.expected.as_str(), short.got.as_str()), ("12 entries", "2"));
}

#[test]
fn rope_scalings_are_read() {
    let rope = |keys: Map| spec(&keys).ropes[0].clone();
    assert_eq!(rope(keys("llama")).scaling, RopeScaling::None);
    let old = keys("llama").own("rope.scale_linear", Float(4.0));
    assert_eq!(rope(old).scaling, RopeScaling::Linear { factor: 4.0 });
    let off = keys("llama").own("rope.scaling.type", Text("none")).own("rope.scaling.factor", Float(4.0));
    assert_eq!(rope(off).scaling, RopeScaling::None);
    let yarn = keys("qwen2")
        .own("rope.scaling.type", Text("yarn"))
        .own("rope.scaling.factor", Float(4.0))
        .own("rope.scaling.original_context_length", Unsigned(2048));
    let expected = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 2048,
        beta_fast: 32.0,
        beta_slow: 1.0,
        log_multiplier: 0.0,
    };
    assert_eq!(rope(yarn).scaling, expected);
    let long = keys("phi3")
        .own("rope.scaling.original_context_length", Unsigned(4096))
        .own("rope.scaling.attn_factor", Float(1.19))
        .own("rope.dimension_count", Unsigned(48));
    let long = rope(long);
    assert_eq!(long.divisors, RopeDivisors::ByContext { original_context: 4096 });
    assert_eq!((long.amplitude, long.dim), (1.19, 48));
    let unknown = describe(&keys("llama").own("rope.scaling.type", Text("ntk"))).unwrap_err();
    assert_eq!(unknown.at, "llama.rope.scaling.type");
}

#[test]
fn unknown_architectures_and_experts_are_named() {
    let unknown = describe(&Map::default().set("general.architecture", Text("mamba"))).unwrap_err();
    assert_eq!((unknown.class, unknown.got.as_str()), (Class::BadFile, "mamba"));
    for architecture in ALL {
        assert!(unknown.expected.contains(architecture.name));
    }
    assert!(describe(&Map::default()).is_err());
    let experts = keys("llama").own("expert_count", Unsigned(8)).own("expert_used_count", Unsigned(2));
    let error = spec(&experts).dense().unwrap_err();
    assert!(error.message.contains("mixture of experts"), "{error}");
}

#[test]
fn bad_hyper_parameters_are_refused_by_name() {
    let whole: &[(&str, &[u64])] = &[
        ("context_length", &[0, u64::MAX]),
        ("embedding_length", &[0, 1 << 40, 511]),
        ("block_count", &[0, 513]),
        ("attention.head_count", &[0, 1 << 20, 7]),
        ("attention.head_count_kv", &[0, 3, 16]),
        ("feed_forward_length", &[0, 1 << 60]),
        ("attention.key_length", &[0, 1 << 20]),
        ("attention.value_length", &[0, 32]),
        ("rope.dimension_count", &[0, 65, 33]),
        ("nextn_predict_layers", &[1]),
    ];
    for &(key, values) in whole {
        for &value in values {
            let error = describe(&keys("llama").own(key, Unsigned(value))).unwrap_err();
            assert_eq!(error.class, Class::BadFile);
            assert!(error.at.starts_with("llama."), "{key} = {value}: {error}");
        }
    }
    for (key, value) in [
        ("attention.layer_norm_rms_epsilon", -1e-6),
        ("attention.layer_norm_rms_epsilon", f64::NAN),
        ("attention.layer_norm_rms_epsilon", f64::INFINITY),
        ("rope.freq_base", 0.0),
        ("rope.freq_base", 1e300),
        ("rope.scaling.factor", -2.0),
        ("rope.scaling.attn_factor", f64::NAN),
        ("attention.scale", f64::INFINITY),
    ] {
        let error = describe(&keys("llama").own(key, Float(value))).unwrap_err();
        assert_eq!(error.at, format!("llama.{key}"), "{value}");
    }
    for key in ["context_length", "embedding_length", "block_count", "feed_forward_length"] {
        let error = describe(&keys("llama").without(&format!("llama.{key}"))).unwrap_err();
        assert_eq!((error.at, error.got.as_str()), (format!("llama.{key}"), "nothing"));
    }
    let wrong = describe(&keys("llama").own("block_count", Text("12"))).unwrap_err();
    assert_eq!(wrong.at, "llama.block_count");
}

#[test]
fn equal_lists_stand_for_one_value() {
    let spec = spec(&keys("llama").own("feed_forward_length", List(vec![256; 12])));
    assert_eq!(spec.dense().unwrap().0, 256);
    let error = describe(&keys("llama").own("feed_forward_length", List(vec![256, 512]))).unwrap_err();
    assert!(error.message.contains("differ"), "{error}");
}
