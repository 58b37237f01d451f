//! `adapter_config.json` of a PEFT adapter: what it says about ranks and scales, and what is refused.
use std::path::Path;

use regex_lite::Regex;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The settings of a PEFT LoRA adapter that change what it computes.
///
/// Source: the `LoraConfig` of the PEFT library.
#[derive(Debug)]
pub struct PeftConfig {
    /// Whether the adapter carries magnitudes (DoRA).
    pub use_dora: bool,
    rank: usize,
    alpha: f64,
    use_rslora: bool,
    rank_pattern: Vec<(Regex, f64)>,
    alpha_pattern: Vec<(Regex, f64)>,
}

/// Settings that name things or steer training only; any value is fine.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    // The factors of a transposed layer have the same orientation; only merging into it would differ.
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Settings read by [`PeftConfig::parse`] itself.
const READ: &[&str] = &[
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "use_dora",
    "use_rslora",
];

/// Ways to initialise the factors that leave the base weights as they were.
const INITS_KEEPING_BASE: &[&str] = &["gaussian", "eva", "orthogonal"];

/// A larger rank than any published adapter has; bounds what a file can make us allocate.
const MAX_RANK: usize = 65_536;

impl PeftConfig {
    /// Reads the text of `file`.
    ///
    /// # Errors
    /// Not JSON, not a LoRA adapter, values of the wrong kind, or a setting that lapwing does not compute:
    /// nothing in the file is silently ignored.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        Self::parse_inner(text).map_err(|e| e.in_file(file))
    }

    fn parse_inner(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|e| {
            Error::bad_file(format!("not valid JSON: {e}")).expected_got("a JSON object", "other text")
        })?;
        let Value::Object(map) = value else {
            return Err(Error::bad_file("the adapter's settings are not a JSON object"));
        };
        match map.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            other => {
                return Err(Error::bad_file("not a LoRA adapter")
                    .at("peft_type")
                    .expected_got("LORA", other.unwrap_or("nothing")));
            }
        }
        refuse_unsupported(&map)?;
        let rank = positive_rank(map.get("r").map_or(Ok(8.0), |v| number(v, "r"))?, "r")?;
        let alpha = map.get("lora_alpha").map_or(Ok(8.0), |v| number(v, "lora_alpha"))?;
        Ok(Self {
            use_dora: flag(&map, "use_dora")?,
            use_rslora: flag(&map, "use_rslora")?,
            rank,
            alpha,
            rank_pattern: patterns(&map, "rank_pattern")?,
            alpha_pattern: patterns(&map, "alpha_pattern")?,
        })
    }

    /// Rank that the settings give to `module` (for example `model.layers.0.self_attn.q_proj`).
    ///
    /// # Errors
    /// The rank of a matching pattern is not a positive whole number.
    pub fn rank(&self, module: &str) -> Result<usize> {
        match first_match(&self.rank_pattern, module) {
            Some(r) => positive_rank(r, "rank_pattern"),
            None => Ok(self.rank),
        }
    }

    /// Factor on B·A·x for `module`: alpha / r, or alpha / √r with rank-stabilised scaling.
    ///
    /// # Errors
    /// As [`PeftConfig::rank`].
    pub fn scale(&self, module: &str) -> Result<f32> {
        let rank = self.rank(module)? as f64;
        let alpha = first_match(&self.alpha_pattern, module).unwrap_or(self.alpha);
        Ok((alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32)
    }
}

fn refuse_unsupported(map: &Map<String, Value>) -> Result<()> {
    let refuse = |key: &str, expected: &str, got: String| {
        Err(Error::bad_file("this adapter uses a setting that lapwing does not compute")
            .at(key)
            .expected_got(expected, got)
            .advice("export it without that setting"))
    };
    if let Some(v) = map.get("bias").filter(|v| v.as_str() != Some("none") && !v.is_null()) {
        return refuse("bias", "none", short(v));
    }
    match map.get("init_lora_weights") {
        None | Some(Value::Bool(_) | Value::Null) => {}
        Some(Value::String(s)) if INITS_KEEPING_BASE.contains(&s.as_str()) => {}
        Some(v) => {
            return refuse("init_lora_weights", "an initialisation that keeps the base weights", short(v));
        }
    }
    for (key, value) in map {
        let known = HARMLESS.contains(&key.as_str()) || READ.contains(&key.as_str());
        if !known && is_set(value) {
            return refuse(key, "nothing", short(value));
        }
    }
    Ok(())
}

/// Whether a setting is on: present and neither null, false, nor empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        Value::String(s) => !s.is_empty(),
        _ => true,
    }
}

fn flag(map: &Map<String, Value>, key: &str) -> Result<bool> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(v) => Err(wrong_kind(key, "true or false", v)),
    }
}

