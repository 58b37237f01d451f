use super::*;
use crate::isa::Isa;
use crate::kv::{BLOCK, KvShape, SCALED, store};
use crate::testing::{Random, emulated, repeatable, teams};
use proptest::prelude::*;

/// See [`Case::reference`].
const SIGMAS: f64 = 6.0;

/// A position that a query sees.
struct Seen {
    at: usize,
    score: f64,
    value: Vec<f64>,
    /// Of each group of dimensions the largest |value|.
    largest: Vec<f64>,
}

/// A sequence in a cache, with the queries that belong to it.
struct Case {
    shape: KvShape,
    heads: usize,
    layer: usize,
    scale: f32,
    soft_cap: Option<f32>,
    window: Option<usize>,
    /// `[len][heads · dim]`
    q: Vec<f32>,
    blocks: Vec<Arc<KvBlock>>,
}

impl Case {
    /// Positions `0..len` with random keys and values in the last layer; what lies behind them in the cache, and
    /// in the other layers, is large.
    fn new(seed: u64, len: usize, shape: KvShape, heads: usize) -> Self {
        let mut random = Random::new(seed);
        let width = shape.kv_heads * shape.dim;
        let full = len.next_multiple_of(BLOCK);
        let mut blocks: Vec<_> =
            (0..full / BLOCK).map(|_| Arc::new(KvBlock::try_new(shape).unwrap())).collect();
        let team = Team::new(1, Isa::best()).unwrap();
        let stale: Vec<f32> = random.normals(full * width, 1.0).iter().map(|x| x.signum() * 6e4).collect();
        for layer in 0..shape.layers {
            store(&team, &mut blocks, layer, 0, &stale, &stale);
        }
        // Uneven positions, so that the softmax has peaks and chunks differ.
        let mut uneven = |std: f32| -> Vec<f32> {
            (0..len)
                .flat_map(|_| {
                    let std = std * random.unit() as f32;
                    random.normals(width, std)
                })
                .collect()
        };
        let (k, v) = (uneven(2.0), uneven(1.0));
        let layer = shape.layers - 1;
        store(&team, &mut blocks, layer, 0, &k, &v);
        let q = random.normals(len * heads * shape.dim, 1.0);
        let scale = 1.0 / (shape.dim as f32).sqrt();
        Self { shape, heads, layer, scale, soft_cap: None, window: None, q, blocks }
    }

    fn len(&self) -> usize {
        self.q.len() / self.width()
    }

    fn width(&self) -> usize {
        self.heads * self.shape.dim
    }

    fn run(&self, team: &Team, queries: Range<usize>) -> Vec<f32> {
        let args = AttnArgs {
            q: &self.q[queries.start * self.width()..queries.end * self.width()],
            heads: self.heads,
            pos0: queries.start,
            layer: self.layer,
            scale: self.scale,
            soft_cap: self.soft_cap,
            window: self.window,
            blocks: &self.blocks,
        };
        let mut out = vec![f32::NAN; args.q.len()];
        attention(team, &args, &mut out);
        out
    }

