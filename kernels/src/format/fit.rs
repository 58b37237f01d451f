//! Fitting the scale (and minimum) of a small block to its values by least squares.

/// Adding and subtracting this rounds |v| < 2^22 to the nearest integer, ties to even, in two instructions of any
/// instruction set.
const ROUND: f32 = 12_582_912.0;

/// Nearest integer to `v`, held in `lo..=hi`.
#[inline(always)]
pub(super) fn nearest(v: f32, lo: f32, hi: f32) -> f32 {
    shifted(v, lo, hi) - ROUND
}

/// As [`nearest`]. A cast would not vectorise.
#[inline(always)]
pub(super) fn nearest_int(v: f32, lo: f32, hi: f32) -> i32 {
    // From ROUND on, the floats are the integers.
    shifted(v, lo, hi).to_bits() as i32 - ROUND.to_bits() as i32
}

#[inline(always)]
fn shifted(v: f32, lo: f32, hi: f32) -> f32 {
    // Held first: the trick is for |v| < 2^22 only. Written out, this is one instruction each; `clamp` is more.
    let v = if v > lo { v } else { lo };
    let v = if v < hi { v } else { hi };
    v + ROUND
}

/// Σ f(x) for the `K` functions that `f` computes, in eight chains each, which a compiler can turn into vectors.
#[inline(always)]
fn sums<const K: usize, const N: usize>(x: &[f32; N], f: impl Fn(f32) -> [f32; K]) -> [f32; K] {
    let mut chains = [[0.0f32; 8]; K];
    let (parts, rest) = x.as_chunks::<8>();
    debug_assert!(rest.is_empty());
    for part in parts {
        for (i, &v) in part.iter().enumerate() {
            for (chain, term) in chains.iter_mut().zip(f(v)) {
                chain[i] += term;
            }
        }
    }
    chains.map(|[a, b, c, d, e, f, g, h]| ((a + b) + (c + d)) + ((e + f) + (g + h)))
}

/// Values that a block can represent at best, so that the sums below stay finite: a limit for the input.
const LIMIT: f32 = 65_504.0 * 32.0;

/// Below this magnitude every scale rounds to zero in f16.
const NEGLIGIBLE: f32 = 1e-8;

/// The scale d that makes Σ(x − d·q)² small, where q are integers in `lo..=hi` (`lo` < 0 < `hi`); 0 for a block of
/// zeros.
///
/// Tries to put the value of the largest magnitude at either end of the range or a little inside or outside (clipping
/// one value may pay for a finer grid); each try chooses the quants, and the quants the best scale.
#[inline(always)]
pub(super) fn scale<const N: usize>(x: &[f32; N], lo: f32, hi: f32) -> f32 {
    let mut x = *x;
    let mut extreme = 0.0f32;
    for v in &mut x {
        *v = v.clamp(-LIMIT, LIMIT);
        if v.abs() > extreme.abs() {
            extreme = *v;
        }
    }
    if extreme.abs() < NEGLIGIBLE {
        return 0.0;
    }
    let (mut best, mut best_score) = (extreme / lo, 0.0);
    for end in [lo, hi] {
        for step in -4..=4 {
            let inverse = end * (1.0 + 0.03 * step as f32) / extreme;
            let [xq, qq] = sums(&x, |v| {
                let q = nearest(v * inverse, lo, hi);
                [v * q, q * q]
            });
            // With d = xq/qq the squared error is Σx² − xq²/qq. The extreme value gives qq > 0.
            let score = xq * xq / qq;
            if score > best_score {
                (best, best_score) = (xq / qq, score);
            }
        }
    }
    best
}

/// The scale d ≥ 0 and minimum m ≤ `ceiling` that make Σ(x − d·q − m)² small, where q are integers in `0..=levels`.
///
/// Tries grids a little narrower than the range of the values; each try chooses the quants, and a linear regression on
/// the quants the best d and m.
#[inline(always)]
pub(super) fn scale_and_min<const N: usize>(x: &[f32; N], levels: f32, ceiling: f32) -> (f32, f32) {
    let mut x = *x;
    let (mut min, mut max) = (LIMIT.min(ceiling), -LIMIT);
    for v in &mut x {
        *v = v.clamp(-LIMIT, LIMIT);
        min = min.min(*v);
        max = max.max(*v);
    }
    if max - min < NEGLIGIBLE {
        return (0.0, min);
    }
    // Centred values lose no digits in the sums.
    let centre = 0.5 * (min + max);
    let (min, ceiling) = (min - centre, ceiling - centre);
    let x = x.map(|v| v - centre);
    let [sum, squares] = sums(&x, |v| [v, v * v]);
    let (n, mean) = (N as f32, sum / N as f32);
    let (mut best, mut least) = ((-2.0 * min / levels, min), f32::MAX);
    for step in -2..=8 {
        let low = min * (1.0 - 0.025 * step as f32);
        let inverse = -0.5 * levels / low;
        let [sum_q, qq, xq] = sums(&x, |v| {
            let q = nearest((v - low) * inverse, 0.0, levels);
            [q, q * q, v * q]
        });
        let (variance, covariance) = (qq - sum_q * sum_q / n, xq - sum_q * mean);
        let d = covariance / variance;
        let m = mean - d * sum_q / n;
        let (fit, error) = if variance > 0.0 && m <= ceiling {
            ((d, m), squares - sum * mean - covariance * d)
        } else {
            // The line through the ceiling, also where all quants are equal (sums of integers: exactly 0).
            let product = xq - ceiling * sum_q;
            let d = product / qq;
            ((d, ceiling), squares - ceiling * (2.0 * sum - n * ceiling) - product * d)
        };
        if error < least {
            (best, least) = (fit, error);
        }
    }
    (best.0, best.1 + centre)
}
