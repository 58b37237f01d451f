//! Log-probabilities of tokens, from the model's own logits (before any sampler).

/// A token and its natural log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logprob {
    /// Token id.
    pub id: u32,
    /// ln p.
    pub logprob: f32,
}

/// The chosen token's log-probability, and those of the most likely ones.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token chosen.
    pub chosen: Logprob,
    /// The most likely tokens, best first; of equals the lower id first.
    pub top: Vec<Logprob>,
}

/// The log-probability of `chosen` and of the `n` most likely tokens. The sum is in f64.
///
/// # Panics
/// When `chosen` is not a token of the vocabulary.
pub fn top_logprobs(logits: &[f32], chosen: u32, n: usize) -> TokenLogprob {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    let ln_sum = sum.ln() + f64::from(max);
    let of = |id: u32| Logprob { id, logprob: (f64::from(logits[id as usize]) - ln_sum) as f32 };
    let mut candidates = crate::sampler::Candidates::default();
    candidates.fill(logits);
    candidates.keep_top(n);
    let top = if n == 0 { Vec::new() } else { candidates.list().iter().map(|c| of(c.id)).collect() };
    TokenLogprob { chosen: of(chosen), top }
}

#[cfg(test)]
mod tests {
    use super::top_logprobs;

    #[test]
    fn log_probabilities_sum_to_one_and_come_best_first() {
        let logits = [1.0f32, 3.0, -2.0, 3.0];
        let found = top_logprobs(&logits, 2, 4);
        let sum: f32 = found.top.iter().map(|t| t.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|t| t.id).collect::<Vec<_>>(), [1, 3, 0, 2]);
        assert_eq!(found.chosen, found.top[3]);
        assert!(top_logprobs(&logits, 0, 0).top.is_empty());
    }
}