fn number(value: &Value, key: &str) -> Result<f64> {
    value.as_f64().filter(|v| v.is_finite()).ok_or_else(|| wrong_kind(key, "a finite number", value))
}

fn positive_rank(rank: f64, key: &str) -> Result<usize> {
    if rank.fract() == 0.0 && (1.0..=MAX_RANK as f64).contains(&rank) {
        return Ok(rank as usize);
    }
    Err(Error::bad_file("rank out of range")
        .at(key)
        .expected_got(format!("a whole number from 1 to {MAX_RANK}"), rank))
}

fn patterns(map: &Map<String, Value>, key: &str) -> Result<Vec<(Regex, f64)>> {
    let Some(value) = map.get(key).filter(|v| !v.is_null()) else { return Ok(Vec::new()) };
    let Value::Object(entries) = value else { return Err(wrong_kind(key, "an object", value)) };
    entries
        .iter()
        .map(|(pattern, v)| {
            let place = format!("{key}: {pattern}");
            let regex = Regex::new(&format!("^(?:.*\\.)?(?:{pattern})$"))
                .map_err(|e| Error::bad_file(format!("pattern cannot be read: {e}")).at(&place))?;
            Ok((regex, number(v, &place)?))
        })
        .collect()
}

fn first_match(patterns: &[(Regex, f64)], module: &str) -> Option<f64> {
    patterns.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, v)| *v)
}

fn wrong_kind(key: &str, expected: &str, got: &Value) -> Error {
    Error::bad_file("a setting has the wrong kind").at(key).expected_got(expected, short(got))
}

/// The JSON text of a value, cut to what fits in a line.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PeftConfig> {
        PeftConfig::parse(text, Path::new("adapter_config.json"))
    }

    #[test]
    fn scales_follow_patterns_and_rank_stabilisation() {
        let c = parse(
            r#"{"peft_type":"LORA","r":16,"lora_alpha":16,"use_rslora":true,
                "rank_pattern":{"layers.0.self_attn.q_proj":4},"alpha_pattern":{"layers.29.self_attn.v_proj":32}}"#,
        )
        .unwrap();
        assert_eq!(c.rank("model.layers.0.self_attn.q_proj").unwrap(), 4);
        assert_eq!(c.scale("model.layers.0.self_attn.q_proj").unwrap(), 8.0);
        assert_eq!(c.scale("model.layers.1.self_attn.q_proj").unwrap(), 4.0);
        assert_eq!(c.scale("model.layers.29.self_attn.v_proj").unwrap(), 8.0);
        // The pattern must match whole dotted parts at the end of the name.
        assert_eq!(c.rank("model.xlayers.0.self_attn.q_proj").unwrap(), 16);
    }

    #[test]
    fn defaults_are_rank_8_alpha_8() {
        let c = parse(r#"{"peft_type":"LORA"}"#).unwrap();
        assert_eq!((c.rank("x").unwrap(), c.scale("x").unwrap()), (8, 1.0));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        for (text, at) in [
            (r#"{"peft_type":"LOHA"}"#, "peft_type"),
            (r#"{}"#, "peft_type"),
            (r#"{"peft_type":"LORA","bias":"all"}"#, "bias"),
            (r#"{"peft_type":"LORA","modules_to_save":["lm_head"]}"#, "modules_to_save"),
            (r#"{"peft_type":"LORA","init_lora_weights":"pissa_niter_16"}"#, "init_lora_weights"),
            (r#"{"peft_type":"LORA","init_lora_weights":"olora"}"#, "init_lora_weights"),
            (r#"{"peft_type":"LORA","layer_replication":[[0,2]]}"#, "layer_replication"),
            (r#"{"peft_type":"LORA","trainable_token_indices":[1]}"#, "trainable_token_indices"),
            (r#"{"peft_type":"LORA","alora_invocation_tokens":[1]}"#, "alora_invocation_tokens"),
            (r#"{"peft_type":"LORA","lora_bias":true}"#, "lora_bias"),
            (r#"{"peft_type":"LORA","r":0}"#, "r"),
            (r#"{"peft_type":"LORA","r":1e9}"#, "r"),
            (r#"{"peft_type":"LORA","r":"8"}"#, "r"),
            (r#"{"peft_type":"LORA","lora_alpha":null}"#, "lora_alpha"),
            (r#"{"peft_type":"LORA","use_dora":1}"#, "use_dora"),
            (r#"{"peft_type":"LORA","rank_pattern":{"(":4}}"#, "rank_pattern: ("),
            (r#"{"peft_type":"LORA","rank_pattern":3}"#, "rank_pattern"),
            (r#"{"peft_type":"LORA","a_future_trick":{"x":1}}"#, "a_future_trick"),
        ] {
            let e = parse(text).expect_err(text);
            assert_eq!(e.at, at, "{text}");
            assert!(e.file.is_some());
        }
        assert!(parse("[1]").is_err() && parse("{").is_err());
    }
}
