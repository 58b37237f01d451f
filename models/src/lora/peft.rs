//! PEFT adapters: a folder with `adapter_config.json` and `adapter_model.safetensors`.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::TensorView;
use safetensors::{Dtype as FileDtype, SafeTensors};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

use super::config::PeftConfig;
use super::factor::{Dtype, Factor, Source};
use super::names::tensor_of_module;
use super::{Adapter, Container, Delta, RowOrder};
use crate::error::{Class, Error, Result};
use crate::os::Bytes;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// A settings file is a few kilobytes; more than this is not one.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Which part of a delta a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    A,
    B,
    Magnitude,
}

/// Opens the adapter in `folder`.
pub fn open(folder: &Path) -> Result<Adapter> {
    let config_path = folder.join(CONFIG);
    let size = std::fs::metadata(&config_path).map_err(|e| not_an_adapter(folder, CONFIG, &e))?.len();
    if size > MAX_CONFIG_BYTES {
        return Err(Error::bad_file("settings file is too large")
            .in_file(&config_path)
            .expected_got(format!("at most {MAX_CONFIG_BYTES} bytes"), size));
    }
    let text = std::fs::read_to_string(&config_path).map_err(|e| not_an_adapter(folder, CONFIG, &e))?;
    let config = PeftConfig::parse(&text, &config_path)?;

    let weights = folder.join(WEIGHTS);
    if !weights.exists() && folder.join("adapter_model.bin").exists() {
        return Err(Error::bad_file("the adapter is a pickle file, which can run code when read")
            .in_file(&folder.join("adapter_model.bin"))
            .expected_got(WEIGHTS, "adapter_model.bin")
            .advice("save it with safe_serialization=True"));
    }
    let file = File::open(&weights).map_err(|e| not_an_adapter(folder, WEIGHTS, &e))?;
    let length = file.metadata().map_err(|e| not_an_adapter(folder, WEIGHTS, &e))?.len();
    let bytes = Arc::new(Bytes::map(&file, length, &weights)?);
    let deltas = read(&bytes, &config).map_err(|e| e.in_file(&weights))?;
    Adapter::new(folder, Container::Peft, deltas, length)
}

fn not_an_adapter(folder: &Path, missing: &str, error: &std::io::Error) -> Error {
    let class = if error.kind() == std::io::ErrorKind::NotFound { Class::BadFile } else { Class::Other };
    Error::new(class, format!("not a PEFT adapter: cannot read {missing}: {error}"))
        .in_file(folder)
        .advice(format!("give a folder with {CONFIG} and {WEIGHTS}, or a GGUF adapter"))
}

fn read(bytes: &Arc<Bytes>, config: &PeftConfig) -> Result<BTreeMap<String, Delta>> {
    let whole: &[u8] = bytes;
    refuse_duplicates(whole)?;
    let file = SafeTensors::deserialize(whole)
        .map_err(|e| Error::bad_file(format!("not a valid safetensors file: {e}")))?;
    let mut parts: BTreeMap<String, BTreeMap<Part, Factor>> = BTreeMap::new();
    for (name, view) in file.iter() {
        let (module, part) = split_name(name).ok_or_else(|| {
            Error::bad_file("a tensor that is no LoRA factor").at(name).expected_got(
                "lora_A, lora_B, lora_embedding_A, lora_embedding_B or lora_magnitude_vector",
                name,
            )
        })?;
        let factor = factor(bytes, &view).map_err(|e| e.at(name))?;
        if parts.entry(module.to_string()).or_default().insert(part, factor).is_some() {
            return Err(Error::bad_file("two tensors for the same factor").at(name));
        }
    }
    let mut deltas = BTreeMap::new();
    for (module, mut parts) in parts {
        let target = tensor_of_module(&module).ok_or_else(|| {
            Error::bad_file("the adapter changes a module that lapwing does not know")
                .at(&module)
                .expected_got("an attention or feed-forward projection, embed_tokens or lm_head", &module)
        })?;
        let mut take = |part: Part| {
            parts
                .remove(&part)
                .ok_or_else(|| Error::bad_file(format!("lora_{part:?} is missing")).at(&module))
        };
        let (mut a, b) = (take(Part::A)?, take(Part::B)?);
        let magnitude = parts.remove(&Part::Magnitude);
        if magnitude.is_some() != config.use_dora {
            return Err(Error::bad_file("DoRA magnitudes do not agree with the settings")
                .at(&module)
                .expected_got(format!("use_dora {}", magnitude.is_some()), config.use_dora));
        }
        if Delta::is_embedding(&target) {
            a = a.transposed();
        }
        let (rank, scale) = (config.rank(&module)?, config.scale(&module)?);
        let delta = Delta { rank, scale, a, b, magnitude, rows: RowOrder::HuggingFace };
        if deltas.insert(target, delta).is_some() {
            return Err(Error::bad_file("two modules for the same tensor").at(&module));
        }
    }
    Ok(deltas)
}

