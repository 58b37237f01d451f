//! Elementary functions on 16 lanes, with their error bounds.
//!
//! The bounds hold where the instruction set has a fused multiply-add. Without one (portable) `exp` is within 4 ulp
//! and the functions built on it lose as much.
use crate::isa::Floats;

/// ln 2 as a sum; the first term has 15 bits, so that n · `LN2_HI` is exact for |n| < 512 even without an fma.
const LN2_HI: f32 = 0.693_145_75;
const LN2_LO: f32 = 1.428_606_8e-6;
/// Below this e^x is flushed to 0: n = −126 is the last normal power of two.
const EXP_MIN: f32 = -87.336_54;
/// Above this e^x is infinite here: n = 127 is the last power of two, 127.5 · ln 2.
const EXP_MAX: f32 = 88.376_26;
/// Minimax fit of (eʳ − 1 − r) / r² on |r| ≤ ln 2 / 2, highest power first; relative error of eʳ below 2⁻²⁸.
const EXP_POLY: [f32; 5] = [0.001_381_432, 0.008_368_852, 0.041_668_4, 0.166_665_2, 0.499_999_94];
/// Minimax fit of (tanh x − x) / x³ in x² on |x| ≤ 0.63, highest power first; relative error of tanh below 2⁻²⁷.
const TANH_POLY: [f32; 5] = [-0.005_666_974_5, 0.020_606_175, -0.053_730_007, 0.133_313_31, -0.333_332_78];

/// e^r · 2^n.
#[inline(always)]
fn exp_scaled<S: Floats>(s: S, x: S::F, n: S::F) -> S::F {
    let r = s.fma(n, s.splat(-LN2_HI), x);
    let r = s.fma(n, s.splat(-LN2_LO), r);
    let mut p = s.splat(EXP_POLY[0]);
    for c in &EXP_POLY[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    p = s.fma(p, r, s.splat(1.0));
    p = s.fma(p, r, s.splat(1.0));
    s.mul(p, s.pow2(n))
}

/// e^x for x ≤ 0: at most 1 ulp; below −87.33654 (and for −∞) exactly 0; for 0 exactly 1; NaN for NaN.
#[inline(always)]
pub(crate) fn exp_neg<S: Floats>(s: S, x: S::F) -> S::F {
    // NaN and −∞ pass through `pow2` as garbage: the polynomial keeps NaN, the selection drops −∞.
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let y = exp_scaled(s, x, n);
    s.select_lt(x, s.splat(EXP_MIN), s.splat(0.0), y)
}

/// e^x: at most 1 ulp; 0 below −87.33654, ∞ above 88.37626; NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Floats>(s: S, x: S::F) -> S::F {
    let n = s.round(s.min(s.mul(x, s.splat(std::f32::consts::LOG2_E)), s.splat(127.0)));
    let y = exp_scaled(s, x, n);
    let y = s.select_lt(x, s.splat(EXP_MIN), s.splat(0.0), y);
    s.select_lt(s.splat(EXP_MAX), x, s.splat(f32::INFINITY), y)
}

/// tanh x: at most 3 ulp.
#[inline(always)]
pub(crate) fn tanh<S: Floats>(s: S, x: S::F) -> S::F {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let a = s.abs(x);
    let x2 = s.mul(x, x);
    let mut p = s.splat(TANH_POLY[0]);
    for c in &TANH_POLY[1..] {
        p = s.fma(p, x2, s.splat(*c));
    }
    let near = s.fma(s.mul(x, x2), p, x);
    // Far from 0, where 1 − 2/(e²ᵃ + 1) does not cancel.
    let far = s.sub(one, s.div(s.splat(2.0), s.add(exp(s, s.add(a, a)), one)));
    let far = s.select_lt(x, zero, s.sub(zero, far), far);
    s.select_lt(a, s.splat(0.625), near, far)
}

/// x · 1/(1 + e⁻ᵗ): x times the logistic function of t.
#[inline(always)]
fn times_logistic<S: Floats>(s: S, x: S::F, t: S::F) -> S::F {
    s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), t))))
}

/// x / (1 + e⁻ˣ): at most 3 ulp for x > −80.
#[inline(always)]
pub(crate) fn silu<S: Floats>(s: S, x: S::F) -> S::F {
    times_logistic(s, x, x)
}

/// GELU in its tanh form, x/2 · (1 + tanh(√(2/π)·(x + 0.044715 x³))) = x · logistic(2√(2/π)·(x + 0.044715 x³)).
/// At most 4 ulp for x > −1 and 60 ulp for x > −5 (the argument of exp is rounded).
#[inline(always)]
pub(crate) fn gelu_tanh<S: Floats>(s: S, x: S::F) -> S::F {
    // 2√(2/π) and 0.044715 times that.
    let inner = s.fma(s.mul(x, x), s.splat(0.071_354_814), s.splat(1.595_769_2));
    times_logistic(s, x, s.mul(x, inner))
}

