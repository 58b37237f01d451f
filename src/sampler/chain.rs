//! The samplers in their order, and the draw at the end.
use lapwing_models::{Error, Result};

use super::{Candidates, Rng, Sampler, Settings, Vocab};

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
        let seed = settings.seed.unwrap_or_else(Rng::fresh_seed);
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

    /// Chooses the token that follows `past`, given one logit for each token of the vocabulary.
    ///
    /// # Errors
    /// A bad-file error when a logit is not a number or infinitely high: the weights are damaged.
    pub fn choose(&mut self, logits: &[f32], past: &[u32]) -> Result<Choice> {
        check(logits)?;
        self.candidates.fill(logits);
        for sampler in &mut self.samplers {
            sampler.apply(&mut self.candidates, past, &mut self.rng);
        }
        let choice = self.draw();
        self.samplers.iter_mut().for_each(|sampler| sampler.accept(&choice));
        Ok(choice)
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

/// Refuses logits that are NaN or +∞ (−∞ only means "never").
pub(crate) fn check(logits: &[f32]) -> Result<()> {
    let is_bad = |x: f32| x.is_nan() || x == f32::INFINITY;
    // First without branches, as this passes for every token of every answer.
    if !logits.iter().fold(false, |bad, &x| bad | is_bad(x)) {
        return Ok(());
    }
    let (id, value) = (0..).zip(logits).find(|&(_, &x)| is_bad(x)).unwrap_or((0, &f32::NAN));
    Err(Error::bad_file("the model computed a logit that is no number: its weights are damaged")
        .at(format!("token {id}"))
        .expected_got("finite logits", value))
}
