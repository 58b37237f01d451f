//! The samplers in their order, and the draw at the end.
use super::{Candidates, Mask, Rng, Sampler, Settings, Vocab};

/// What the chain chose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub id: u32,
    /// Its probability among the candidates that were left.
    pub p: f32,
}

/// Chooses tokens: applies the samplers in order, then draws by probability.
#[derive(Debug)]
pub struct Chain {
    samplers: Vec<Box<dyn Sampler>>,
    candidates: Candidates,
    rng: Rng,
    seed: u64,
}

impl Chain {
    /// The chain that `settings` ask for.
    pub fn new(settings: &Settings, vocab: &dyn Vocab) -> Self {
        let seed = settings.seed().unwrap_or_else(Rng::fresh_seed);
        let samplers: Vec<_> = settings.kinds().filter_map(|kind| (kind.build)(settings, vocab)).collect();
        Self { samplers, candidates: Candidates::default(), rng: Rng::new(seed), seed }
    }

    /// The seed in use, whether asked for or made up.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Prepares for a new answer; the random numbers go on.
    pub fn reset(&mut self) {
        self.samplers.iter_mut().for_each(|sampler| sampler.reset());
    }

    /// Chooses the token that follows `past`, given one finite logit for each token of the vocabulary (the forward
    /// pass gives no others); with a mask, only among the tokens that it allows.
    pub fn choose(&mut self, logits: &[f32], past: &[u32], mask: Option<Mask>) -> Choice {
        self.candidates.fill(logits);
        if let Some(mask) = mask {
            self.candidates.keep_allowed(&mask);
        }
        for sampler in &mut self.samplers {
            sampler.apply(&mut self.candidates, past, &mut self.rng);
        }
        let choice = self.draw();
        self.samplers.iter_mut().for_each(|sampler| sampler.accept(&choice));
        choice
    }

    /// Draws one candidate by its probability.
    fn draw(&mut self) -> Choice {
        if self.candidates.len() == 1 {
            return Choice { id: self.candidates.best().id, p: 1.0 };
        }
        self.candidates.softmax();
        let mut left = self.rng.next_f64();
        let list = self.candidates.list();
        for c in list.iter() {
            left -= f64::from(c.p);
            if left < 0.0 {
                return Choice { id: c.id, p: c.p };
            }
        }
        // Rounding left a crumb after the last one: it belongs to the best.
        let best = self.candidates.best();
        Choice { id: best.id, p: best.p }
    }
}
