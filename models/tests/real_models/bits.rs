//! The promise of the decoder: the bits of logits do not depend on how tokens are split into batches, on the number
//! of threads, on forks, or on what was undone before.

use crate::real::{GEMMA3, QWEN2, SMOLLM2, golden, ids, open, team};
use lapwing_kernels::isa::Isa;
use lapwing_kernels::team::Team;
use lapwing_models::decoder::{Want, Workspace, forward};
use lapwing_models::kv_cache::{KvCache, KvType};
use lapwing_models::model::Model;
use lapwing_models::{Class, Result};

/// Logits of all tokens, which are given in pieces of the sizes in `split`, repeated as often as needed.
fn logits(model: &Model, team: &Team, tokens: &[u32], ty: KvType, split: &[usize]) -> Vec<u32> {
    let mut ws = Workspace::new(model, 512).unwrap();
    let mut cache = KvCache::new(model.spec(), ty, tokens.len()).unwrap();
    let (mut rest, mut bits) = (tokens, Vec::new());
    for &size in split.iter().cycle() {
        let (piece, others) = rest.split_at(size.min(rest.len()));
        bits.extend(
            forward(model, team, &mut ws, &mut cache, piece, Want::All).unwrap().iter().map(|l| l.to_bits()),
        );
        rest = others;
        if rest.is_empty() {
            return bits;
        }
    }
    bits
}

fn same_bits_however_split(name: &str, ty: KvType, n: usize) {
    let Some(path) = crate::common::model(name) else { return };
    let (model, team) = (open(&path), team(2));
    let tokens = &ids(&golden("smollm2.json")["text_512"]["tokens"])[..n];
    let whole = logits(&model, &team, tokens, ty, &[n]);
    for split in [&[1][..], &[7], &[2 * n / 3, n], &[3, 1, 10, 2]] {
        assert!(logits(&model, &team, tokens, ty, split) == whole, "{name} in pieces of {split:?}");
    }
    for threads in [1, 3] {
        let team = crate::real::team(threads);
        assert!(logits(&model, &team, tokens, ty, &[n]) == whole, "{name}: prefill on {threads} threads");
        assert!(logits(&model, &team, &tokens[..12], ty, &[1])[..] == whole[..12 * model.spec().vocab]);
    }
}

#[test]
fn smollm2() {
    same_bits_however_split(SMOLLM2, KvType::F16, 100);
    same_bits_however_split(SMOLLM2, KvType::F32, 70);
}

#[test]
fn gemma3() {
    same_bits_however_split(GEMMA3, KvType::F16, 20);
}

#[test]
fn qwen2() {
    same_bits_however_split(QWEN2, KvType::F16, 20);
    same_bits_however_split(QWEN2, KvType::Q8_0, 20);
}

/// Past the attention's chunks of 512 positions, with batches that end anywhere in them.
#[test]
fn a_long_text_in_batches_of_any_size() {
    let Some(path) = crate::common::model(SMOLLM2) else { return };
    let (model, team) = (open(&path), team(2));
    let tokens = ids(&golden("gemma3.json")["long_1536"]["tokens"]);
    let tokens: Vec<u32> = tokens.into_iter().take(1100).map(|id| id % 49152).collect();
    let last = |max_batch: usize| -> Vec<u32> {
        let mut ws = Workspace::new(&model, max_batch).unwrap();
        let mut cache = KvCache::new(model.spec(), KvType::F16, 1100).unwrap();
        let logits = forward(&model, &team, &mut ws, &mut cache, &tokens, Want::Last).unwrap();
        logits.iter().map(|l| l.to_bits()).collect()
    };
    let whole = last(512);
    assert_eq!(whole.len(), 49152);
    assert!(last(100) == whole);
    assert!(last(33) == whole);
}

#[test]
fn rows_wanted_are_the_rows_of_all() {
    let Some(path) = crate::common::model(SMOLLM2) else { return };
    let (model, team) = (open(&path), team(2));
    let tokens = &ids(&golden("smollm2.json")["text_512"]["tokens"])[..20];
    let all = logits(&model, &team, tokens, KvType::F16, &[20]);
    let vocab = model.spec().vocab;
    // A batch smaller than the tokens, so that some batches have no wanted row and one has some.
    for max_batch in [8, 512] {
        let mut ws = Workspace::new(&model, max_batch).unwrap();
        for (want, from) in [(Want::None, 20), (Want::Last, 19), (Want::From(13), 13), (Want::From(99), 20)] {
            let mut cache = KvCache::new(model.spec(), KvType::F16, 20).unwrap();
            let rows = forward(&model, &team, &mut ws, &mut cache, tokens, want).unwrap();
            assert!(rows.iter().map(|l| l.to_bits()).eq(all[from * vocab..].iter().copied()), "{want:?}");
            assert_eq!(cache.len(), 20);
        }
    }
}

