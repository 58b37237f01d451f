//! No kernel reads or writes behind a buffer, whatever its length and whatever bytes are in the weights: here every
//! allocation of the process, those inside the kernels too, ends at a page without access. What one reads or writes
//! there ends the test.
#![cfg(unix)]
mod allocator;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use allocator::{Guarded, guards, report};
use lapwing_kernels::activation::{Activation, soft_cap};
use lapwing_kernels::acts::{Acts, Source};
use lapwing_kernels::attention::{AttnArgs, attention};
use lapwing_kernels::isa::Isa;
use lapwing_kernels::kv::{BLOCK, KvBlock, KvShape, KvType, store};
use lapwing_kernels::linear::{Product, gated_linear, linear};
use lapwing_kernels::matrix::Matrix;
use lapwing_kernels::norm::{rms_norm, rms_norm_heads};
use lapwing_kernels::rope::{RopeKind, RopeParams, RopeTable, rope};
use lapwing_kernels::team::Team;
use lapwing_kernels::{TensorType, decode_row, encode_row, random_row};

#[global_allocator]
static ALLOCATOR: Guarded = Guarded;

/// A small generator (splitmix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn values(&mut self, n: usize) -> Box<[f32]> {
        (0..n).map(|_| (self.bits() >> 40) as f32 / 8_388_608.0 - 1.0).collect()
    }

    fn bytes(&mut self, n: usize) -> Box<[u8]> {
        (0..n).map(|_| self.bits() as u8).collect()
    }
}

/// Lengths of 1 to 257 blocks; under an emulator, which is slow, every 16th of them.
fn lengths() -> impl Iterator<Item = usize> {
    (1..=257).step_by(if std::env::var_os("LAPWING_EMULATED").is_some() { 16 } else { 1 })
}

/// A product of some tokens, in buffers of just their size.
fn product(isa: Isa, w: &Matrix, x: &[f32], n: usize) -> Box<[f32]> {
    let team = Team::new(1, isa).unwrap();
    let mut acts = Acts::new(n, w.cols());
    let mut out = vec![0.0; n * w.rows()].into_boxed_slice();
    let product = Product { weights: (*w).into(), out: &mut out, out_stride: w.rows(), add: false };
    linear(&team, &mut acts, Source::new(x, w.cols()), &mut [product], &[]);
    out
}

/// Every instruction set against the scalar one. NaN is NaN, whichever.
#[track_caller]
fn all_agree(w: &Matrix, x: &[f32], n: usize, what: &str) {
    let want = product(Isa::Scalar, w, x, n);
    for isa in Isa::available().filter(|&isa| isa != Isa::Scalar) {
        let got = product(isa, w, x, n);
        // Without fused operations what overflows may differ; what is stored is then compared elsewhere, on weights
        // that do not.
        for (got, want) in got.iter().zip(&want).filter(|_| isa.is_fused()) {
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{isa} {what}: {got} for {want}"
            );
        }
    }
}

#[test]
fn the_guard_is_there() {
    for len in [1, 7, 64, 4095, 4096, 4097] {
        let value = vec![0u8; len].into_boxed_slice();
        assert!(guards(&value), "{len} bytes have no guard");
    }
    assert!(allocator::COUNT.load(Ordering::Relaxed) > 6);
    let names = |available: bool| -> String {
        let isas = Isa::ALL.iter().filter(|isa| isa.is_available() == available && isa.is_built());
        isas.map(|isa| isa.name()).collect::<Vec<_>>().join(" ")
    };
    report(&format!("guard pages: {}; not on this processor: {}", names(true), names(false)));
}

#[test]
fn products_of_any_length_and_bytes() {
    let mut random = Random(1);
    for &ty in TensorType::ALL {
        for blocks in lengths() {
            let cols = blocks * ty.block_len();
            let bytes = random.bytes(2 * ty.row_bytes(cols).unwrap());
            let w = Matrix::new(ty, 2, cols, &bytes).unwrap();
            // One token is a product of its own kind; more are multiplied panel by panel.
            let n = if blocks % 2 == 0 { 1 } else { 2 };
            let x = random.values(n * cols);
            all_agree(&w, &x, n, &format!("{ty}, {blocks} blocks, {n} tokens"));
        }
    }
}

