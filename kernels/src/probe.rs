//! What this machine can do at most: read bandwidth of its memory, and products of int8 and of f32.
//!
//! All are measured with the same vector operations as the kernels, on all threads of a team, and the best of
//! several runs counts: they are limits to compare kernels with, not averages.
use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::isa::{Op, Simd};
use crate::team::{SharedMut, Team};

/// Bytes of a cache line: parts of threads do not share one.
const LINE: usize = 64;

/// Read bandwidth of memory in bytes per second: plain loads over a buffer of `bytes`, which should be far larger
/// than all caches (1 GiB is). `None` when there is no memory for the buffer.
pub fn read_bandwidth(team: &Team, bytes: usize) -> Option<f64> {
    let bytes = bytes.max(team.threads() * LINE * 64);
    let mut buffer = Vec::<u8>::new();
    buffer.try_reserve_exact(bytes).ok()?;
    buffer.resize(bytes, 1);
    let lines = bytes / LINE;
    let mut best = f64::INFINITY;
    team.scope(|| {
        // One stream a thread is not always enough to keep all of a core's line fill buffers busy.
        for streams in [1, 2, 4, 1, 2, 4] {
            let start = Instant::now();
            team.run(|worker| {
                let part = worker.share(lines);
                let part = &buffer[part.start * LINE..part.end * LINE];
                black_box(team.isa().dispatch(Read { part, streams }));
            });
            best = best.min(start.elapsed().as_secs_f64());
        }
    });
    Some((lines * LINE) as f64 / best)
}

/// Reads all of `part`, from `streams` places in turn.
struct Read<'a> {
    part: &'a [u8],
    streams: usize,
}

impl Op for Read<'_> {
    type Output = u8;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> u8 {
        /// Bytes read from one stream before it is the next one's turn.
        const STEP: usize = 256;
        let stream = self.part.len() / self.streams / STEP * STEP;
        let mut acc = [simd.b_splat(0); 8];
        for at in (0..stream).step_by(STEP) {
            for s in 0..self.streams {
                let step = &self.part[s * stream + at..][..STEP];
                for (acc, bytes) in acc.iter_mut().zip(step.as_chunks::<32>().0) {
                    *acc = simd.b_xor(*acc, simd.b_load(bytes));
                }
            }
        }
        let all = acc.into_iter().fold(simd.b_splat(0), |a, b| simd.b_xor(a, b));
        let mut bytes = [0; 32];
        simd.b_store(all, &mut bytes);
        bytes.iter().fold(0, |a, b| a ^ b)
    }
}

/// int8 multiplications and additions per second (a product added up is two), on operands in the first-level cache.
pub fn int8_peak(team: &Team) -> f64 {
    peak(team, |rounds| team.isa().dispatch(Multiply { rounds }))
}

/// f32 multiplications and additions per second (a fused one is two), on operands in registers.
pub fn f32_peak(team: &Team) -> f64 {
    peak(team, |rounds| team.isa().dispatch_floats(Fuse { rounds }))
}

/// Operations per second when every thread runs `work`, which is given a number of rounds and returns how many
/// operations these were.
fn peak(team: &Team, work: impl Fn(usize) -> u64 + Sync) -> f64 {
    let run = |rounds: usize| {
        let mut ops = vec![0u64; team.threads()];
        let shared = SharedMut::new(&mut ops);
        let start = Instant::now();
        team.run(|worker| {
            let done = work(rounds);
            // SAFETY: every thread has an element of its own.
            let mine = unsafe { shared.slice(worker.index..worker.index + 1) };
            mine[0] = done;
        });
        (ops.iter().sum::<u64>() as f64, start.elapsed())
    };
    team.scope(|| {
        let mut rounds = 64;
        // Long enough that starting the threads does not count, and that the clock has settled.
        while run(rounds).1 < Duration::from_millis(20) {
            rounds *= 2;
        }
        (0..5).map(|_| run(rounds)).map(|(ops, time)| ops / time.as_secs_f64()).fold(0.0, f64::max)
    })
}

/// The inner loop of a panel product, `rounds` × [`INNER`] times on the same operands; gives the number of
/// operations.
struct Multiply {
    rounds: usize,
}

/// Products between two resets of the sums, so that they cannot overflow: each adds at most 32 · 1.
const INNER: usize = 1024;

impl Op for Multiply {
    type Output = u64;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> u64 {
        match S::TOKENS {
            8 => multiply::<S, 8>(simd, self.rounds),
            6 => multiply::<S, 6>(simd, self.rounds),
            4 => multiply::<S, 4>(simd, self.rounds),
            3 => multiply::<S, 3>(simd, self.rounds),
            _ => multiply::<S, 2>(simd, self.rounds),
        }
    }
}

/// Steps of four values in one call of the panel's dot product.
const STEPS: usize = 8;

#[inline(always)]
fn multiply<S: Simd, const T: usize>(simd: S, rounds: usize) -> u64 {
    /// The form for small weights, which is the fastest on every instruction set.
    const LEVEL: usize = 8;
    let mut weights = Buffer::<u8>::zeros(STEPS * S::ROWS * 4);
    weights.fill(1);
    let acts = [0x0101_0101i32; STEPS * 8];
    for _ in 0..rounds {
        let mut acc = [simd.p_splat(0); T];
        for _ in 0..INNER {
            // Known activations would let the compiler multiply once for all tokens.
            let (w, a) = (black_box(weights.as_ptr()), black_box(acts.as_ptr()));
            // SAFETY: `weights` holds STEPS × ROWS × 4 bytes of 1, aligned to 64; `acts` at least STEPS × T words.
            acc = unsafe { simd.p_dots::<T, LEVEL>(acc, w, a, STEPS) };
        }
        black_box(acc.map(|acc| simd.p_float(acc)));
    }
    (rounds * INNER * STEPS * 4 * S::ROWS * T * 2) as u64
}

/// `rounds` × [`INNER`] multiply-adds into each of as many vectors as fit into registers; gives the number of operations.
struct Fuse {
    rounds: usize,
}

impl Op for Fuse {
    type Output = u64;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> u64 {
        if const { S::ACCUMULATORS >= 24 } {
            fuse::<S, 24>(simd, self.rounds)
        } else if const { S::ACCUMULATORS >= 6 } {
            fuse::<S, 6>(simd, self.rounds)
        } else {
            fuse::<S, 1>(simd, self.rounds)
        }
    }
}

#[inline(always)]
fn fuse<S: Simd, const N: usize>(simd: S, rounds: usize) -> u64 {
    let (a, b) = (simd.splat(black_box(0.5)), simd.splat(black_box(1.0)));
    let mut acc = [b; N];
    for _ in 0..rounds * INNER {
        for acc in &mut acc {
            *acc = simd.fma(a, *acc, b);
        }
    }
    let mut sum = 0.0;
    for acc in acc {
        sum += simd.sum(acc);
    }
    black_box(sum);
    (rounds * INNER * N * 16 * 2) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn every_instruction_set_has_limits() {
        for isa in Isa::available() {
            let team = Team::new(2, isa).unwrap();
            let bandwidth = read_bandwidth(&team, 8 << 20).unwrap();
            assert!((1e7..1e13).contains(&bandwidth), "{isa}: {bandwidth} bytes/s");
            for peak in [int8_peak(&team), f32_peak(&team)] {
                assert!((1e6..1e15).contains(&peak), "{isa}: {peak} op/s");
            }
        }
    }
}
