//! DRY, "don't repeat yourself": a penalty on tokens that would extend a sequence seen before, growing with its length
//! (p-e-w's proposal in text-generation-webui, 2024).
use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Candidates, Kind, Param, Place, Preset, Rng, Sampler, Settings, Vocab};

pub(super) static KIND: Kind = Kind {
    name: "dry",
    place: Place::Listed,
    params: &[
        Param {
            name: "dry-multiplier",
            aliases: &[],
            help: "Strength of the DRY penalty on repeated sequences; 0 is none",
            preset: Preset::Float(0.0, 0.0, f32::MAX),
        },
        Param {
            name: "dry-base",
            aliases: &[],
            help: "Growth of the DRY penalty with each repeated token",
            preset: Preset::Float(1.75, 1.0, f32::MAX),
        },
        Param {
            name: "dry-allowed-length",
            aliases: &[],
            help: "Longest repetition that DRY leaves alone",
            preset: Preset::Int(2, 0, i32::MAX as i64),
        },
        Param {
            name: "dry-penalty-last-n",
            aliases: &[],
            help: "Tokens looked back on by DRY; 0 is none, -1 is all",
            preset: Preset::Int(64, -1, i32::MAX as i64),
        },
        Param {
            name: "dry-sequence-breaker",
            aliases: &[],
            help: "Text across which DRY sees no repetition (repeatable; `none` for none)",
            preset: Preset::Texts(&["\n", ":", "\"", "*"]),
        },
    ],
    build: |settings, vocab| {
        let last_n = usize::try_from(settings.int("dry-penalty-last-n")).unwrap_or(usize::MAX);
        let multiplier = settings.float("dry-multiplier");
        (multiplier > 0.0 && last_n > 0).then(|| Box::new(Dry::new(settings, vocab, multiplier, last_n)) as _)
    },
};

#[derive(Debug)]
struct Dry {
    multiplier: f32,
    base: f32,
    allowed: usize,
    last_n: usize,
    /// Tokens whose text holds a whole breaker.
    breakers: HashSet<u32>,
    /// Tokens that end with the start of a breaker, and what must follow to complete it.
    starts: HashMap<u32, Vec<Vec<u8>>>,
    /// Bytes of tokens that complete a breaker; empty where every breaker is one byte.
    texts: Vec<Vec<u8>>,
}

impl Dry {
    fn new(settings: &Settings, vocab: &dyn Vocab, multiplier: f32, last_n: usize) -> Self {
        let mut dry = Self {
            multiplier,
            base: settings.float("dry-base"),
            allowed: settings.int("dry-allowed-length").max(0) as usize,
            last_n,
            breakers: HashSet::new(),
            starts: HashMap::new(),
            texts: Vec::new(),
        };
        let texts: Vec<&[u8]> = settings.texts("dry-sequence-breaker").iter().map(String::as_bytes).collect();
        let long = texts.iter().any(|text| text.len() > 1);
        for id in 0..vocab.n_tokens() as u32 {
            let bytes = vocab.bytes(id);
            for &text in texts.iter().filter(|text| !text.is_empty()) {
                if bytes.windows(text.len()).any(|window| window == text) {
                    dry.breakers.insert(id);
                }
                for n in 1..text.len().min(bytes.len() + 1) {
                    if bytes.ends_with(&text[..n]) {
                        dry.starts.entry(id).or_default().push(text[n..].to_vec());
                    }
                }
            }
            if long {
                dry.texts.push(bytes);
            }
        }
        dry
    }

    /// How many of the last tokens of `past` lie behind the last breaker.
    fn since_breaker(&self, past: &[u32]) -> usize {
        (0..past.len()).find(|&n| self.breaks(&past[past.len() - 1 - n..])).unwrap_or(past.len())
    }

    /// Whether a breaker begins in the first of these tokens and ends among them.
    fn breaks(&self, tokens: &[u32]) -> bool {
        let follows = |rest: &Vec<u8>| {
            let mut rest = rest.as_slice();
            for &id in &tokens[1..] {
                let bytes = self.texts.get(id as usize).map_or(&[][..], Vec::as_slice);
                let n = rest.len().min(bytes.len());
                if rest[..n] != bytes[..n] {
                    return false;
                }
                rest = &rest[n..];
            }
            rest.is_empty()
        };
        self.breakers.contains(&tokens[0])
            || self.starts.get(&tokens[0]).is_some_and(|rests| rests.iter().any(follows))
    }
}

