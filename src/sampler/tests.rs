//! Each sampler against a slow and obvious computation of the distribution it stands for.
use super::*;

impl Vocab for () {
    fn n_tokens(&self) -> usize {
        0
    }
    fn bytes(&self, _: u32) -> Vec<u8> {
        Vec::new()
    }
}

/// Logits of a pretended vocabulary: a few likely tokens, many unlikely ones, equals among them.
pub(super) fn logits(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n)
        .map(|_| {
            let x = (0..6).map(|_| rng.next_f64()).sum::<f64>() - 3.0;
            // Rounded, so that equal logits occur.
            ((x * 4.0) as f32 * 16.0).round() / 16.0
        })
        .collect()
}

/// Settings in which only the given ones act: `only("top-k", "3")`.
pub(super) fn only(changes: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::default();
    for (name, value) in
        [("seed", "1"), ("top-k", "0"), ("top-p", "1"), ("min-p", "0"), ("temp", "1")].iter().chain(changes)
    {
        settings.set(name, value).unwrap();
    }
    settings
}

/// A vocabulary of these texts.
pub(super) struct Words(pub(super) Vec<&'static str>);

impl Vocab for Words {
    fn n_tokens(&self) -> usize {
        self.0.len()
    }
    fn bytes(&self, id: u32) -> Vec<u8> {
        self.0[id as usize].as_bytes().to_vec()
    }
}

/// The probability of each token after the chain, 0 where it was removed.
pub(super) fn distribution(settings: &Settings, logits: &[f32], past: &[u32]) -> Vec<f64> {
    distribution_in(&(), settings, logits, past)
}

/// [`distribution`] with a vocabulary.
pub(super) fn distribution_in(
    vocab: &dyn Vocab,
    settings: &Settings,
    logits: &[f32],
    past: &[u32],
) -> Vec<f64> {
    let mut candidates = Candidates::default();
    candidates.fill(logits);
    let mut rng = Rng::new(7);
    for kind in settings.kinds() {
        if let Some(mut sampler) = (kind.build)(settings, vocab) {
            sampler.apply(&mut candidates, past, &mut rng);
        }
    }
    candidates.softmax();
    let mut p = vec![0.0; logits.len()];
    candidates.list().iter().for_each(|c| p[c.id as usize] = f64::from(c.p));
    p
}

pub(super) fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|x| x / sum).collect()
}

/// Token ids from the most likely; of equals the lower id first.
pub(super) fn ranking(p: &[f64]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..p.len()).collect();
    ids.sort_by(|&a, &b| p[b].total_cmp(&p[a]).then(a.cmp(&b)));
    ids
}

/// Sets all but `kept` to 0 and normalises.
pub(super) fn keep(p: &[f64], kept: &[usize]) -> Vec<f64> {
    let sum: f64 = kept.iter().map(|&id| p[id]).sum();
    let mut q = vec![0.0; p.len()];
    kept.iter().for_each(|&id| q[id] = p[id] / sum);
    q
}

pub(super) fn assert_close(got: &[f64], expected: &[f64], what: &str) {
    for (id, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g == &0.0) == (e == &0.0), "{what}: token {id} kept wrongly: got {g}, expected {e}");
        assert!((g - e).abs() <= 1e-5, "{what}: token {id}: got {g}, expected {e}");
    }
}

