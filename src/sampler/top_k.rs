//! Top-k: only the k most likely tokens (Fan et al. 2018, "Hierarchical Neural Story Generation").
use super::{Candidates, Kind, Param, Place, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "top_k",
    place: Place::Listed,
    params: &[Param {
        name: "top-k",
        aliases: &[],
        help: "Keep the K most likely tokens; 0 or -1 keeps all",
        preset: Preset::Int(40, -1, i32::MAX as i64),
    }],
    build: |settings, _| match settings.int("top-k") {
        k if k > 0 => Some(Box::new(TopK(k as usize))),
        _ => None,
    },
};

#[derive(Debug)]
struct TopK(usize);

impl Sampler for TopK {
    fn apply(&mut self, candidates: &mut Candidates, _past: &[u32], _rng: &mut Rng) {
        candidates.keep_top(self.0);
    }
}