impl Sampler for Dry {
    fn apply(&mut self, candidates: &mut Candidates, past: &[u32], _rng: &mut Rng) {
        let past = &past[past.len().saturating_sub(self.last_n)..];
        let limit = self.since_breaker(past);
        if past.len() <= self.allowed || limit < self.allowed {
            return;
        }
        // Longest repetition that each token would extend. Beyond e⁸⁸ a penalty is no finite number.
        let greatest =
            if self.base > 1.000_001 { (f32::MAX.ln() / self.base.ln()) as usize } else { usize::MAX };
        let mut longest = BTreeMap::<u32, usize>::new();
        for (end, &n) in repeats(past).iter().enumerate().skip(1) {
            let n = n.min(limit);
            if n >= self.allowed && !self.breakers.contains(&past[end]) {
                let known = longest.entry(past[end]).or_default();
                *known = n.max(*known);
            }
        }
        for (id, n) in longest {
            let exponent = (n - self.allowed).min(greatest);
            let penalty = self.multiplier * self.base.powi(i32::try_from(exponent).unwrap_or(i32::MAX));
            candidates.change(id, |logit| logit - penalty);
        }
    }
}

/// For each position: how many tokens just before it equal the last tokens of all. This is the Z function of the
/// reversed sequence (Gusfield 1997), linear in its length; the whole sequence itself counts as no repetition.
fn repeats(tokens: &[u32]) -> Vec<usize> {
    let len = tokens.len();
    let back = |i: usize| tokens[len - 1 - i];
    let mut z = vec![0; len];
    // A window of the reversed sequence that is known to equal its start.
    let (mut left, mut right) = (0, 0);
    for i in 1..len {
        let mut n = if i < right { z[i - left].min(right - i) } else { 0 };
        while i + n < len && back(n) == back(i + n) {
            n += 1;
        }
        if i + n > right {
            (left, right) = (i, i + n);
        }
        z[i] = n;
    }
    // z[i] counts from position len−1−i backwards: it stands before position len−i.
    (0..len).map(|end| if end == 0 { 0 } else { z[len - end] }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Words, assert_close, distribution_in, logits, only, softmax};
    use super::*;

    /// The definition, in cubic time: a token is punished for the longest n such that the last n tokens, none of them
    /// at or before a breaker, also occur just before an earlier occurrence of it.
    fn slow(words: &Words, past: &[u32], allowed: usize, multiplier: f64, base: f64) -> BTreeMap<u32, f64> {
        let text = |ids: &[u32]| ids.iter().flat_map(|&id| words.bytes(id)).collect::<Vec<u8>>();
        let breaks = |id: u32| text(&[id]).iter().any(|b| b"\n:*\"".contains(b));
        let limit = past.iter().rev().take_while(|&&id| !breaks(id)).count();
        let mut longest = BTreeMap::<u32, usize>::new();
        for end in 1..past.len() {
            let most = (0..=end.min(limit))
                .rev()
                .find(|&n| past[end - n..end] == past[past.len() - n..])
                .unwrap_or(0);
            if most >= allowed && !breaks(past[end]) {
                let known = longest.entry(past[end]).or_default();
                *known = most.max(*known);
            }
        }
        if past.len() <= allowed || limit < allowed {
            longest.clear();
        }
        longest.into_iter().map(|(id, n)| (id, multiplier * base.powi((n - allowed) as i32))).collect()
    }

    #[test]
    fn repeated_sequences_are_punished_by_their_length() {
        // A small alphabet, so that random texts repeat themselves; token 3 is a breaker.
        let words = Words(vec!["a", "b", "c", "\n", "dd"]);
        let x = logits(5, 1);
        let mut rng = Rng::new(5);
        let mut punished = 0;
        for round in 0..500 {
            let past: Vec<u32> =
                (0..rng.next_u64() % 40).map(|_| (rng.next_u64() % 50 * 5 / 51) as u32).collect();
            let allowed = round % 4;
            let settings = only(&[
                ("dry-multiplier", "0.8"),
                ("dry-base", "1.5"),
                ("dry-allowed-length", &allowed.to_string()),
            ]);
            let mut expected: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            for (id, penalty) in slow(&words, &past, allowed, f64::from(0.8f32), 1.5) {
                expected[id as usize] -= penalty;
                punished += 1;
            }
            let got = distribution_in(&words, &settings, &x, &past);
            assert_close(&got, &softmax(&expected), &format!("{past:?}, allowed {allowed}"));
        }
        assert!(punished > 300, "{punished}");
    }

    #[test]
    fn breakers_may_span_tokens() {
        let words = Words(vec!["a", "b", "x#", "#y", "#"]);
        let mut settings = only(&[("dry-multiplier", "1"), ("dry-allowed-length", "1")]);
        settings.set_texts("dry-sequence-breaker", vec!["##".to_owned()]).unwrap();
        let Some(sampler) = (KIND.build)(&settings, &words) else { panic!("DRY is on") };
        drop(sampler);
        let dry = Dry::new(&settings, &words, 1.0, usize::MAX);
        assert_eq!(
            dry.since_breaker(&[0, 1, 2, 3, 0, 1]),
            3,
            "x# and #y make a breaker; what follows #y is 2"
        );
        assert_eq!(dry.since_breaker(&[0, 2, 0, 1]), 4, "x#a is none");
    }
}