/// `base_model.model.<module>.lora_A.default.weight` as (module, part).
fn split_name(name: &str) -> Option<(&str, Part)> {
    let name = name.strip_prefix("base_model.model.")?;
    let (module, rest) = name.rsplit_once(".lora_")?;
    let part = rest.strip_suffix(".weight").unwrap_or(rest);
    let embedding = module.ends_with("embed_tokens");
    let part = match part.strip_suffix(".default").unwrap_or(part) {
        "A" if !embedding => Part::A,
        "B" if !embedding => Part::B,
        "embedding_A" if embedding => Part::A,
        "embedding_B" if embedding => Part::B,
        "magnitude_vector" => Part::Magnitude,
        _ => return None,
    };
    Some((module, part))
}

fn factor(bytes: &Arc<Bytes>, view: &TensorView<'_>) -> Result<Factor> {
    let dtype = match view.dtype() {
        FileDtype::F64 => Dtype::F64,
        FileDtype::F32 => Dtype::F32,
        FileDtype::F16 => Dtype::F16,
        FileDtype::BF16 => Dtype::Bf16,
        FileDtype::F8_E4M3 => Dtype::F8E4M3,
        FileDtype::F8_E5M2 => Dtype::F8E5M2,
        other => {
            return Err(Error::bad_file("a factor of a type that holds no weights")
                .expected_got("a floating-point type", format!("{other:?}")));
        }
    };
    let (rows, cols) = match *view.shape() {
        [rows, cols] => (rows, cols),
        [rows] => (rows, 1),
        ref shape => {
            return Err(Error::bad_file("a factor is not a matrix")
                .expected_got("one or two dimensions", format!("shape {shape:?}")));
        }
    };
    // The view borrows from `bytes`, so the difference of the addresses is its offset in the file.
    let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
    Factor::new(Source::File(Arc::clone(bytes), start..start + view.data().len()), dtype, rows, cols)
}

/// The reader below keeps the last of two equal names; say so instead.
fn refuse_duplicates(whole: &[u8]) -> Result<()> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of tensors")
        }
        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Self::Value, M::Error> {
            let (mut seen, mut twice) = (BTreeSet::new(), None);
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if seen.contains(&name) {
                    twice.get_or_insert(name);
                } else {
                    seen.insert(name);
                }
            }
            Ok(twice)
        }
    }
    let header = whole
        .split_first_chunk::<8>()
        .and_then(|(n, rest)| rest.get(..usize::try_from(u64::from_le_bytes(*n)).ok()?))
        .ok_or_else(|| Error::bad_file("not a safetensors file: the header is longer than the file"))?;
    let twice = serde_json::Deserializer::from_slice(header)
        .deserialize_map(Names)
        .map_err(|e| Error::bad_file(format!("not a valid safetensors header: {e}")))?;
    match twice {
        None => Ok(()),
        Some(name) => Err(Error::bad_file("a tensor appears twice").at(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_into_module_and_part() {
        let q = "model.layers.0.self_attn.q_proj";
        for (name, expected) in [
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", Some((q, Part::A))),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight", Some((q, Part::B))),
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
                Some((q, Part::Magnitude)),
            ),
            ("base_model.model.model.embed_tokens.lora_embedding_A", Some(("model.embed_tokens", Part::A))),
            ("base_model.model.model.embed_tokens.lora_A.weight", None),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", None),
            ("base_model.model.lm_head.weight", None),
            ("model.layers.0.self_attn.q_proj.lora_A.weight", None),
        ] {
            assert_eq!(split_name(name), expected, "{name}");
        }
    }
}
