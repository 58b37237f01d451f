//! The three ways to multiply bytes.
use super::super::{Isa, Levels};
use core::arch::aarch64::*;
use core::arch::asm;
use std::arch::is_aarch64_feature_detected;
use std::array::from_fn;

/// One i32 per row of a panel of eight.
pub(super) type Rows = [int32x4_t; 2];

/// A way to multiply bytes. Its unsafe functions may run only where [`Multiply::detected`] says true; a
/// [`Token`](super::Token) proves that.
pub trait Multiply: Copy + Send + Sync + 'static {
    /// The name of NEON with it.
    const ISA: Isa;
    /// See [`Dots::NARROW_MAX`](super::super::Dots). When it is 127, weights are signed bytes.
    const NARROW_MAX: u8;
    /// See [`Panel::TOKENS`](super::super::Panel).
    const TOKENS: usize;
    /// The forms of [`Multiply::panel`].
    const LEVELS: Levels;

    /// Whether this machine has the instruction.
    fn detected() -> bool;

    /// acc + the products of 16 weights and activations, four to a lane in an order of its own.
    ///
    /// # Safety
    /// `Self::detected()` must be true.
    unsafe fn dot(acc: int32x4_t, q: uint8x16_t, a: int8x16_t) -> int32x4_t;

    /// See [`Panel::p_dots`](super::super::Panel).
    ///
    /// # Safety
    /// `Self::detected()` must be true, and what `p_dots` asks for.
    unsafe fn panel<const T: usize, const LEVEL: usize>(
        acc: [Rows; T],
        w: *const u8,
        a: *const i32,
        steps: usize,
    ) -> [Rows; T];
}

/// `smull`, `smlal` and `sadalp`: products and their sums in 16 bits first.
#[derive(Clone, Copy, Debug)]
pub struct Widening;

impl Multiply for Widening {
    const ISA: Isa = Isa::Neon;
    const NARROW_MAX: u8 = 127;
    // A token takes four registers of 16-bit sums and two of f32 chains; three more hold weights and activations.
    const TOKENS: usize = 4;
    const LEVELS: Levels = Levels::Signed16;

    fn detected() -> bool {
        true
    }
    #[inline(always)]
    unsafe fn dot(acc: int32x4_t, q: uint8x16_t, a: int8x16_t) -> int32x4_t {
        neon! {
            let q = vreinterpretq_s8_u8(q);
            // Two products of at most 128 · 127 each fit in 16 bits.
            let pairs = vmull_s8(vget_low_s8(q), vget_low_s8(a));
            vpadalq_s16(acc, vmlal_high_s8(pairs, q, a))
        }
    }
    #[inline(always)]
    unsafe fn panel<const T: usize, const LEVEL: usize>(
        mut acc: [Rows; T],
        w: *const u8,
        a: *const i32,
        steps: usize,
    ) -> [Rows; T] {
        // Two products of 128 · 127 still fit in 16 bits.
        let level = if LEVEL == 0 { 2 } else { LEVEL.min(steps) };
        neon! {
            for from in (0..steps).step_by(level) {
                // Of each token: pairs of values of k of rows 01, 23, 45 and 67.
                let mut words = [[vdupq_n_s16(0); 4]; T];
                for k in from..from + level {
                    let w: [int8x16_t; 2] =
                        from_fn(|i| vreinterpretq_s8_u8(vld1q_u8(w.add(32 * k + 16 * i))));
                    for (t, words) in words.iter_mut().enumerate() {
                        let a = vreinterpretq_s8_s32(vld1q_dup_s32(a.add(k * T + t)));
                        *words = [
                            vmlal_s8(words[0], vget_low_s8(w[0]), vget_low_s8(a)),
                            vmlal_high_s8(words[1], w[0], a),
                            vmlal_s8(words[2], vget_low_s8(w[1]), vget_low_s8(a)),
                            vmlal_high_s8(words[3], w[1], a),
                        ];
                    }
                }
                for (acc, words) in acc.iter_mut().zip(words) {
                    let pairs = words.map(|w| vpaddlq_s16(w));
                    *acc = from_fn(|i| vaddq_s32(acc[i], vpaddq_s32(pairs[2 * i], pairs[2 * i + 1])));
                }
            }
        }
        acc
    }
}

