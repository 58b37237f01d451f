//! How far the predictions of one model with its adapters are from those of another.
use lapwing_kernels::team::Team;
use lapwing_models::decoder::{Want, Workspace, forward};
use lapwing_models::kv_cache::{KvCache, KvType};
use lapwing_models::lora::Stack;
use lapwing_models::model::Model;
use lapwing_models::{Class, Error, Result};

/// Positions whose logits of both models are held at once.
const ROWS: usize = 16;

/// A model with the adapters on it.
#[derive(Clone, Copy)]
pub struct Tuned<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its adapters.
    pub stack: &'a Stack,
}

/// Differences of the predictions after each of some tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Divergence {
    /// KL(p‖q) of each prediction, in nats.
    pub kl: Vec<f64>,
    /// Predictions that agree on the likeliest token.
    pub same_top: usize,
}

impl Divergence {
    /// Mean divergence, in nats; 0 of nothing.
    pub fn mean(&self) -> f64 {
        self.kl.iter().sum::<f64>() / self.kl.len().max(1) as f64
    }

    /// Largest divergence, in nats.
    pub fn max(&self) -> f64 {
        self.kl.iter().copied().fold(0.0, f64::max)
    }

    /// Predictions that agree on the likeliest token, in percent.
    pub fn same_top_pct(&self) -> f64 {
        100.0 * self.same_top as f64 / self.kl.len().max(1) as f64
    }
}

/// KL(p‖q) of the predictions after tokens `first..` of `tokens`, both models reading the same tokens. After each step
/// `progress` hears how many tokens of all are done; when it answers false, the work ends.
///
/// # Errors
/// Vocabularies of different sizes, what [`forward`] finds, [`Class::Interrupted`].
pub fn divergence(
    team: &Team,
    p: Tuned<'_>,
    q: Tuned<'_>,
    tokens: &[u32],
    first: usize,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Divergence> {
    let vocab = p.model.spec().vocab;
    if q.model.spec().vocab != vocab {
        return Err(Error::new(Class::Usage, "models with different vocabularies cannot be compared")
            .expected_got(format!("{vocab} tokens"), q.model.spec().vocab));
    }
    let (mut p, mut q) = (Reader::new(p, tokens.len())?, Reader::new(q, tokens.len())?);
    let (before, rest) = tokens.split_at(first.min(tokens.len()));
    if !before.is_empty() {
        p.read(team, before, Want::None)?;
        q.read(team, before, Want::None)?;
    }
    let mut found = Divergence::default();
    for part in rest.chunks(ROWS) {
        let (p, q) = (p.read(team, part, Want::All)?, q.read(team, part, Want::All)?);
        for (p, q) in p.chunks_exact(vocab).zip(q.chunks_exact(vocab)) {
            found.kl.push(kl(p, q));
            found.same_top += usize::from(top(p) == top(q));
        }
        if !progress(first + found.kl.len(), tokens.len()) {
            return Err(Error::new(Class::Interrupted, "interrupted"));
        }
    }
    Ok(found)
}

/// A model reading a text.
struct Reader<'a> {
    model: &'a Model,
    cache: KvCache,
    workspace: Workspace,
}

impl<'a> Reader<'a> {
    fn new(tuned: Tuned<'a>, context: usize) -> Result<Self> {
        let mut workspace = Workspace::new(tuned.model, context)?;
        workspace.set_stack(tuned.stack);
        let cache = KvCache::new(tuned.model.spec(), KvType::F16, context)?;
        Ok(Self { model: tuned.model, cache, workspace })
    }

    fn read(&mut self, team: &Team, tokens: &[u32], want: Want) -> Result<&[f32]> {
        forward(self.model, team, &mut self.workspace, &mut self.cache, tokens, want)
    }
}

/// KL(p‖q) in nats of the distributions that these logits stand for.
pub fn kl(p: &[f32], q: &[f32]) -> f64 {
    let (of_p, of_q) = (log_sum_exp(p), log_sum_exp(q));
    let terms = p.iter().zip(q).map(|(p, q)| {
        let (p, q) = (f64::from(*p) - of_p, f64::from(*q) - of_q);
        p.exp() * (p - q)
    });
    // Rounding can leave equal distributions a hair below 0.
    terms.sum::<f64>().max(0.0)
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// Index of the largest logit, the first of equals.
fn top(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use lapwing_kernels::isa::Isa;

    use super::*;

    #[test]
    fn divergence_is_that_of_the_definition() {
        // 3/4 and 1/4 against 1/2 and 1/2; a common addend to logits means nothing.
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((kl(&[3f32.ln() + 7.0, 7.0], &[-2.0, -2.0]) - expected).abs() < 1e-6);
        assert_eq!(kl(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]), 0.0);
    }

    #[test]
    fn a_model_does_not_diverge_from_itself_but_from_its_tune() {
        let model = crate::synthetic::model("tiny-llama:q8_0", 1, 1).unwrap();
        let team = Team::new(1, Isa::best()).unwrap();
        let adapter = crate::synthetic::adapter("tiny-llama:f16", 4, 1).unwrap();
        let fitted = model.fit(adapter, lapwing_kernels::TensorType::F16, &team).unwrap();
        let (none, mut one) = (Stack::default(), Stack::default());
        one.add("a", std::sync::Arc::new(fitted), 1.0).unwrap();
        let tokens: Vec<u32> = (1..60).collect();
        let run = |p, q, first| {
            let [p, q] = [p, q].map(|stack| Tuned { model: &model, stack });
            divergence(&team, p, q, &tokens, first, |_, _| true).unwrap()
        };
        let same = run(&one, &one, 9);
        assert_eq!((same.kl.len(), same.max(), same.same_top_pct()), (50, 0.0, 100.0));
        let other = run(&none, &one, 0);
        assert!(other.kl.len() == 59 && other.mean() > 1e-4 && other.max() >= other.mean());
        // What follows does not depend on where counting begins.
        assert!((run(&none, &one, 58).kl[0] - other.kl[58]).abs() < 1e-12);
    }
}
