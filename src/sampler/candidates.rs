//! The tokens that may come next, with their logits.
use std::cmp::Ordering;

use super::Mask;

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Unnormalised log-probability.
    pub logit: f32,
    /// Probability among the candidates; valid after [`Candidates::softmax`].
    pub p: f32,
}

/// More likely first; of equals the lower id, so that every choice is the same everywhere.
fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// All candidates. Starts as one logit per token of the vocabulary (dense), and becomes a list when a sampler asks
/// for one, so that the usual chain never builds a list of the whole vocabulary.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// Logits by token id, while nobody needed a list.
    dense: Vec<f32>,
    is_dense: bool,
    list: Vec<Candidate>,
    sorted: bool,
}

impl Candidates {
    /// Every token of the vocabulary with its logit (`logits.len()` is the size of the vocabulary, not 0).
    pub fn fill(&mut self, logits: &[f32]) {
        self.dense.clear();
        self.dense.extend_from_slice(logits);
        self.is_dense = true;
        self.sorted = false;
        self.list.clear();
    }

    /// Changes the logit of one token by `change`, if it is still a candidate.
    pub fn change(&mut self, id: u32, change: impl FnOnce(f32) -> f32) {
        let logit = if self.is_dense {
            self.dense.get_mut(id as usize)
        } else {
            self.list.iter_mut().find(|c| c.id == id).map(|c| &mut c.logit)
        };
        if let Some(logit) = logit {
            *logit = change(*logit);
            self.sorted = false;
        }
    }

    /// Number of candidates.
    pub fn len(&self) -> usize {
        if self.is_dense { self.dense.len() } else { self.list.len() }
    }