/// The words of `n` ≤ 4 tokens at `a`, one to a lane.
///
/// # Safety
/// `n` words lie at `a`, and the machine has NEON.
#[inline(always)]
unsafe fn words(a: *const i32, n: usize) -> int8x16_t {
    neon! {
        vreinterpretq_s8_s32(match n {
            1 => vld1q_dup_s32(a),
            2 => vcombine_s32(vld1_s32(a), vdup_n_s32(0)),
            3 => vld1q_lane_s32::<2>(a.add(2), vcombine_s32(vld1_s32(a), vdup_n_s32(0))),
            _ => vld1q_s32(a),
        })
    }
}

/// Declares an instruction that adds four products of bytes to each of four lanes.
macro_rules! dot_instruction {
    ($(#[$doc:meta])* $name:ident: $instruction:literal of $extension:tt, $isa:ident, $levels:ident, $narrow_max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl $name {
            /// acc + the products of the weights of four rows with lane `LANE` of `a`.
            ///
            /// # Safety
            /// The machine has the instruction.
            #[inline(always)]
            unsafe fn dot_lane<const LANE: usize>(mut acc: int32x4_t, w: uint8x16_t, a: int8x16_t) -> int32x4_t {
                // SAFETY: the caller has the instruction, which works on registers only.
                unsafe {
                    asm!(
                        concat!(".arch_extension ", $extension),
                        concat!($instruction, " {acc:v}.4s, {w:v}.16b, {a:v}.4b[{lane}]"),
                        acc = inout(vreg) acc, w = in(vreg) w, a = in(vreg) a, lane = const LANE,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
                acc
            }
        }

        impl Multiply for $name {
            const ISA: Isa = Isa::$isa;
            const NARROW_MAX: u8 = $narrow_max;
            // A token takes two registers of integer sums and two of f32 chains; two more hold weights and
            // two activations.
            const TOKENS: usize = 6;
            const LEVELS: Levels = Levels::$levels;

            fn detected() -> bool {
                is_aarch64_feature_detected!($extension)
            }
            #[inline(always)]
            unsafe fn dot(mut acc: int32x4_t, q: uint8x16_t, a: int8x16_t) -> int32x4_t {
                // SAFETY: the caller has the instruction, which works on registers only.
                unsafe {
                    asm!(
                        concat!(".arch_extension ", $extension),
                        concat!($instruction, " {acc:v}.4s, {q:v}.16b, {a:v}.16b"),
                        acc = inout(vreg) acc, q = in(vreg) q, a = in(vreg) a,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
                acc
            }
            #[inline(always)]
            unsafe fn panel<const T: usize, const LEVEL: usize>(
                mut acc: [Rows; T],
                w: *const u8,
                a: *const i32,
                steps: usize,
            ) -> [Rows; T] {
                // SAFETY: the caller has the instruction, `steps` steps of eight rows at `w` and of T tokens at `a`.
                unsafe {
                    for k in 0..steps {
                        let w: [uint8x16_t; 2] = from_fn(|i| vld1q_u8(w.add(32 * k + 16 * i)));
                        let a = a.add(k * T);
                        let low = words(a, T);
                        let high = if T > 4 { words(a.add(4), T - 4) } else { low };
                        for (t, acc) in acc.iter_mut().enumerate() {
                            let a = if t < 4 { low } else { high };
                            *acc = from_fn(|i| match t % 4 {
                                0 => Self::dot_lane::<0>(acc[i], w[i], a),
                                1 => Self::dot_lane::<1>(acc[i], w[i], a),
                                2 => Self::dot_lane::<2>(acc[i], w[i], a),
                                _ => Self::dot_lane::<3>(acc[i], w[i], a),
                            });
                        }
                    }
                }
                acc
            }
        }
    };
}

dot_instruction! {
    /// `sdot`: four products of signed bytes and their sum in each lane.
    Sdot: "sdot" of "dotprod", NeonDotprod, Signed32, 127
}

dot_instruction! {
    /// `usdot`: four products of unsigned by signed bytes and their sum in each lane.
    Usdot: "usdot" of "i8mm", NeonI8mm, All32, 255
}
