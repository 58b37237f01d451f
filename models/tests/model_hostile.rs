//! Models whose metadata and tensors do not fit together are refused by name; odd but sound ones compute.
use lapwing_kernels::TensorType;
use lapwing_kernels::isa::Isa;
use lapwing_kernels::team::Team;
use lapwing_models::cancel::Cancel;
use lapwing_models::decoder::{Want, Workspace, forward};
use lapwing_models::kv_cache::{KvCache, KvType};
use lapwing_models::model::{Model, OpenOptions};
use lapwing_models::{Class, Error, Result};

#[path = "hostile/models.rs"]
mod hostile;

use hostile::{Part, Parts};

trait Open {
    fn open(self) -> Result<Model>;
    fn refused(self) -> Error;
}

impl Open for Parts {
    /// Opens the model from a file of its own, which is gone afterwards but for the map.
    fn open(self) -> Result<Model> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hostile.gguf");
        self.write(&path);
        Model::open(path, &OpenOptions::default())
    }

    fn refused(self) -> Error {
        match self.open() {
            Ok(_) => panic!("accepted"),
            Err(error) => {
                assert_eq!(error.class, Class::BadFile, "{error}");
                assert!(error.file.as_ref().is_some_and(|file| file.ends_with("hostile.gguf")), "{error}");
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
    for arch in ["tiny-llama:f32", "tiny-qwen3:f32", "tiny-gemma3:f32", "tiny-phi3:f32"] {
        let options: &[_] =
            if arch.contains("llama") || arch.contains("phi3") { &[] } else { &[("kv_heads", "2")] };
        let whole = || Parts::new(arch, options);
        assert!(whole().open().is_ok(), "{arch}");
        let names: Vec<String> = whole().tensors.into_iter().map(|t| t.name).collect();
        for name in names {
            // These may be absent: the embedding then serves as output, and pairs turn as they are.
            let optional = name == "output.weight" || name.starts_with("rope_");
            // Without a fused tensor its parts are looked for, and the first of them is missed.
            let missed = match name.rsplit('.').nth(1).unwrap() {
                "attn_qkv" => "attn_q",
                "ffn_up" if arch.contains("phi3") => "ffn_gate",
                own => own,
            };
            let mut parts = whole();
            let tensor = parts.remove(&name);
            match parts.open() {
                Ok(_) => assert!(optional, "{arch} without {name} is accepted"),
                Err(error) => assert!(!optional && error.to_string().contains(missed), "{error}"),
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
fn bad_models_are_refused_by_name_and_place() {
    for bad in hostile::bad_models() {
        // What matrices hold is only noticed in what they compute.
        let result = bad.parts.open().and_then(|model| {
            model.chat_template_source()?;
            logits(&model, &[300, 301])
        });
        let error = match result {
            Ok(_) => panic!("{}: accepted", bad.name),
            Err(error) => error,
        };
        assert_eq!(error.class, Class::BadFile, "{}: {error}", bad.name);
        assert!(error.file.is_some() && !error.at.is_empty(), "{}: names no place: {error}", bad.name);
        let text = error.to_string();
        for word in &bad.says {
            assert!(text.contains(word.as_str()), "{}: {word:?} is not in: {text}", bad.name);
        }
        assert!(!text.chars().any(char::is_control), "{}: {text:?}", bad.name);
    }
}

#[test]
fn odd_models_compute() {
    for (name, parts) in hostile::odd_models() {
        let model = parts.open().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(logits(&model, &[300, 301]).is_ok(), "{name}");
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
            let tensors: Vec<Part> =
                names.iter().map(|n| parts.remove(&format!("blk.{i}.{n}.weight"))).collect();
            let rows = tensors.iter().map(|t| t.shape[1]).sum();
            let data = tensors.iter().flat_map(|t| t.data.clone()).collect();
            let name = format!("blk.{i}.{fused}.weight");
            parts.tensors.push(Part {
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
fn a_cancelled_evaluation_leaves_the_cache_as_it_was() {
    let model = Parts::new("tiny-llama:f32", &[]).open().unwrap();
    let team = Team::new(1, Isa::best()).unwrap();
    let mut ws = Workspace::new(&model, 8).unwrap();
    let mut cache = KvCache::new(model.spec(), KvType::F16, 32).unwrap();
    let cancel = Cancel::default();
    ws.set_cancel(&cancel);
    let mut eval = |tokens: &[u32]| {
        let before = cache.len();
        let result = forward(&model, &team, &mut ws, &mut cache, tokens, Want::Last).map(<[f32]>::to_vec);
        (before, result, cache.len())
    };
    assert!(matches!(eval(&[300, 301]), (0, Ok(_), 2)));
    cancel.cancel();
    match eval(&[302, 303]) {
        (2, Err(error), 2) => assert_eq!(error.class, Class::Interrupted),
        other => panic!("{other:?}"),
    }
    cancel.reset();
    let (_, after, _) = eval(&[302, 303]);
    assert_eq!(after.unwrap(), logits(&model, &[300, 301, 302, 303]).unwrap());
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
