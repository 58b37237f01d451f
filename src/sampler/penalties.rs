//! Penalties on tokens that came before: repeat (Keskar et al. 2019, CTRL), frequency and presence (OpenAI's).
use std::collections::BTreeMap;

use super::{Candidates, Kind, Param, Place, Preset, Rng, Sampler};

pub(super) static KIND: Kind = Kind {
    name: "penalties",
    place: Place::Listed,
    params: &[
        Param {
            name: "repeat-last-n",
            aliases: &["penalty-last-n"],
            help: "Tokens looked back on by the penalties; 0 is none, -1 is all",
            preset: Preset::Int(64, -1, i32::MAX as i64),
        },
        Param {
            name: "repeat-penalty",
            aliases: &["penalty-repeat"],
            help: "Penalty on tokens that came before; 1 is none",
            preset: Preset::Float(1.0, f32::MIN_POSITIVE, f32::MAX),
        },
        Param {
            name: "frequency-penalty",
            aliases: &["penalty-freq"],
            help: "Penalty for each time a token came before; 0 is none",
            preset: Preset::Float(0.0, f32::MIN, f32::MAX),
        },
        Param {
            name: "presence-penalty",
            aliases: &["penalty-present"],
            help: "Penalty on a token that came before, however often; 0 is none",
            preset: Preset::Float(0.0, f32::MIN, f32::MAX),
        },
    ],
    build: |settings, _| {
        let penalties = Penalties {
            last_n: usize::try_from(settings.int("repeat-last-n")).unwrap_or(usize::MAX),
            repeat: settings.float("repeat-penalty"),
            frequency: settings.float("frequency-penalty"),
            presence: settings.float("presence-penalty"),
        };
        let idle = penalties.repeat == 1.0 && penalties.frequency == 0.0 && penalties.presence == 0.0;
        (penalties.last_n > 0 && !idle).then(|| Box::new(penalties) as Box<dyn Sampler>)
    },
};

#[derive(Debug)]
struct Penalties {
    /// Tokens looked back on.
    last_n: usize,
    repeat: f32,
    frequency: f32,
    presence: f32,
}

impl Sampler for Penalties {
    fn apply(&mut self, candidates: &mut Candidates, past: &[u32], _rng: &mut Rng) {
        let mut counts = BTreeMap::<u32, u32>::new();
        for &id in &past[past.len().saturating_sub(self.last_n)..] {
            *counts.entry(id).or_default() += 1;
        }
        for (id, count) in counts {
            candidates.change(id, |logit| {
                // A negative logit is made smaller by multiplying, a positive one by dividing.
                let repeated = if logit <= 0.0 { logit * self.repeat } else { logit / self.repeat };
                repeated - count as f32 * self.frequency - self.presence
            });
        }
    }
}
