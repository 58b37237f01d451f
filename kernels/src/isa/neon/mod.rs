//! Arm's 128-bit vectors, with three ways to multiply bytes: widening products that every aarch64 has,
//! `sdot` (dotprod, Armv8.2) and `usdot` (i8mm, Armv8.6).
//!
//! The intrinsics of the latter two are not stable in Rust, so they are inline assembly; an
//! `.arch_extension` line lets the assembler take them whatever the target's baseline is.
use super::{Isa, Op, Simd};
use std::arch::is_aarch64_feature_detected;
use std::marker::PhantomData;

/// Runs intrinsics. Pointers given to loads and stores come from references to as many values as the
/// intrinsic touches.
macro_rules! neon {
    ($($body:tt)*) => {
        // SAFETY: a token proves that this machine has NEON and the instructions of its `Multiply`.
        unsafe { $($body)* }
    };
}

/// The four registers of a vector of 16 floats, from an expression of the register's number.
macro_rules! registers {
    ($i:ident => $body:expr) => {
        neon! {
            [{ let $i = 0; $body }, { let $i = 1; $body }, { let $i = 2; $body }, { let $i = 3; $body }]
        }
    };
}

/// The two registers of a vector of 32 bytes.
macro_rules! halves {
    ($i:ident => $body:expr) => {
        neon! { [{ let $i = 0; $body }, { let $i = 1; $body }] }
    };
}

mod bytes;
mod floats;
mod multiply;
mod products;

pub use multiply::{Multiply, Sdot, Usdot, Widening};

/// The 128-bit vectors of every aarch64; bytes are multiplied to 16 bits, then added in pairs.
pub type Neon = Token<Widening>;
/// NEON with `sdot`: four products of signed bytes and their sum in each lane.
pub type NeonDotprod = Token<Sdot>;
/// NEON with `usdot`: the same of unsigned by signed bytes.
pub type NeonI8mm = Token<Usdot>;

/// NEON with the way `M` to multiply bytes.
#[derive(Debug)]
pub struct Token<M>(PhantomData<M>);

impl<M> Clone for Token<M> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Token<M> {}

impl<M: Multiply> Token<M> {
    /// The token, when this machine has the instructions.
    pub fn new() -> Option<Self> {
        (is_aarch64_feature_detected!("neon") && M::detected()).then_some(Self(PhantomData))
    }
}

impl<M: Multiply> Simd for Token<M> {
    const ISA: Isa = M::ISA;

    // NEON is in the baseline and the rest is assembly: there is no other context to enter.
    fn run<O: Op>(self, op: O) -> O::Output {
        op.call(self)
    }
}
