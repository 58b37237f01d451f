//! Top-nσ: only tokens whose logit is within n standard deviations of the highest (Tang et al. 2024).
use super::{Candidates, Kind, Param, Place, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "top_n_sigma",
    place: Place::Listed,
    params: &[Param {
        name: "top-nsigma",
        aliases: &["top-n-sigma"],
        help: "Keep tokens within this many standard deviations of the best logit; -1 keeps all",
        preset: Preset::Float(-1.0, -1.0, f32::MAX),
    }],
    build: |settings, _| match settings.float("top-nsigma") {
        n if n > 0.0 => Some(Box::new(TopNSigma(n))),
        _ => None,
    },
};

#[derive(Debug)]
struct TopNSigma(f32);

impl Sampler for TopNSigma {
    fn apply(&mut self, candidates: &mut Candidates, _past: &[u32], _rng: &mut Rng) {
        // Tokens ruled out by a bias of −∞ are no part of the distribution.
        let logits = || candidates.logits().filter(|x| x.is_finite()).map(f64::from);
        let (n, sum) = logits().fold((0.0, 0.0), |(n, sum), x| (n + 1.0, sum + x));
        if n <= 1.0 {
            return;
        }
        let mean: f64 = sum / n;
        let deviation = (logits().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n).sqrt();
        candidates.keep_logits_from(candidates.max_logit() - self.0 * deviation as f32);
    }
}