/// cap · tanh(x / cap).
#[inline(always)]
pub(crate) fn soft_cap<S: Floats>(s: S, x: S::F, cap: f32) -> S::F {
    s.mul(s.splat(cap), tanh(s, s.mul(x, s.splat(1.0 / cap))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Op, Simd};

    struct Map<'a, F>(&'a mut [f32], F);

    /// A function that is generic over the instruction set, as a value.
    trait Lanes {
        fn lanes<S: Simd>(&self, s: S, x: S::F) -> S::F;
    }

    impl<F: Lanes> Op for Map<'_, F> {
        type Output = ();

        #[inline(always)]
        fn call<S: Simd>(self, s: S) {
            for x in self.0.as_chunks_mut().0 {
                let y = self.1.lanes(s, s.load(x));
                s.store(y, x);
            }
        }
    }

    macro_rules! lanes {
        ($name:ident, $s:ident, $x:ident => $body:expr) => {
            struct $name;
            impl Lanes for $name {
                #[inline(always)]
                fn lanes<S: Simd>(&self, $s: S, $x: S::F) -> S::F {
                    $body
                }
            }
        };
    }
    lanes!(Exp, s, x => exp(s, x));
    lanes!(ExpNeg, s, x => exp_neg(s, x));
    lanes!(Tanh, s, x => tanh(s, x));
    lanes!(Silu, s, x => silu(s, x));
    lanes!(Gelu, s, x => gelu_tanh(s, x));
    lanes!(Cap, s, x => soft_cap(s, x, 30.0));

    /// Distance of `got` from the exact `want` in units of the last place of an f32 near `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let exponent = want.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
        (f64::from(got) - want).abs() / (exponent - 23.0).exp2()
    }

    /// Largest error in ulps over a dense sweep, for every instruction set of the machine.
    fn check(
        name: &str,
        f: impl Lanes + Copy,
        exact: fn(f64) -> f64,
        range: std::ops::Range<f32>,
        bound: f64,
    ) {
        let n = 1 << 18;
        let step = (range.end - range.start) / n as f32;
        let x: Vec<f32> = (0..n).map(|i| range.start + step * i as f32).collect();
        for isa in Isa::available() {
            let mut y = x.clone();
            isa.dispatch(Map(&mut y, f));
            let worst = x
                .iter()
                .zip(&y)
                .map(|(&x, &y)| (ulps(y, exact(f64::from(x))), x))
                .fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a });
            let bound = if isa.name() == "portable" { bound + 4.0 } else { bound };
            assert!(worst.0 <= bound, "{name} on {isa}: {:.2} ulp at {}", worst.0, worst.1);
        }
    }

    impl<T: Lanes> Lanes for &T {
        fn lanes<S: Simd>(&self, s: S, x: S::F) -> S::F {
            T::lanes(self, s, x)
        }
    }

    #[test]
    fn errors_are_within_the_stated_bounds() {
        check("exp", &Exp, f64::exp, -87.33..88.37, 1.0);
        check("exp", &Exp, f64::exp, -1.0..1.0, 1.0);
        check("exp_neg", &ExpNeg, f64::exp, -87.33..0.0, 1.0);
        check("tanh", &Tanh, f64::tanh, -10.0..10.0, 3.0);
        check("tanh", &Tanh, f64::tanh, -0.7..0.7, 3.0);
        check("silu", &Silu, |x| x / (1.0 + (-x).exp()), -80.0..80.0, 3.0);
        let gelu = |x: f64| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        };
        check("gelu", &Gelu, gelu, -1.0..20.0, 4.0);
        check("gelu", &Gelu, gelu, -5.0..-1.0, 60.0);
        check("soft cap", &Cap, |x| 30.0 * (x / 30.0).tanh(), -100.0..100.0, 5.0);
    }

    #[test]
    fn special_values() {
        for isa in Isa::available() {
            let mut x =
                [0.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -1e30, 1e30, -100.0, 100.0].repeat(2);
            isa.dispatch(Map(&mut x, &Exp));
            assert_eq!(x[..3], [1.0, 0.0, f32::INFINITY], "{isa}");
            assert!(x[3].is_nan(), "{isa}");
            assert_eq!(x[4..8], [0.0, f32::INFINITY, 0.0, f32::INFINITY], "{isa}");
            let mut x = [0.0, f32::NEG_INFINITY, f32::NAN, -1e30].repeat(4);
            isa.dispatch(Map(&mut x, &ExpNeg));
            assert_eq!((x[0], x[1], x[2].is_nan(), x[3]), (1.0, 0.0, true, 0.0), "{isa}");
            let mut x = [f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e30].repeat(4);
            isa.dispatch(Map(&mut x, &Tanh));
            assert_eq!((x[0], x[1], x[2], x[3]), (1.0, -1.0, 0.0, 1.0), "{isa}");
        }
    }
}