    /// Outputs of a query and their tolerances, in f64 from the definition.
    ///
    /// With a cache of bytes, queries and weights are rounded to integers of 16 bits. Such a rounding is off by a twelfth
    /// of the square of a step on average of squares, and [`SIGMAS`] times what that makes of a sum is granted.
    fn reference(&self, query: usize) -> Vec<(f64, f64)> {
        let (dim, group) = (self.shape.dim, self.heads / self.shape.kv_heads);
        let first = self.window.map_or(0, |window| (query + 1).saturating_sub(window));
        let (mut key, mut value) = (vec![0f32; dim], vec![0f32; dim]);
        let mut out = Vec::new();
        for head in 0..self.heads {
            let q = &self.q[query * self.width() + head * dim..][..dim];
            let mut rows: Vec<Seen> = Vec::new();
            let (mut terms, mut off): (f64, f64) = (0.0, 0.0);
            let largest = |x: &[f32]| f64::from(x.iter().fold(0f32, |max, x| max.max(x.abs())));
            let rounds = self.shape.ty == KvType::Q8_0;
            for at in first..=query {
                self.blocks[at / BLOCK].read(self.layer, head / group, at % BLOCK, &mut key, &mut value);
                let products =
                    q.iter().zip(&key).map(|(&q, &k)| f64::from(q) * f64::from(k) * f64::from(self.scale));
                terms = terms.max(products.clone().map(f64::abs).sum());
                let variances = q.chunks(SCALED).zip(key.chunks(SCALED)).map(|(q, key)| {
                    let step = largest(q) * f64::from(self.scale) / 32767.0;
                    key.iter().map(|&k| f64::from(k).powi(2)).sum::<f64>() * step * step / 12.0
                });
                off = off.max(if rounds { SIGMAS * variances.sum::<f64>().sqrt() } else { 0.0 });
                let mut score: f64 = products.sum();
                if let Some(cap) = self.soft_cap.map(f64::from) {
                    score = cap * (score / cap).tanh();
                }
                let largest = value.chunks(SCALED).map(largest).collect();
                rows.push(Seen { at, score, value: value.iter().map(|&v| f64::from(v)).collect(), largest });
            }
            let max = rows.iter().map(|row| row.score).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = rows.iter().map(|row| (row.score - max).exp()).sum();
            let weight = |row: &Seen| (row.score - max).exp() / total;
            for d in 0..dim {
                let weighted = rows.iter().map(|row| weight(row) * row.value[d]);
                let of_block = |rows: &[Seen]| {
                    let largest = |row: &Seen| row.largest[d / SCALED].max(f64::MIN_POSITIVE);
                    let step =
                        rows.iter().map(|row| weight(row) * largest(row)).fold(0.0, f64::max) / 32767.0;
                    rows.iter().map(|row| (row.value[d] / largest(row) * step).powi(2) / 12.0).sum::<f64>()
                };
                let variances = rows.chunk_by(|a, b| a.at / BLOCK == b.at / BLOCK).map(of_block);
                let rounded = if rounds { SIGMAS * variances.sum::<f64>().sqrt() } else { 0.0 };
                // 2e-6 of the terms of the sum, and of those of the scores, which weights repeat relatively.
                let tolerance = 2e-6 * (1.0 + 2.0 * terms) + 2.0 * off;
                let tolerance = tolerance * weighted.clone().map(f64::abs).sum::<f64>() + rounded;
                out.push((weighted.sum(), tolerance));
            }
        }
        out
    }

    fn check(&self, got: &[f32], query: usize, what: &str) {
        for (i, (&got, (want, tolerance))) in got.iter().zip(self.reference(query)).enumerate() {
            let off = (f64::from(got) - want).abs();
            assert!(
                off <= tolerance,
                "{what}: query {query}, value {i}: {got} for {want}, {off:e} > {tolerance:e}"
            );
        }
    }
}

fn shape(ty: KvType, kv_heads: usize, dim: usize) -> KvShape {
    KvShape { ty, layers: 2, kv_heads, dim }
}

/// Every way to compute the queries of `case` gives the same bits, and those agree with f64.
fn check_all_ways(case: &Case, isas: &[Isa], splits: &[usize]) {
    let len = case.len();
    let threads: &[usize] = if emulated() { &[1, 3] } else { &[1, 2, 3] };
    for &isa in isas {
        let mut first: Option<Vec<f32>> = None;
        for &threads in threads {
            let team = Team::new(threads, isa).unwrap();
            let whole = team.scope(|| {
                let whole = case.run(&team, 0..len);
                let width = case.width();
                let (mut at, mut splits) = (0, splits.iter().copied().cycle());
                while at < len {
                    let n = splits.next().unwrap_or(1).clamp(1, len - at);
                    let part = case.run(&team, at..at + n);
                    let same = part == whole[at * width..(at + n) * width];
                    assert!(same, "{isa}: {n} queries at {at} change bits");
                    at += n;
                }
                whole
            });
            let first = first.get_or_insert_with(|| whole.clone());
            assert!(&whole == first, "{isa}: {threads} threads change bits");
        }
        let whole = first.unwrap();
        for query in [0, len / 3, len / 2, len - 1] {
            case.check(&whole[query * case.width()..][..case.width()], query, isa.name());
        }
    }
}

