//! Every matrix kernel of this machine: read speed of `matvec` (one token), operations of `matmul` (a prompt).
//!
//! `cargo bench --bench kernels -- matvec/q4_0` runs a part. Decode is bound by memory, so its matrix is larger than
//! any cache and the figure is in bytes of weights per second; `matvec-short` has the short rows of small models.
//! Prefill is bound by arithmetic: an element is a multiplication or an addition on 8 bits. `lapwing cpu` measures
//! the limits of both. All threads that this process may use take part.
use std::time::Duration;

use criterion::{Criterion, Throughput};
use lapwing_kernels::acts::{Acts, Source};
use lapwing_kernels::isa::Isa;
use lapwing_kernels::linear::{Product, linear};
use lapwing_kernels::matrix::Matrix;
use lapwing_kernels::team::Team;
use lapwing_kernels::{TensorType, random_row};
use lapwing_models::os::default_threads;

/// A kind of product: name, rows, columns, tokens.
const CASES: [(&str, usize, usize, usize); 3] =
    [("matvec", 1 << 16, 4096, 1), ("matvec-short", 1 << 18, 896, 1), ("matmul", 4096, 4096, 512)];

fn kernels(c: &mut Criterion) {
    for (case, rows, cols, tokens) in CASES {
        let mut group = c.benchmark_group(case);
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        for &ty in TensorType::ALL {
            // Rows that are not whole blocks do not exist.
            let Some(row_bytes) = ty.row_bytes(cols) else { continue };
            // Made when first used: a filter on names should not wait for the others.
            let mut weights = Vec::new();
            for isa in Isa::available() {
                // The oracle is no kernel; it is only slow.
                if isa == Isa::Scalar {
                    continue;
                }
                let ops = 2 * rows as u64 * cols as u64 * tokens as u64;
                group.throughput(if tokens == 1 {
                    Throughput::Bytes(rows as u64 * row_bytes as u64)
                } else {
                    Throughput::Elements(ops)
                });
                let team = Team::new(default_threads(), isa).expect("an available instruction set");
                let x: Vec<f32> = (0..tokens * cols).map(|i| (i % 61) as f32 / 30.0 - 1.0).collect();
                let mut acts = Acts::new(tokens, cols);
                let mut y = vec![0.0; tokens * rows];
                group.bench_function(format!("{ty}/{isa}"), |b| {
                    if weights.is_empty() {
                        weights = random_matrix(ty, rows, row_bytes);
                    }
                    let w = Matrix::new(ty, rows, cols, &weights).expect("the shape of the weights");
                    team.scope(|| {
                        b.iter(|| {
                            let product =
                                Product { weights: w.into(), out: &mut y, out_stride: rows, add: false };
                            linear(&team, &mut acts, Source::new(&x, cols), &mut [product], &[]);
                        });
                    });
                });
            }
        }
        group.finish();
    }
}

/// Blocks of random weights: a few random rows, repeated.
fn random_matrix(ty: TensorType, rows: usize, row_bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut rng = || {
        // xorshift64, Marsaglia 2003
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut some = vec![0; 64 * row_bytes];
    for row in some.chunks_exact_mut(row_bytes) {
        random_row(ty, &mut rng, 1.0, row);
    }
    some.repeat(rows / 64)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    kernels(&mut criterion);
    criterion.final_summary();
}
