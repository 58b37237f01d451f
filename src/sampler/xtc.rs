//! XTC, "exclude top choices": now and then drops all tokens above a probability but the least likely of them
//! (p-e-w's proposal in text-generation-webui, 2024).
use super::{Candidates, Kind, Param, Place, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "xtc",
    place: Place::Listed,
    params: &[
        Param {
            name: "xtc-probability",
            aliases: &[],
            help: "How often XTC drops the top choices; 0 is never",
            preset: Preset::Float(0.0, 0.0, 1.0),
        },
        Param {
            name: "xtc-threshold",
            aliases: &[],
            help: "Probability from which on a token is a top choice for XTC; above 0.5 none is",
            preset: Preset::Float(0.1, 0.0, 1.0),
        },
    ],
    build: |settings, _| {
        let xtc = Xtc {
            probability: settings.float("xtc-probability"),
            threshold: settings.float("xtc-threshold"),
        };
        (xtc.probability > 0.0 && xtc.threshold <= 0.5).then(|| Box::new(xtc) as _)
    },
};

#[derive(Debug)]
struct Xtc {
    probability: f32,
    threshold: f32,
}

impl Sampler for Xtc {
    fn apply(&mut self, candidates: &mut Candidates, _past: &[u32], rng: &mut Rng) {
        if candidates.len() < 2 || rng.next_f64() >= f64::from(self.probability) {
            return;
        }
        candidates.softmax();
        let top = candidates.list().iter().filter(|c| c.p >= self.threshold).count();
        if top > 1 {
            candidates.sort_first(top);
            candidates.drop_first(top - 1);
        }
    }
}