#[test]
fn decode_prefill_and_threads_agree_bit_by_bit_over_chunks() {
    // A small shape on all instruction sets, the shapes of models on the one that will run them.
    for (isas, ty, kv_heads, group, dim, len) in [
        (Isa::available().collect::<Vec<_>>(), KvType::F16, 1, 2, 8, 1100),
        (vec![Isa::best()], KvType::F16, 3, 3, 64, 700),
        (vec![Isa::best()], KvType::F32, 1, 1, 128, 530),
        (vec![Isa::best()], KvType::F16, 2, 7, 64, 530),
        (Isa::available().collect::<Vec<_>>(), KvType::Q8_0, 1, 2, 8, 600),
        (vec![Isa::best()], KvType::Q8_0, 2, 5, 81, 530),
    ] {
        let mut case = Case::new(1, len, shape(ty, kv_heads, dim), kv_heads * group);
        check_all_ways(&case, &isas, &[1, 1, 17, 1, 100, 1]);
        case.window = Some(513);
        check_all_ways(&case, &isas, &[1, 64, 1, 301]);
    }
}

#[test]
fn windows_hide_what_lies_before_them() {
    let mut case = Case::new(2, 700, shape(KvType::F16, 1, 32), 2);
    let query = 690;
    case.window = None;
    let open = case.reference(query);
    case.window = Some(150);
    let windowed = case.reference(query);
    assert!(
        open.iter().zip(&windowed).any(|(a, b)| (a.0 - b.0).abs() > 1000.0 * b.1),
        "the test can tell a window from none"
    );
    for team in teams() {
        case.check(&case.run(&team, query..query + 1), query, "decode");
        let out = case.run(&team, 0..700);
        for query in [0, 149, 150, 151, 212, 213, 511, 512, 662, 699] {
            case.check(&out[query * case.width()..][..case.width()], query, "prefill");
        }
    }
}

#[test]
fn soft_caps_bound_the_scores() {
    let mut case = Case::new(3, 200, shape(KvType::F32, 2, 48), 4);
    case.scale = 1.0;
    let open = case.reference(199);
    case.soft_cap = Some(5.0);
    assert!(case.reference(199).iter().zip(open).any(|(a, b)| (a.0 - b.0).abs() > 1000.0 * a.1));
    for team in teams() {
        let out = case.run(&team, 0..200);
        for query in [0, 70, 199] {
            case.check(&out[query * case.width()..][..case.width()], query, "capped");
        }
    }
}

#[test]
fn positions_beyond_the_query_do_not_matter() {
    let case = Case::new(4, 130, shape(KvType::F16, 2, 16), 2);
    let team = Team::new(2, Isa::best()).unwrap();
    let before = case.run(&team, 0..70);
    let mut changed = case;
    let later = vec![-6e4; (130 - 70) * 32];
    store(&team, &mut changed.blocks, changed.layer, 70, &later, &later);
    assert_eq!(before, changed.run(&team, 0..70));
}

#[test]
fn huge_scores_do_not_overflow() {
    let mut case = Case::new(5, 100, shape(KvType::F32, 1, 8), 1);
    case.scale = 1e4;
    for team in teams() {
        assert!(case.run(&team, 0..100).iter().all(|x| x.is_finite()));
    }
}

proptest! {
    #![proptest_config(repeatable(24))]

    #[test]
    fn any_shape_agrees_with_f64_and_itself(
        seed in any::<u64>(),
        ty in 0..KvType::ALL.len(),
        kv_heads in 1usize..3,
        group in 1usize..8,
        dim in 1usize..140,
        len in 1usize..200,
        window in proptest::option::of(1usize..200),
        cap in proptest::option::of(1f32..60.0),
        splits in proptest::collection::vec(1usize..90, 2..6),
    ) {
        let ty = KvType::ALL[ty];
        let mut case = Case::new(seed, len, shape(ty, kv_heads, dim), kv_heads * group);
        case.window = window;
        case.soft_cap = cap;
        check_all_ways(&case, &Isa::available().collect::<Vec<_>>(), &splits);
    }
}

#[test]
#[should_panic(expected = "in a cache of 64")]
fn queries_beyond_the_cache_are_refused() {
    let case = Case::new(6, 64, shape(KvType::F16, 1, 8), 1);
    let team = Team::new(1, Isa::Scalar).unwrap();
    let q = [0.0; 8];
    let args = AttnArgs {
        q: &q,
        heads: 1,
        pos0: 64,
        layer: 0,
        scale: 1.0,
        soft_cap: None,
        window: None,
        blocks: &case.blocks,
    };
    attention(&team, &args, &mut [0.0; 8]);
}
