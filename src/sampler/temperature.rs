//! Temperature: divides the logits; 0 leaves only the most likely token.
use super::{Candidates, Kind, Param, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "temperature",
    params: &[Param {
        name: "temp",
        aliases: &["temperature"],
        help: "Temperature; 0 always takes the most likely token",
        preset: Preset::Float(0.8, 0.0, f32::MAX),
    }],
    build: |settings, _| match settings.float("temp") {
        1.0 => None,
        t => Some(Box::new(Temperature(t))),
    },
};

#[derive(Debug)]
struct Temperature(f32);

impl Sampler for Temperature {
    fn apply(&mut self, candidates: &mut Candidates, _past: &[u32], _rng: &mut Rng) {
        if self.0 > 0.0 {
            candidates.scale(1.0 / self.0);
        } else {
            candidates.keep_best();
        }
    }
}
