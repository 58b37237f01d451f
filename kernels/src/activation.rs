//! Gated activations, soft caps and other element-wise steps between products.
use crate::isa::{Op, Simd};
use crate::math;
use crate::team::{SharedMut, Team, Worker};
use std::ops::Range;

/// Fewer values than this are cheaper done by the leader than shared: a job costs about a microsecond.
const ALONE: usize = 4096;
/// Values of one unit of work: whole cache lines, so that threads do not write to the same one.
const UNIT: usize = 64;

/// The function in a gated feed-forward, act(gate) · up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x / (1 + e⁻ˣ), of llama and most others.
    Silu,
    /// GELU in its tanh form, of gemma.
    GeluTanh,
}

/// x = cap · tanh(x / cap), within 5 ulp.
pub fn soft_cap(team: &Team, x: &mut [f32], cap: f32) {
    in_parts(team, x, |_, x| team.isa().dispatch_floats(SoftCap { x, cap }));
}

/// x += y.
///
/// # Panics
/// If the lengths differ.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "lengths of a sum");
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// x *= factor.
pub fn scale(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|x| *x *= factor);
}

/// Runs `part(first, values)` on the parts of `out`, on all threads when that pays.
fn in_parts(team: &Team, out: &mut [f32], part: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < ALONE {
        return part(0, out);
    }
    let len = out.len();
    let out = SharedMut::new(out);
    team.run(|worker: Worker<'_>| {
        let share = worker.share(len.div_ceil(UNIT));
        let first = share.start * UNIT;
        // SAFETY: the shares of the workers are disjoint ranges of units.
        part(first, unsafe { out.slice(first..len.min(share.end * UNIT)) });
    });
}

/// act(gate) · up of some rows of all tokens. The calling thread owns these rows of the output.
pub(crate) struct Gated<'a> {
    pub act: Activation,
    /// `[tokens][stride]`
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub stride: usize,
    /// `[tokens][all_rows]`
    pub out: &'a SharedMut<'a, f32>,
    pub all_rows: usize,
    /// Those rows.
    pub rows: Range<usize>,
}

impl Op for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Gated { act, gate, up, stride, out, all_rows, rows } = self;
        for (t, (gate, up)) in gate.chunks_exact(stride).zip(up.chunks_exact(stride)).enumerate() {
            let (gate, up) = (&gate[..rows.len()], &up[..rows.len()]);
            // SAFETY: the calling thread owns these rows.
            let out = unsafe { out.slice(t * all_rows + rows.start..t * all_rows + rows.end) };
            match act {
                Activation::Silu => gated_by::<S, Silu>(s, gate, up, out),
                Activation::GeluTanh => gated_by::<S, GeluTanh>(s, gate, up, out),
            }
        }
    }
}

/// A function of 16 lanes. A type and not a closure, which the compiler might leave out of line: that costs the
/// instruction set and thirty times the time.
trait Function {
    fn of<S: Simd>(s: S, x: S::F) -> S::F;
}

enum Silu {}

impl Function for Silu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F) -> S::F {
        math::silu(s, x)
    }
}

enum GeluTanh {}

impl Function for GeluTanh {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F) -> S::F {
        math::gelu_tanh(s, x)
    }
}

#[inline(always)]
fn gated_by<S: Simd, A: Function>(s: S, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let (gates, gate_tail) = gate.as_chunks::<16>();
    let (ups, up_tail) = up.as_chunks::<16>();
    let (outs, out_tail) = out.as_chunks_mut::<16>();
    for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
        s.store(s.mul(A::of(s, s.load(gate)), s.load(up)), out);
    }
    if !out_tail.is_empty() {
        s.store_part(s.mul(A::of(s, s.load_part(gate_tail)), s.load_part(up_tail)), out_tail);
    }
}

struct SoftCap<'a> {
    x: &'a mut [f32],
    cap: f32,
}

impl Op for SoftCap<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (chunks, tail) = self.x.as_chunks_mut::<16>();
        for x in chunks {
            s.store(math::soft_cap(s, s.load(x), self.cap), x);
        }
        if !tail.is_empty() {
            s.store_part(math::soft_cap(s, s.load_part(tail), self.cap), tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::testing::{Random, teams};

    fn assert_near(got: f32, want: f64, tolerance: f64, what: &str) {
        assert!((f64::from(got) - want).abs() <= tolerance * want.abs() + 1e-30, "{what}: {got} for {want}");
    }

    #[test]
    fn gates_match_f64_at_any_length() {
        let mut random = Random::new(3);
        for len in [1, 15, 16, 100, 5003] {
            let (gate, up) = (random.normals(len, 2.0), random.normals(len, 1.0));
            for isa in Isa::available() {
                let gated = |act| {
                    // Two tokens, the second of which is the first; rows 1 and on of len + 2.
                    let [gate, up] = [&gate, &up].map(|x| [&x[..], &[0.0], &x[..], &[0.0]].concat());
                    let mut out = vec![f32::NAN; 2 * (len + 2)];
                    let shared = SharedMut::new(&mut out);
                    isa.dispatch_floats(Gated {
                        act,
                        gate: &gate,
                        up: &up,
                        stride: len + 1,
                        out: &shared,
                        all_rows: len + 2,
                        rows: 1..len + 1,
                    });
                    let (first, second) = out.split_at(len + 2);
                    for y in [first, second] {
                        assert!(y[0].is_nan() && y[len + 1].is_nan(), "writes beyond its rows");
                    }
                    assert_eq!(first[1..=len], second[1..=len]);
                    first[1..=len].to_vec()
                };
                let out = gated(Activation::Silu);
                for ((&g, &u), &y) in gate.iter().zip(&up).zip(&out) {
                    let (g, u) = (f64::from(g), f64::from(u));
                    assert_near(y, g / (1.0 + (-g).exp()) * u, 1e-6, "silu");
                }
                let out = gated(Activation::GeluTanh);
                for ((&g, &u), &y) in gate.iter().zip(&up).zip(&out) {
                    let (g, u) = (f64::from(g), f64::from(u));
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3));
                    // 1 + tanh(t) = 2/(1 + e⁻²ᵗ), without cancellation.
                    assert_near(y, g / (1.0 + (-2.0 * inner).exp()) * u, 2e-5, "gelu");
                }
            }
        }
    }

    #[test]
    fn caps_match_f64_and_stay_below_the_cap() {
        let mut random = Random::new(4);
        let x = random.normals(9001, 60.0);
        for team in teams() {
            let mut y = x.clone();
            soft_cap(&team, &mut y, 30.0);
            for (&x, &y) in x.iter().zip(&y) {
                assert_near(y, 30.0 * (f64::from(x) / 30.0).tanh(), 1e-6, "cap");
                assert!(y.abs() <= 30.0);
            }
        }
    }

    #[test]
    fn sums_and_scales() {
        let mut x = vec![1.0, 2.0];
        add(&mut x, &[0.5, -1.0]);
        scale(&mut x, 3.0);
        assert_eq!(x, [4.5, 3.0]);
    }
}