#[test]
fn forks_and_undone_tokens_leave_no_trace() {
    let Some(path) = crate::common::model(SMOLLM2) else { return };
    let (model, team) = (open(&path), team(2));
    let tokens = &ids(&golden("smollm2.json")["text_512"]["tokens"])[..90];
    let expected = logits(&model, &team, tokens, KvType::F16, &[90]);
    let vocab = model.spec().vocab;
    let mut ws = Workspace::new(&model, 512).unwrap();
    let mut cache = KvCache::new(model.spec(), KvType::F16, 128).unwrap();
    let mut eval = |cache: &mut KvCache, tokens: &[u32]| -> Vec<u32> {
        let row = forward(&model, &team, &mut ws, cache, tokens, Want::Last).unwrap();
        row.iter().map(|l| l.to_bits()).collect()
    };
    eval(&mut cache, &tokens[..70]);
    let mut fork = cache.fork();
    // The fork goes another way, in the shared block and past it; then both go the way of the test.
    eval(&mut fork, &[5; 50]);
    assert!(eval(&mut cache, &tokens[70..80]) == expected[79 * vocab..80 * vocab]);
    fork.truncate(66);
    assert!(eval(&mut fork, &tokens[66..]) == expected[89 * vocab..]);
    assert!(eval(&mut cache, &tokens[80..]) == expected[89 * vocab..]);
    assert_eq!((cache.len(), fork.len()), (90, 90));
}

#[test]
fn impossible_requests_change_nothing() {
    let Some(path) = crate::common::model(SMOLLM2) else { return };
    let (model, team) = (open(&path), team(1));
    let mut ws = Workspace::new(&model, 16).unwrap();
    let mut cache = KvCache::new(model.spec(), KvType::F16, 8).unwrap();
    let mut refused = |cache: &mut KvCache, tokens: &[u32]| {
        let error = forward(&model, &team, &mut ws, cache, tokens, Want::Last).unwrap_err();
        assert_eq!(error.class, Class::Usage, "{error}");
        error
    };
    assert_eq!(refused(&mut cache, &[1, 49152]).got, "49152");
    refused(&mut cache, &[]);
    assert!(refused(&mut cache, &[1; 9]).expected.contains("at most 8"));
    assert_eq!(cache.len(), 0);
    let mut other = model.spec().clone();
    other.kv_heads = 1;
    let mut foreign = KvCache::new(&other, KvType::F16, 8).unwrap();
    refused(&mut foreign, &[1]);

    let too_large: Result<KvCache> = KvCache::new(model.spec(), KvType::F16, 1 << 40);
    assert_eq!(too_large.err().map(|e| e.class), Some(Class::Memory));
    assert_eq!(KvCache::new(model.spec(), KvType::F16, 0).err().map(|e| e.class), Some(Class::Usage));
    assert_eq!(
        KvCache::new(model.spec(), KvType::F16, usize::MAX).err().map(|e| e.class),
        Some(Class::Usage)
    );
}

/// Instruction sets compute the same bits. Only what has no fused multiply-add rounds in its own way; that moves some
/// activations to the next of their 8-bit steps, which costs what their quantisation costs anyway: a divergence of about
/// 0.004 (with f32 weights, where nothing is quantised, 4e-7 were measured).
#[test]
fn instruction_sets_agree() {
    let Some(path) = crate::common::model(SMOLLM2) else { return };
    let model = open(&path);
    let tokens = &ids(&golden("smollm2.json")["text_512"]["tokens"])[..12];
    let logits_of = |isa: Isa| -> Vec<f32> {
        let team = Team::new(2, isa).unwrap();
        logits(&model, &team, tokens, KvType::F16, &[5, 1]).into_iter().map(f32::from_bits).collect()
    };
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        row.iter().map(|&x| f64::from(x) - sum.ln()).collect()
    };
    let divergence = |a: &[f32], b: &[f32]| -> f64 {
        log_softmax(a).iter().zip(log_softmax(b)).map(|(a, b)| a.exp() * (a - b)).sum()
    };
    let scalar = logits_of(Isa::Scalar);
    for isa in Isa::available() {
        let other = logits_of(isa);
        if isa.is_fused() {
            assert!(other == scalar, "{isa}");
            continue;
        }
        for (a, b) in scalar.chunks_exact(model.spec().vocab).zip(other.chunks_exact(model.spec().vocab)) {
            let divergence = divergence(a, b);
            println!("{isa}: divergence from scalar {divergence:.1e}");
            assert!(divergence < 0.03, "{isa}: {divergence}");
        }
    }
}
