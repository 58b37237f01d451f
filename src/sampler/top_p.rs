//! Top-p: the fewest most likely tokens that reach a total probability (Holtzman et al. 2019).
use super::{Candidates, Kind, Param, Place, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "top_p",
    place: Place::Listed,
    params: &[Param {
        name: "top-p",
        aliases: &[],
        help: "Keep the most likely tokens up to this total probability; 1 keeps all",
        preset: Preset::Float(0.95, 0.0, 1.0),
    }],
    build: |settings, _| match settings.float("top-p") {
        p if p < 1.0 => Some(Box::new(TopP(p))),
        _ => None,
    },
};

#[derive(Debug)]
struct TopP(f32);

impl Sampler for TopP {
    fn apply(&mut self, candidates: &mut Candidates, _past: &[u32], _rng: &mut Rng) {
        candidates.softmax();
        // Few tokens hold nearly all probability: sort a few, and more only when they were not enough.
        let mut n = 64;
        loop {
            let list = candidates.sort_first(n);
            let mut sum = 0.0f64;
            let enough = list.iter().take(n).position(|c| {
                sum += f64::from(c.p);
                sum >= f64::from(self.0)
            });
            if let Some(last) = enough {
                return candidates.truncate(last + 1);
            }
            if n >= list.len() {
                return;
            }
            n *= 16;
        }
    }
}
