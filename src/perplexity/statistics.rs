//! Sums over the predictions of a perplexity run.
use lapwing_models::Result;

use super::Sink;
use super::logits_file::{Row, log_sum_exp};

/// Log-probabilities of a base at or below this (the floor of the file's scale for a sure prediction) are left out
/// of the divergence: they are not known there.
const LEAST_LOG_PROB: f32 = -16.0;

/// The outcome of a perplexity run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Tokens evaluated, chunks times context.
    pub tokens: usize,
    /// Chunks evaluated.
    pub chunks: usize,
    /// exp of the mean negative log-probability of the text's tokens.
    pub ppl: f64,
    /// Standard error of `ppl`.
    pub ppl_stderr: f64,
    /// Against the logits of another model.
    pub against: Option<Comparison>,
}

/// How a model's predictions differ from a base's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Perplexity of the base.
    pub ppl_base: f64,
    /// Mean Kullback-Leibler divergence from the base, in nats.
    pub kld_mean: f64,
    /// Standard error of `kld_mean`.
    pub kld_stderr: f64,
    /// 99th percentile of the divergences.
    pub kld_p99: f64,
    /// Largest divergence.
    pub kld_max: f64,
    /// Predictions whose likeliest token is the base's, in percent.
    pub same_top_pct: f64,
    /// Root of the mean squared difference of the text's token's probability, in percent.
    pub rms_dp_pct: f64,
}

/// Count, sum and sum of squares of some numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    n: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, x: f64) {
        self.n += 1.0;
        self.sum += x;
        self.squares += x * x;
    }

    fn mean(&self) -> f64 {
        if self.n == 0.0 { 0.0 } else { self.sum / self.n }
    }

    /// Standard error of the mean.
    fn standard_error(&self) -> f64 {
        if self.n < 2.0 {
            return 0.0;
        }
        let variance = (self.squares / self.n - self.mean() * self.mean()).max(0.0);
        (variance / (self.n - 1.0)).sqrt()
    }
}

/// Negative log-probabilities of the text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    nll: Moments,
}

impl Tally {
    /// Counts one prediction, `logits` `[n_vocab]`, of a text that goes on with `next`.
    pub(super) fn add(&mut self, logits: &[f32], next: u32, sink: &mut Sink) -> Result<()> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // The largest term is 1, so the logarithm is that of a normal number.
        let log_sum = f64::from(max) + log_sum_exp(logits, max);
        let nll = log_sum - f64::from(logits[next as usize]);
        self.nll.add(nll);
        match sink {
            Sink::None => Ok(()),
            Sink::Write(writer) => writer.write_row(logits),
            Sink::Compare(reader, against) => {
                against.add(logits, max, log_sum, nll, next, reader.next_row()?);
                Ok(())
            }
        }
    }

    pub(super) fn ppl(&self) -> f64 {
        self.nll.mean().exp()
    }

    pub(super) fn report(&self, tokens: usize, chunks: usize, against: Option<Comparison>) -> Report {
        Report {
            tokens,
            chunks,
            ppl: self.ppl(),
            ppl_stderr: self.ppl() * self.nll.standard_error(),
            against,
        }
    }
}

/// Differences from a base.
#[derive(Clone, Debug, Default)]
pub(super) struct Against {
    nll_base: Moments,
    kld: Moments,
    klds: Vec<f64>,
    squared_dp: Moments,
    same_top: usize,
}

impl Against {
    fn add(&mut self, logits: &[f32], max: f32, log_sum: f64, nll: f64, next: u32, base: Row<'_>) {
        let nll_base = -f64::from(base.log_prob(next));
        self.nll_base.add(nll_base);
        let mut kld = 0.0;
        let (mut top_base, mut best) = (0, f32::NEG_INFINITY);
        for (i, (log_p, &logit)) in base.log_probs().zip(logits).enumerate() {
            if log_p > best {
                (top_base, best) = (i, log_p);
            }
            if log_p > LEAST_LOG_PROB {
                let log_q = f64::from(logit) - log_sum;
                kld += f64::from(log_p.exp()) * (f64::from(log_p) - log_q);
            }
        }
        self.kld.add(kld);
        self.klds.push(kld);
        let top = logits.iter().position(|&logit| logit == max);
        self.same_top += usize::from(top == Some(top_base));
        self.squared_dp.add(((-nll).exp() - (-nll_base).exp()).powi(2));
    }

    pub(super) fn comparison(mut self) -> Comparison {
        self.klds.sort_by(f64::total_cmp);
        let percent = |x: f64| 100.0 * x;
        Comparison {
            ppl_base: self.nll_base.mean().exp(),
            kld_mean: self.kld.mean(),
            kld_stderr: self.kld.standard_error(),
            kld_p99: percentile(&self.klds, 0.99),
            kld_max: self.klds.last().copied().unwrap_or_default(),
            same_top_pct: percent(self.same_top as f64 / self.kld.n.max(1.0)),
            rms_dp_pct: percent(self.squared_dp.mean().sqrt()),
        }
    }
}

/// Value at `fraction` of the way through sorted values, between neighbours where it falls there.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = fraction * last as f64;
    let low = at.floor() as usize;
    let part = at - at.floor();
    sorted[low] * (1.0 - part) + sorted[(low + 1).min(last)] * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_give_the_size_of_the_vocabulary() {
        let mut tally = Tally::default();
        for next in 0..4 {
            tally.add(&[1.5; 32], next, &mut Sink::None).unwrap();
        }
        let report = tally.report(8, 1, None);
        assert!((report.ppl - 32.0).abs() < 1e-9, "{}", report.ppl);
        assert!(report.ppl_stderr < 1e-6);
    }

    #[test]
    fn moments_are_those_of_the_definition() {
        let mut m = Moments::default();
        [1.0, 2.0, 4.0, 9.0].into_iter().for_each(|x| m.add(x));
        assert_eq!(m.mean(), 4.0);
        // Variance ((9 + 4 + 0 + 25) / 4) over n − 1.
        assert!((m.standard_error() - (9.5f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn percentiles_lie_between_neighbours() {
        assert_eq!(percentile(&[0.0, 1.0, 2.0, 3.0, 4.0], 0.5), 2.0);
        assert!((percentile(&[0.0, 10.0], 0.99) - 9.9).abs() < 1e-12);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        // A base of two tokens with probabilities 3/4 and 1/4, as a file would hold it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base");
        let header = super::super::Header { n_ctx: 4, n_vocab: 2, tokens: vec![0, 1, 0, 1] };
        let mut writer = super::super::LogitsWriter::create(&path, header).unwrap();
        writer.write_row(&[3f32.ln(), 0.0]).unwrap();
        writer.finish().unwrap();
        let reader = super::super::LogitsReader::open(&path).unwrap();
        let mut sink = Sink::Compare(Box::new(reader), Against::default());
        let mut tally = Tally::default();
        tally.add(&[0.0, 0.0], 1, &mut sink).unwrap();
        let Sink::Compare(_, against) = sink else { unreachable!() };
        let c = against.comparison();
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((c.kld_mean - expected).abs() < 1e-4, "{}", c.kld_mean);
        assert!((c.ppl_base - 4.0).abs() < 1e-3 && (tally.ppl() - 2.0).abs() < 1e-9);
        assert!((c.rms_dp_pct - 25.0).abs() < 1e-2);
        // The first of equal logits counts as the top, as the base's.
        assert_eq!(c.same_top_pct, 100.0);
    }
}