    /// Whether none are left (never, between samplers).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The highest logit.
    pub fn max_logit(&self) -> f32 {
        if self.is_dense {
            self.dense.iter().copied().fold(f32::NEG_INFINITY, f32::max)
        } else {
            self.list.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max)
        }
    }

    /// All logits, in no particular order.
    pub fn logits(&self) -> impl Iterator<Item = f32> {
        let dense = if self.is_dense { self.dense.as_slice() } else { &[] };
        dense.iter().copied().chain(self.list.iter().map(|c| c.logit))
    }

    /// The candidates as a list, in no particular order unless [`Self::sort_first`] came before.
    pub fn list(&mut self) -> &mut Vec<Candidate> {
        if self.is_dense {
            self.is_dense = false;
            self.list.clear();
            self.list.extend((0u32..).zip(&self.dense).map(|(id, &logit)| Candidate { id, logit, p: 0.0 }));
        }
        &mut self.list
    }

    /// Multiplies every logit by `factor` (> 0, so the order stays).
    pub fn scale(&mut self, factor: f32) {
        if self.is_dense {
            self.dense.iter_mut().for_each(|logit| *logit *= factor);
        } else {
            self.list.iter_mut().for_each(|c| c.logit *= factor);
        }
    }

    /// Keeps the candidates that `mask` allows, and all where it allows none of them.
    pub fn keep_allowed(&mut self, mask: &Mask) {
        let kept = (0u32..).zip(&self.dense).filter(|&(id, _)| self.is_dense && mask.allows(id));
        let mut kept: Vec<_> = kept.map(|(id, &logit)| Candidate { id, logit, p: 0.0 }).collect();
        kept.extend(self.list.iter().filter(|c| mask.allows(c.id)));
        if !kept.is_empty() {
            self.is_dense = false;
            self.sorted = false;
            self.list = kept;
        }
    }

    /// Keeps the candidates with at least this logit, but always the best one.
    pub fn keep_logits_from(&mut self, floor: f32) {
        let floor = floor.min(self.max_logit());
        if self.is_dense {
            self.is_dense = false;
            let kept = (0u32..).zip(&self.dense).filter(|&(_, &logit)| logit >= floor);
            self.list.clear();
            self.list.extend(kept.map(|(id, &logit)| Candidate { id, logit, p: 0.0 }));
        } else {
            self.list.retain(|c| c.logit >= floor);
        }
    }

    /// Keeps the `k` best (at least one), sorted from the best.
    pub fn keep_top(&mut self, k: usize) {
        let k = k.max(1);
        if self.is_dense && k < self.dense.len() / 4 {
            self.gather_top(k);
        } else {
            self.list();
        }
        if self.sorted {
            self.list.truncate(k);
        } else {
            partial_sort(&mut self.list, k);
            self.list.truncate(k);
            self.sorted = true;
        }
    }

    /// One pass over the dense logits: collects what beats the k-th best seen so far, and raises that bar whenever
    /// the collection doubles, so most of the vocabulary costs one comparison.
    fn gather_top(&mut self, k: usize) {
        self.is_dense = false;
        self.list.clear();
        let limit = 2 * k + 64;
        let mut bar = f32::NEG_INFINITY;
        for (id, &logit) in (0u32..).zip(&self.dense) {
            // A later token with the bar's own logit has a higher id than the k kept ones: it can never win.
            if logit > bar || self.list.len() < k {
                self.list.push(Candidate { id, logit, p: 0.0 });
                if self.list.len() == limit {
                    self.list.select_nth_unstable_by(k - 1, by_logit);
                    self.list.truncate(k);
                    bar = self.list[k - 1].logit;
                }
            }
        }
    }

    /// Sorts the best `n` to the front (all others behind them in no order; of equals the lower id is better) and
    /// returns the list.
    pub fn sort_first(&mut self, n: usize) -> &mut Vec<Candidate> {
        self.list();
        if !self.sorted {
            partial_sort(&mut self.list, n);
            self.sorted = n >= self.list.len();
        }
        &mut self.list
    }

    /// Keeps only the best candidate.
    pub fn keep_best(&mut self) {
        let best = self.best();
        self.is_dense = false;
        self.list.clear();
        self.list.push(best);
        self.sorted = true;
    }

    /// Keeps the first `n` of the list (at least one).
    pub fn truncate(&mut self, n: usize) {
        self.list().truncate(n.max(1));
    }

    /// Drops the first `n` of the list, but never all.
    pub fn drop_first(&mut self, n: usize) {
        let list = self.list();
        list.drain(..n.min(list.len().saturating_sub(1)));
    }

    /// Changes the list at will; when nothing is left of it, the best candidate is.
    pub fn rewrite(&mut self, change: impl FnOnce(&mut Vec<Candidate>)) {
        let best = self.best();
        change(self.list());
        if self.list.is_empty() {
            self.list.push(best);
        }
        self.sorted = false;
    }

    /// Sets every candidate's probability: the softmax of the logits, summed in f64 in list order.
    pub fn softmax(&mut self) {
        let max = self.max_logit();
        let list = self.list();
        let mut sum = 0.0f64;
        for c in list.iter_mut() {
            c.p = (c.logit - max).exp();
            sum += f64::from(c.p);
        }
        for c in list.iter_mut() {
            c.p = (f64::from(c.p) / sum) as f32;
        }
    }

    /// The best candidate; of equals the lowest id.
    pub fn best(&self) -> Candidate {
        if self.is_dense {
            // Strictly greater keeps the first of equals.
            let mut best = Candidate { id: 0, logit: f32::NEG_INFINITY, p: 1.0 };
            for (id, &logit) in (0u32..).zip(&self.dense) {
                if logit > best.logit {
                    best = Candidate { id, logit, p: 1.0 };
                }
            }
            best
        } else {
            let best = self.list.iter().copied().min_by(by_logit);
            best.unwrap_or(Candidate { id: 0, logit: f32::NEG_INFINITY, p: 1.0 })
        }
    }
}

/// Sorts the `k` best of `list` to its front.
fn partial_sort(list: &mut [Candidate], k: usize) {
    if k < list.len() {
        list.select_nth_unstable_by(k, by_logit);
        list[..k].sort_unstable_by(by_logit);
    } else {
        list.sort_unstable_by(by_logit);
    }
}
