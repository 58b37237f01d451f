//! Root-mean-square norms.
use crate::isa::{Isa, Op, Simd};
use crate::team::{SharedMut, Team};

/// Rows with fewer values in all than this are cheaper done by the leader than shared: a job costs about a
/// microsecond, in which a core norms some 10,000 values.
const ALONE: usize = 8192;

/// `out[t] = x[t] / √(mean(x[t]²) + eps) · weight` for each of the rows t of `cols` values; `x` and `out` are
/// `[n][cols]`, `weight` (ones when absent) is `[cols]`.
///
/// The sum of squares is accumulated in f32 in 64 lanes (k mod 64), whatever the instruction set; it is within
/// (cols / 64 + 8) · 2⁻²⁴ of the exact one, relatively.
///
/// # Panics
/// If the sizes do not fit.
pub fn rms_norm(team: &Team, x: &[f32], cols: usize, weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "input and output of a norm");
    assert!(cols > 0 && x.len().is_multiple_of(cols), "{} values in rows of {cols}", x.len());
    check_weight(weight, cols);
    let n = x.len() / cols;
    let rows = |first: usize, out: &mut [f32]| {
        let x = &x[first * cols..][..out.len()];
        team.isa().dispatch_floats(Rows { x, cols, weight, eps, out });
    };
    if x.len() < ALONE {
        return rows(0, out);
    }
    let out = SharedMut::new(out);
    team.run(|worker| {
        let share = worker.share(n);
        // SAFETY: the shares of the workers are disjoint ranges of rows.
        let part = unsafe { out.slice(share.start * cols..share.end * cols) };
        rows(share.start, part);
    });
}

/// `out` = `x` normed as a single row, by the calling thread.
pub(crate) fn row(isa: Isa, x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    check_weight(weight, x.len());
    isa.dispatch_floats(Rows { x, cols: x.len(), weight, eps, out });
}

/// Norms in place each head of `x`, `[n][stride]`, whose rows begin with `heads` heads of `dim` values; `weight`
/// is `[dim]` and common to the heads (the q and k norms of qwen3 and gemma3).
///
/// # Panics
/// If the sizes do not fit.
#[allow(clippy::too_many_arguments)]
pub fn rms_norm_heads(
    team: &Team,
    x: &mut [f32],
    heads: usize,
    dim: usize,
    stride: usize,
    weight: Option<&[f32]>,
    eps: f32,
) {
    assert!(dim > 0 && heads * dim <= stride, "{heads} heads of {dim} in rows of {stride}");
    assert!(x.len().is_multiple_of(stride), "{} values in rows of {stride}", x.len());
    check_weight(weight, dim);
    let n = x.len() / stride;
    let rows = |x: &mut [f32]| team.isa().dispatch_floats(Heads { x, heads, dim, stride, weight, eps });
    if n * heads * dim < ALONE {
        return rows(x);
    }
    let x = SharedMut::new(x);
    team.run(|worker| {
        let share = worker.share(n);
        // SAFETY: the shares of the workers are disjoint ranges of rows.
        rows(unsafe { x.slice(share.start * stride..share.end * stride) });
    });
}

fn check_weight(weight: Option<&[f32]>, cols: usize) {
    if let Some(weight) = weight {
        assert_eq!(weight.len(), cols, "weight of a norm");
    }
}

struct Rows<'a> {
    x: &'a [f32],
    cols: usize,
    weight: Option<&'a [f32]>,
    eps: f32,
    out: &'a mut [f32],
}

impl Op for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for (x, out) in self.x.chunks_exact(self.cols).zip(self.out.chunks_exact_mut(self.cols)) {
            out.copy_from_slice(x);
            norm_in_place(s, out, self.weight, self.eps);
        }
    }
}

struct Heads<'a> {
    x: &'a mut [f32],
    heads: usize,
    dim: usize,
    stride: usize,
    weight: Option<&'a [f32]>,
    eps: f32,
}

impl Op for Heads<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.stride) {
            for head in row[..self.heads * self.dim].chunks_exact_mut(self.dim) {
                norm_in_place(s, head, self.weight, self.eps);
            }
        }
    }
}

/// Σ x², in 64 lanes (k mod 64) added in a fixed tree.
#[inline(always)]
pub(crate) fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut acc = [s.splat(0.0); 4];
    let (blocks, tail) = x.as_chunks::<64>();
    for block in blocks {
        for (acc, x) in acc.iter_mut().zip(block.as_chunks::<16>().0) {
            let x = s.load(x);
            *acc = s.fma(x, x, *acc);
        }
    }
    for (acc, x) in acc.iter_mut().zip(tail.chunks(16)) {
        let x = s.load_part(x);
        *acc = s.fma(x, x, *acc);
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

#[inline(always)]
fn norm_in_place<S: Simd>(s: S, x: &mut [f32], weight: Option<&[f32]>, eps: f32) {
    let mean = sum_of_squares(s, x) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    // Plain element-wise products: the compiler makes vectors of them, and their bits are the same on all.
    match weight {
        Some(weight) => x.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * scale * w),
        None => x.iter_mut().for_each(|x| *x *= scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::testing::{Random, teams};

    fn reference(x: &[f32], weight: Option<&[f32]>, eps: f32) -> Vec<f64> {
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
        let weight = |i: usize| weight.map_or(1.0, |w| f64::from(w[i]));
        x.iter()
            .enumerate()
            .map(|(i, &x)| f64::from(x) / (mean + f64::from(eps)).sqrt() * weight(i))
            .collect()
    }

    fn assert_close(got: &[f32], want: &[f64], what: &str) {
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            assert!(
                (f64::from(got) - want).abs() <= 5e-7 * want.abs(),
                "{what}, value {i}: {got} for {want}"
            );
        }
    }

    #[test]
    fn rows_match_f64_on_every_instruction_set_and_any_threads() {
        let mut random = Random::new(1);
        for cols in [1, 7, 16, 63, 64, 65, 576, 4096] {
            let x: Vec<f32> = random.normals(5 * cols, 3.0);
            let weight = random.normals(cols, 1.0);
            for weight in [None, Some(&weight[..])] {
                let mut by_isa: Vec<(Isa, Vec<f32>)> = Vec::new();
                for team in teams() {
                    let mut out = vec![f32::NAN; x.len()];
                    rms_norm(&team, &x, cols, weight, 1e-5, &mut out);
                    for (x, out) in x.chunks(cols).zip(out.chunks(cols)) {
                        assert_close(
                            out,
                            &reference(x, weight, 1e-5),
                            &format!("{} cols {cols}", team.isa()),
                        );
                    }
                    match by_isa.iter().find(|(isa, _)| *isa == team.isa()) {
                        Some((_, first)) => assert_eq!(&out, first, "threads change bits"),
                        None => by_isa.push((team.isa(), out)),
                    }
                }
            }
        }
    }

    #[test]
    fn heads_are_normed_apart_and_the_rest_of_a_row_is_kept() {
        let mut random = Random::new(2);
        let (n, heads, dim, stride) = (40, 3, 80, 260);
        let x = random.normals(n * stride, 2.0);
        let weight = random.normals(dim, 1.0);
        for team in teams() {
            let mut y = x.clone();
            rms_norm_heads(&team, &mut y, heads, dim, stride, Some(&weight), 1e-6);
            for (x, y) in x.chunks(stride).zip(y.chunks(stride)) {
                for (x, y) in x.chunks(dim).zip(y.chunks(dim)).take(heads) {
                    assert_close(y, &reference(x, Some(&weight), 1e-6), "head");
                }
                assert_eq!(x[heads * dim..], y[heads * dim..]);
            }
        }
    }
}