fn wide(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn top_k_keeps_the_k_most_likely() {
    for (n, k) in [(1000, 1), (1000, 40), (1000, 249), (1000, 900), (50, 40), (30, 40)] {
        let x = logits(n, k as u64);
        let p = softmax(&wide(&x));
        let expected = keep(&p, &ranking(&p)[..k.min(n)]);
        let got = distribution(&only(&[("top-k", &k.to_string())]), &x, &[]);
        assert_close(&got, &expected, &format!("top_k {k} of {n}"));
    }
}

#[test]
fn top_p_keeps_the_fewest_that_reach_p() {
    for p_limit in [0.0f32, 0.3, 0.9, 0.999].map(f64::from) {
        let x = logits(2000, 5);
        let p = softmax(&wide(&x));
        let rank = ranking(&p);
        let mut sum = 0.0;
        let n = 1 + rank
            .iter()
            .position(|&id| {
                sum += p[id];
                sum >= p_limit
            })
            .unwrap();
        let got = distribution(&only(&[("top-p", &p_limit.to_string())]), &x, &[]);
        assert_close(&got, &keep(&p, &rank[..n]), &format!("top_p {p_limit}"));
    }
}

#[test]
fn min_p_drops_below_a_share_of_the_best() {
    for share in [0.01, 0.05, 0.5, 1.0] {
        let x = logits(2000, 9);
        let p = softmax(&wide(&x));
        let best = p.iter().copied().fold(0.0, f64::max);
        let kept: Vec<_> = (0..p.len()).filter(|&id| p[id] >= share * best * (1.0 - 1e-6)).collect();
        let got = distribution(&only(&[("min-p", &share.to_string())]), &x, &[]);
        assert_close(&got, &keep(&p, &kept), &format!("min_p {share}"));
    }
}

#[test]
fn temperature_divides_and_zero_is_greedy() {
    let x = logits(500, 3);
    for t in [0.3, 0.8, 2.0] {
        let expected = softmax(&x.iter().map(|&x| f64::from(x) / t).collect::<Vec<_>>());
        let got = distribution(&only(&[("temp", &t.to_string())]), &x, &[]);
        assert_close(&got, &expected, &format!("temperature {t}"));
    }
    let p = softmax(&wide(&x));
    let got = distribution(&only(&[("temp", "0")]), &x, &[]);
    assert_close(&got, &keep(&p, &ranking(&p)[..1]), "temperature 0");
}

#[test]
fn penalties_act_on_the_last_tokens_only() {
    let x = logits(100, 4);
    let past: Vec<u32> = vec![7, 7, 50, 3, 3, 3, 9];
    let settings = only(&[
        ("repeat-last-n", "5"),
        ("repeat-penalty", "1.3"),
        ("frequency-penalty", "0.2"),
        ("presence-penalty", "0.5"),
    ]);
    let mut expected = wide(&x);
    for (id, count) in [(50, 1.0), (3, 3.0), (9, 1.0)] {
        let e: &mut f64 = &mut expected[id];
        *e = if *e <= 0.0 { *e * 1.3 } else { *e / 1.3 } - 0.2 * count - 0.5;
    }
    assert_close(&distribution(&settings, &x, &past), &softmax(&expected), "penalties");
    let all = only(&[("repeat-last-n", "-1"), ("presence-penalty", "1")]);
    let mut expected = wide(&x);
    [7, 50, 3, 9].iter().for_each(|&id: &usize| expected[id] -= 1.0);
    assert_close(&distribution(&all, &x, &past), &softmax(&expected), "presence over all");
}

#[test]
fn the_default_chain_is_top_k_then_top_p_then_min_p_then_temperature() {
    let x = logits(3000, 11);
    let p = softmax(&wide(&x));
    let rank = ranking(&p);
    let p40 = keep(&p, &rank[..40]);
    let mut sum = 0.0;
    let n = 1 + rank
        .iter()
        .position(|&id| {
            sum += p40[id];
            sum >= f64::from(0.95f32)
        })
        .unwrap();
    let kept: Vec<_> = rank[..n].iter().copied().filter(|&id| p[id] >= 0.05 * p[rank[0]]).collect();
    let mut scaled = vec![f64::NEG_INFINITY; x.len()];
    kept.iter().for_each(|&id| scaled[id] = f64::from(x[id]) / f64::from(0.8f32));
    let settings = Settings::default();
    assert_close(&distribution(&settings, &x, &[]), &softmax(&scaled), "default chain");
    // llama.cpp's order; the first and the last are no part of it, and off.
    let names: Vec<_> = settings.kinds().filter(|k| k.place == Place::Listed).map(|kind| kind.name).collect();
    let order = ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"];
    assert_eq!(names, order);
}

#[test]
fn draws_follow_the_distribution_and_the_seed() {
    let x = [1.0f32, 0.0, 2.0, -1.0];
    let settings = only(&[]);
    let expected = softmax(&wide(&x));
    let mut chain = Chain::new(&settings, &());
    let mut counts = [0u32; 4];
    let n = 100_000;
    for _ in 0..n {
        counts[chain.choose(&x, &[], None).id as usize] += 1;
    }
    for (count, p) in counts.iter().zip(&expected) {
        // Five standard deviations of a binomial count.
        let sigma = (f64::from(n) * p * (1.0 - p)).sqrt();
        assert!((f64::from(*count) - f64::from(n) * p).abs() < 5.0 * sigma, "{counts:?} {expected:?}");
    }
    let draw = |seed| {
        let mut settings = settings.clone();
        settings.set("seed", &u64::to_string(&seed)).unwrap();
        let mut chain = Chain::new(&settings, &());
        (0..20).map(|_| chain.choose(&x, &[], None).id).collect::<Vec<_>>()
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
}

#[test]
fn settings_are_checked_and_named_as_in_llama_cpp() {
    let mut settings = Settings::default();
    settings.set("top_k", "7").unwrap();
    settings.set("penalty_repeat", "1.1").unwrap();
    assert_eq!((settings.int("top-k"), settings.float("repeat-penalty")), (7, 1.1));
    for (name, value) in [("top-p", "1.5"), ("top-p", "NaN"), ("top-k", "-2"), ("top-k", "x"), ("temp", "-1")]
    {
        assert!(settings.set(name, value).is_err(), "{name} {value}");
    }
    let error = settings.set("top-q", "1").unwrap_err().to_string();
    assert!(error.contains("did you mean top-"), "{error}");
    settings.set("samplers", "temp;top-k").unwrap();
    let names: Vec<_> = settings.kinds().filter(|k| k.place == Place::Listed).map(|k| k.name).collect();
    assert_eq!(names, ["temperature", "top_k"]);
    assert!(settings.set("samplers", "temp;nonsense").is_err());
}

#[test]
fn top_n_sigma_keeps_what_is_near_the_best_logit() {
    for n in [0.5, 1.0, 2.5] {
        let x = logits(2000, 21);
        let w = wide(&x);
        let mean = w.iter().sum::<f64>() / w.len() as f64;
        let sigma = (w.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / w.len() as f64).sqrt();
        let best = w.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let kept: Vec<_> = (0..w.len()).filter(|&id| w[id] >= best - n * sigma).collect();
        let got = distribution(&only(&[("top-n-sigma", &n.to_string())]), &x, &[]);
        assert_close(&got, &keep(&softmax(&w), &kept), &format!("top_n_sigma {n}"));
    }
}

#[test]
fn typical_keeps_what_is_as_surprising_as_expected() {
    for limit in [0.1f32, 0.5, 0.9] {
        let x = logits(400, 31);
        let p = softmax(&wide(&x));
        let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
        let mut ids: Vec<usize> = (0..p.len()).collect();
        // Rounded as the sampler's probabilities are, so that equals stay equal.
        let distance = |id: usize| (-f64::from(p[id] as f32).ln() - entropy).abs();
        ids.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
        let mut sum = 0.0;
        let n = 1 + ids
            .iter()
            .position(|&id| {
                sum += p[id];
                sum > f64::from(limit)
            })
            .unwrap();
        let got = distribution(&only(&[("typical", &limit.to_string())]), &x, &[]);
        assert_close(&got, &keep(&p, &ids[..n]), &format!("typical {limit}"));
    }
}

#[test]
fn xtc_drops_the_top_choices_as_often_as_asked() {
    let x = [3.0f32, 2.5, 2.0, 0.0, -1.0];
    let p = softmax(&wide(&x));
    // The three best are above 0.1: only the third of them stays.
    assert!(p[2] >= 0.1 && p[3] < 0.1);
    let always = only(&[("xtc-probability", "1"), ("xtc-threshold", "0.1")]);
    assert_close(&distribution(&always, &x, &[]), &keep(&p, &[2, 3, 4]), "xtc");
    // One top choice is none to exclude.
    let one = only(&[("xtc-probability", "1"), ("xtc-threshold", "0.5")]);
    assert_close(&distribution(&one, &x, &[]), &p, "xtc with one top choice");
    let sometimes = only(&[("xtc-probability", "0.3")]);
    let mut chain = Chain::new(&sometimes, &());
    let n = 50_000;
    let best = (0..n).filter(|_| chain.choose(&x, &[], None).id == 0).count() as f64;
    let expected = f64::from(n) * 0.7 * p[0];
    assert!((best - expected).abs() < 5.0 * expected.sqrt(), "{best} {expected}");
}

#[test]
fn dynamic_temperature_follows_the_entropy() {
    for (range, exponent) in [(0.5, 1.0), (0.3, 2.0), (2.0, 0.5)] {
        let x = logits(300, 41);
        let w = wide(&x);
        let p = softmax(&w);
        let normal = p.iter().map(|p| -p * p.ln()).sum::<f64>() / (p.len() as f64).ln();
        let (low, high) = ((0.8f64 - range).max(0.0), 0.8 + range);
        let t = low + (high - low) * normal.powf(exponent);
        let settings = only(&[
            ("temp", "0.8"),
            ("dynatemp-range", &range.to_string()),
            ("dynatemp-exp", &exponent.to_string()),
        ]);
        let expected = softmax(&w.iter().map(|x| x / t).collect::<Vec<_>>());
        assert_close(&distribution(&settings, &x, &[]), &expected, "dynamic temperature");
    }
}

#[test]
fn logit_bias_adds_and_forbids() {
    let x = logits(50, 51);
    let mut settings = only(&[]);
    settings.set_texts("logit-bias", vec!["7+1.5".into(), "9-inf".into(), "3-2".into()]).unwrap();
    let mut w = wide(&x);
    w[7] += 1.5;
    w[3] -= 2.0;
    w[9] = f64::NEG_INFINITY;
    assert_close(&distribution(&settings, &x, &[]), &softmax(&w), "logit bias");
    for bad in ["7", "x+1", "7+", "7+inf", "7-nan", "+1"] {
        assert!(settings.set("logit-bias", bad).is_err(), "{bad}");
    }
}

#[test]
fn mirostat_holds_the_surprise_at_its_target() {
    let words = Words(vec!["x"; 5000]);
    // Zipf's law with exponent 1.1, as in real text: about 7.5 bits of entropy.
    let x: Vec<f32> = (1..=5000).map(|rank| -1.1 * (rank as f32).ln()).collect();
    for version in ["1", "2"] {
        for target in [3.0, 5.0] {
            let settings = only(&[("mirostat", version), ("mirostat-tau", &target.to_string())]);
            let names: Vec<_> = settings.kinds().map(|kind| kind.name).collect();
            assert_eq!(names, ["logit_bias", "temperature", "mirostat"]);
            let mut chain = Chain::new(&settings, &words);
            let n = 4000;
            let surprise: f64 =
                (0..n).map(|_| -f64::from(chain.choose(&x, &[], None).p).log2()).sum::<f64>() / f64::from(n);
            assert!((surprise - target).abs() < 0.15, "version {version}: {surprise} bits, target {target}");
        }
    }
}

/// The paper's algorithms 1 and 2, step by step: which tokens stay, with which probability, and where the limit goes.
#[test]
fn mirostat_cuts_as_the_paper_says_at_every_step() {
    let x = logits(500, 61);
    let words = Words(vec!["x"; 500]);
    let p = softmax(&wide(&x));
    let rank = ranking(&p);
    let (target, rate) = (2.5f64, 0.3f64);
    for version in ["1", "2"] {
        let settings = only(&[
            ("mirostat", version),
            ("mirostat-tau", "2.5"),
            ("mirostat-eta", "0.3"),
            // Of no effect under mirostat, as in llama.cpp.
            ("dynatemp-range", "0.5"),
            ("top-k", "1"),
        ]);
        let mut chain = Chain::new(&settings, &words);
        let mut limit = 2.0 * target;
        for step in 0..200 {
            let n = if version == "2" {
                p.iter().filter(|p| -p.log2() <= limit).count()
            } else {
                let (mut products, mut squares) = (0.0, 0.0);
                for i in 1..100 {
                    let t = ((i + 1) as f64 / i as f64).ln();
                    products += t * (p[rank[i - 1]] / p[rank[i]]).ln();
                    squares += t * t;
                }
                let s = products / squares;
                let epsilon = s - 1.0;
                (epsilon * limit.exp2() / (1.0 - 500f64.powf(-epsilon))).powf(1.0 / s) as usize
            };
            let expected = keep(&p, &rank[..n.clamp(1, 500)]);
            let choice = chain.choose(&x, &[], None);
            let e = expected[choice.id as usize];
            assert!((f64::from(choice.p) - e).abs() < 1e-4 * e, "{version}, step {step}: {choice:?}, {e}");
            limit -= rate * (-f64::from(choice.p).log2() - target);
        }
        // How much the kept tokens gained tells how many were kept: after a reset as many as at the start.
        let gain = |choice: Choice| f64::from(choice.p) / p[choice.id as usize];
        chain.reset();
        let start = gain(Chain::new(&settings, &words).choose(&x, &[], None));
        assert!((gain(chain.choose(&x, &[], None)) / start - 1.0).abs() < 1e-4);
    }
}

#[test]
fn a_model_file_may_recommend_settings() {
    use lapwing_models::gguf::{Value, Writer};
    let mut writer = Writer::new("test");
    for (key, value) in [
        ("top_k", Value::I32(20)),
        ("top_p", Value::F32(0.8)),
        ("temp", Value::F32(0.6)),
        ("penalty_last_n", Value::F32(32.0)),
        ("penalty_repeat", Value::F32(1.05)),
        ("mirostat", Value::U32(2)),
        ("mirostat_tau", Value::String("4.5".to_owned())),
        ("sequence", Value::String("top_k;temperature".to_owned())),
        ("xtc_probability", Value::F32(f32::NAN)),
        ("min_p", Value::F32(3.0)),
    ] {
        writer.set(format!("general.sampling.{key}"), value);
    }
    let gguf = writer.in_memory(|_| Ok(())).unwrap();
    let (settings, ignored) = Settings::of_model(&gguf);
    let ints = ["top-k", "repeat-last-n", "mirostat"].map(|name| settings.int(name));
    assert_eq!(ints, [20, 32, 2]);
    let floats = ["top-p", "temp", "repeat-penalty", "mirostat-ent", "xtc-probability", "min-p"];
    assert_eq!(floats.map(|name| settings.float(name)), [0.8, 0.6, 1.05, 4.5, 0.0, 0.05]);
    assert_eq!(settings.get("samplers"), Some(&super::Value::Order(vec!["top_k", "temperature"])));
    let keys: Vec<_> = ignored.iter().map(|error| error.at.as_str()).collect();
    assert_eq!(keys, ["key general.sampling.min_p", "key general.sampling.xtc_probability"]);
    assert!(ignored[0].to_string().contains("a number from 0 to 1"), "{}", ignored[0]);
}
