//! Min-p: drops tokens less likely than a share of the most likely one (Nguyen et al. 2024).
use super::{Candidates, Kind, Param, Place, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "min_p",
    place: Place::Listed,
    params: &[Param {
        name: "min-p",
        aliases: &[],
        help: "Drop tokens less likely than this share of the most likely one; 0 keeps all",
        preset: Preset::Float(0.05, 0.0, 1.0),
    }],
    build: |settings, _| match settings.float("min-p") {
        p if p > 0.0 => Some(Box::new(MinP(p))),
        _ => None,
    },
};

#[derive(Debug)]
struct MinP(f32);

impl Sampler for MinP {
    fn apply(&mut self, candidates: &mut Candidates, _past: &[u32], _rng: &mut Rng) {
        // p ≥ share · p_max is logit ≥ logit_max + ln(share): no softmax needed.
        candidates.keep_logits_from(candidates.max_logit() + self.0.ln());
    }
}