#[test]
fn products_of_many_rows_and_tokens() {
    let mut random = Random(2);
    for &ty in TensorType::ALL {
        for (rows, blocks, n) in [(1, 1, 1), (1, 3, 9), (15, 2, 3), (33, 5, 4), (70, 4, 13), (129, 1, 7)] {
            let cols = blocks * ty.block_len();
            let bytes = random.bytes(rows * ty.row_bytes(cols).unwrap());
            let w = Matrix::new(ty, rows, cols, &bytes).unwrap();
            let x = random.values(n * cols);
            all_agree(&w, &x, n, &format!("{ty}, {rows} rows, {blocks} blocks, {n} tokens"));
        }
    }
}

#[test]
fn products_of_extreme_bytes_and_activations() {
    let mut random = Random(3);
    for &ty in TensorType::ALL {
        for blocks in [1, 2, 3, 4, 5, 7, 8, 9, 16, 33] {
            let cols = blocks * ty.block_len();
            for byte in [0x00, 0x7b, 0x7c, 0x7f, 0x80, 0xfb, 0xff] {
                let bytes = vec![byte; 3 * ty.row_bytes(cols).unwrap()].into_boxed_slice();
                let w = Matrix::new(ty, 3, cols, &bytes).unwrap();
                for n in [1, 3] {
                    let what = format!("{ty}, bytes {byte:#x}, {blocks} blocks, {n} tokens");
                    all_agree(&w, &random.values(n * cols), n, &what);
                    for x in [0.0, f32::MAX, -f32::MIN_POSITIVE] {
                        all_agree(&w, &vec![x; n * cols].into_boxed_slice(), n, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_any_length() {
    let mut random = Random(4);
    for &ty in TensorType::ALL {
        for blocks in std::iter::once(0).chain(lengths()) {
            let mut bytes = random.bytes(blocks * ty.block_bytes());
            let mut values = vec![0.0; blocks * ty.block_len()].into_boxed_slice();
            decode_row(ty, &bytes, &mut values);
            random_row(ty, &mut || random.bits(), 1.0, &mut bytes);
            if ty.can_encode() {
                encode_row(ty, &random.values(values.len()), &mut bytes).unwrap();
            }
        }
    }
}

#[test]
fn steps_between_products_of_any_length() {
    let mut random = Random(5);
    for isa in Isa::available() {
        let team = Team::new(1, isa).unwrap();
        for len in lengths() {
            let (x, weight) = (random.values(2 * len), random.values(len));
            let mut out = vec![0.0; 2 * len].into_boxed_slice();
            rms_norm(&team, &x, len, Some(&weight), 1e-5, &mut out);
            rms_norm_heads(&team, &mut out, 2, len, 2 * len, Some(&weight), 1e-5);
            for act in [Activation::Silu, Activation::GeluTanh] {
                let values = random.values(len * 32);
                let bytes: Box<[u8]> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let w = Matrix::new(TensorType::F32, len, 32, &bytes).unwrap().into();
                let (mut acts, source) = (Acts::new(2, 32), random.values(64));
                gated_linear(&team, &mut acts, Source::new(&source, 32), act, [w, w], &mut out, &[]);
            }
            soft_cap(&team, &mut out, 30.0);
            let mut table = RopeTable::new(&RopeParams::new(len / 2 * 2, 1e4));
            table.cover(3, 2);
            for kind in [RopeKind::Norm, RopeKind::Neox] {
                rope(&team, &mut out, 1, len, len, &table, 3, kind);
            }
        }
    }
}

#[test]
fn attention_over_any_length() {
    let mut random = Random(6);
    for isa in Isa::available() {
        let team = Team::new(1, isa).unwrap();
        for (round, n) in lengths().enumerate() {
            let (kv_heads, dim) = ([1, 2, 3][round % 3], [1, 7, 16, 30, 64, 80][round % 6]);
            let ty = KvType::ALL[round % KvType::ALL.len()];
            let shape = KvShape { ty, layers: 1, kv_heads, dim };
            let mut blocks: Box<[_]> =
                (0..n.div_ceil(BLOCK)).map(|_| Arc::new(KvBlock::try_new(shape).unwrap())).collect();
            let width = kv_heads * dim;
            store(&team, &mut blocks, 0, 0, &random.values(n * width), &random.values(n * width));
            let heads = 2 * kv_heads;
            let q = random.values(n.min(5) * heads * dim);
            let mut out = vec![0.0; q.len()].into_boxed_slice();
            let args = AttnArgs {
                q: &q,
                heads,
                pos0: n - n.min(5),
                layer: 0,
                scale: 0.1,
                soft_cap: (round % 2 == 0).then_some(5.0),
                window: (round % 5 == 0).then_some(40),
                blocks: &blocks,
            };
            attention(&team, &args, &mut out);
            assert!(out.iter().all(|x| x.is_finite()), "{isa}, {n} positions of {shape:?}");
        }
    }
}
