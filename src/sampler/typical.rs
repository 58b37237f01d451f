//! Locally typical sampling: tokens whose surprise is near the expected one (Meister et al. 2022).
use super::{Candidates, Kind, Param, Place, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "typ_p",
    place: Place::Listed,
    params: &[Param {
        name: "typical",
        aliases: &["typical-p", "typ-p"],
        help: "Keep the most typical tokens up to this total probability; 1 keeps all",
        preset: Preset::Float(1.0, 0.0, 1.0),
    }],
    build: |settings, _| match settings.float("typical") {
        p if p < 1.0 => Some(Box::new(Typical(p))),
        _ => None,
    },
};

#[derive(Debug)]
struct Typical(f32);

impl Sampler for Typical {
    fn apply(&mut self, candidates: &mut Candidates, _past: &[u32], _rng: &mut Rng) {
        candidates.softmax();
        candidates.rewrite(|list| {
            // A token of probability 0 has no surprise to compare; its share of the entropy is 0.
            list.retain(|c| c.p > 0.0);
            let surprise = |p: f32| -f64::from(p).ln();
            let entropy: f64 = list.iter().map(|c| f64::from(c.p) * surprise(c.p)).sum();
            let distance = |p: f32| (surprise(p) - entropy).abs();
            list.sort_unstable_by(|a, b| distance(a.p).total_cmp(&distance(b.p)).then(a.id.cmp(&b.id)));
            let mut sum = 0.0;
            let enough = list.iter().position(|c| {
                sum += f64::from(c.p);
                sum > f64::from(self.0)
            });
            list.truncate(enough.map_or(list.len(), |last| last + 1));
        });
    }
}
