//! Mirostat: holds the surprise of the text at a target by cutting off unlikely tokens more or less (Basu et al. 2020).
//! It takes the place of all samplers but temperature.
use super::{Candidates, Choice, Kind, Param, Place, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "mirostat",
    place: Place::Last,
    params: &[
        Param {
            name: "mirostat",
            aliases: &[],
            help: "1 or 2: mirostat of that version in place of the other samplers; 0 is off",
            preset: Preset::Int(0, 0, 2),
        },
        Param {
            name: "mirostat-ent",
            aliases: &["mirostat-tau"],
            help: "Surprise that mirostat aims at, in bits",
            preset: Preset::Float(5.0, 0.0, f32::MAX),
        },
        Param {
            name: "mirostat-lr",
            aliases: &["mirostat-eta"],
            help: "How fast mirostat follows",
            preset: Preset::Float(0.1, 0.0, f32::MAX),
        },
    ],
    build: |settings, vocab| {
        let (target, rate) = (settings.float("mirostat-ent"), settings.float("mirostat-lr"));
        let state = Mirostat { target, rate, limit: 2.0 * target, version: 0, n_vocab: vocab.n_tokens() };
        match settings.int("mirostat") {
            version @ 1..=2 => Some(Box::new(Mirostat { version, ..state })),
            _ => None,
        }
    },
};

#[derive(Debug)]
struct Mirostat {
    version: i64,
    /// Surprise aimed at, bits.
    target: f32,
    rate: f32,
    /// Surprise above which tokens are cut off, bits; μ in the paper.
    limit: f32,
    n_vocab: usize,
}

/// Tokens from which version 1 estimates the shape of the distribution, as in the paper's own code.
const SAMPLE: usize = 100;

impl Mirostat {
    /// How many tokens version 1 keeps: the distribution taken as Zipf's, with an exponent estimated from its start.
    fn keep(&self, candidates: &mut Candidates) -> usize {
        let list = candidates.sort_first(SAMPLE);
        let (mut products, mut squares) = (0.0f64, 0.0f64);
        let pairs = list.windows(2).take(SAMPLE - 1);
        for (i, pair) in pairs.enumerate().filter(|(_, pair)| pair[1].p > 0.0) {
            let t = ((i + 2) as f64 / (i + 1) as f64).ln();
            let b = (f64::from(pair[0].p) / f64::from(pair[1].p)).ln();
            products += t * b;
            squares += t * t;
        }
        let s = products / squares;
        let epsilon = s - 1.0;
        let n = self.n_vocab.max(list.len()) as f64;
        let k = (epsilon * f64::from(self.limit).exp2() / (1.0 - n.powf(-epsilon))).powf(1.0 / s);
        // NaN, from a distribution without shape, keeps all but none.
        if k.is_finite() { k as usize } else { 1 }
    }
}

impl Sampler for Mirostat {
    fn apply(&mut self, candidates: &mut Candidates, _past: &[u32], _rng: &mut Rng) {
        candidates.softmax();
        if self.version == 1 {
            let k = self.keep(candidates);
            return candidates.keep_top(k);
        }
        let unsurprising = candidates.list().iter().filter(|c| -c.p.log2() <= self.limit).count();
        candidates.keep_top(unsurprising);
    }

    fn accept(&mut self, choice: &Choice) {
        let surprise = -choice.p.log2();
        self.limit -= self.rate * (surprise - self.target);
    }

    fn reset(&mut self) {
        self.limit = 2.0 * self.target;
    }
}
