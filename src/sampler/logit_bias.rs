//! Logit bias: adds a number to the logits of single tokens; −inf forbids one.
use lapwing_models::{Class, Error, Result};

use super::{Candidates, Kind, Param, Place, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "logit_bias",
    place: Place::First,
    params: &[Param {
        name: "logit-bias",
        aliases: &[],
        help: "Added to a token's logit: ID+X, ID-X or ID-inf (repeatable)",
        preset: Preset::Texts(&[]),
    }],
    build: |settings, _| {
        // Checked when the parameter was set.
        let biases: Vec<_> =
            settings.texts("logit-bias").iter().filter_map(|text| parse(text).ok()).collect();
        (!biases.is_empty()).then(|| Box::new(LogitBias(biases)) as _)
    },
};

/// Reads `15043+1.5`, `15043-1` or `15043-inf`.
pub(super) fn parse(text: &str) -> Result<(u32, f32)> {
    let wrong = || {
        Error::new(Class::Usage, "bad value for logit-bias")
            .expected_got("a token id, + or -, and a number, such as 15043-1.5 or 2-inf", text)
    };
    let at = text.find(['+', '-']).ok_or_else(wrong)?;
    let id = text[..at].parse().map_err(|_| wrong())?;
    let bias: f32 = text[at..].parse().map_err(|_| wrong())?;
    // +∞ would leave no other token, and NaN nothing at all.
    if bias < f32::INFINITY { Ok((id, bias)) } else { Err(wrong()) }
}

#[derive(Debug)]
struct LogitBias(Vec<(u32, f32)>);

impl Sampler for LogitBias {
    fn apply(&mut self, candidates: &mut Candidates, _past: &[u32], _rng: &mut Rng) {
        for &(id, bias) in &self.0 {
            candidates.change(id, |logit| logit + bias);
        }
    }
}
