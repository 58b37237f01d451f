//! Temperature: divides the logits; 0 leaves only the most likely token. With a range, the entropy of the distribution
//! picks the temperature (kalomaze's dynamic temperature, 2023).
use super::{Candidates, Kind, Param, Place, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "temperature",
    place: Place::Listed,
    params: &[
        Param {
            name: "temp",
            aliases: &["temperature"],
            help: "Temperature; 0 always takes the most likely token",
            preset: Preset::Float(0.8, 0.0, f32::MAX),
        },
        Param {
            name: "dynatemp-range",
            aliases: &[],
            help: "The temperature follows the entropy within this range on both sides; 0 is fixed",
            preset: Preset::Float(0.0, 0.0, f32::MAX),
        },
        Param {
            name: "dynatemp-exp",
            aliases: &["dynatemp-exponent"],
            help: "Exponent of the dynamic temperature",
            preset: Preset::Float(1.0, 0.0, f32::MAX),
        },
    ],
    build: |settings, _| {
        let temperature = Temperature {
            middle: settings.float("temp"),
            // As in llama.cpp, mirostat steers the entropy alone.
            range: if settings.int("mirostat") > 0 { 0.0 } else { settings.float("dynatemp-range") },
            exponent: settings.float("dynatemp-exp"),
        };
        (temperature.middle != 1.0 || temperature.range > 0.0).then(|| Box::new(temperature) as _)
    },
};

#[derive(Debug)]
struct Temperature {
    middle: f32,
    range: f32,
    exponent: f32,
}

impl Temperature {
    /// The temperature for these candidates.
    fn of(&self, candidates: &mut Candidates) -> f32 {
        let n = candidates.len();
        if self.range <= 0.0 || n <= 1 {
            return self.middle;
        }
        candidates.softmax();
        let share = |p: f32| if p > 0.0 { -f64::from(p) * f64::from(p).ln() } else { 0.0 };
        let entropy: f64 = candidates.list().iter().map(|c| share(c.p)).sum();
        // Of n tokens the entropy is ln n at most.
        let normal = (entropy / (n as f64).ln()) as f32;
        let (low, high) = ((self.middle - self.range).max(0.0), self.middle + self.range);
        low + (high - low) * normal.powf(self.exponent)
    }
}

impl Sampler for Temperature {
    fn apply(&mut self, candidates: &mut Candidates, _past: &[u32], _rng: &mut Rng) {
        match self.of(candidates) {
            t if t > 0.0 => candidates.scale(1.0 / t),
            _ => candidates.keep_best(),
        }
    }
}
