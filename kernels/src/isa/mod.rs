//! Instruction sets: one token type each; holding a token proves that the machine supports it.
//!
//! A kernel is written once, generic over [`Simd`], as an [`Op`]; [`Isa::dispatch`] runs it with the
//! token of an instruction set chosen at run time. Everything between [`Simd::run`] and the token's
//! methods must be `#[inline(always)]`: only `run` carries the `target_feature` attributes. A closure has no
//! such promise, nor have the functions that take one, as `array::map` and `from_fn`; what is compiled as a
//! function of its own lies outside the instruction set and is up to a hundred times slower. Use loops and
//! `four!` where operations of the token are called.
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod scalar;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use neon::{Neon, NeonDotprod, NeonI8mm};
pub use portable::Portable;
pub use scalar::Scalar;
pub use simd::{Bytes, Dots, Floats, Levels, Op, Panel, Simd, WIDE_OFFSET, Words, eight_rows};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::own_bits;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512Vnni, AvxVnni};

use std::fmt;
use std::str::FromStr;

/// An array of four: `four!(i => f(i))` is `[f(0), f(1), f(2), f(3)]` without a closure.
macro_rules! four {
    ($i:ident => $value:expr) => {
        $crate::isa::array!($i => $value; 0 1 2 3)
    };
}
pub(crate) use four;

/// An array of two, as [`four`].
macro_rules! two {
    ($i:ident => $value:expr) => {
        $crate::isa::array!($i => $value; 0 1)
    };
}
pub(crate) use two;

/// An array of eight, as [`four`].
macro_rules! eight {
    ($i:ident => $value:expr) => {
        $crate::isa::array!($i => $value; 0 1 2 3 4 5 6 7)
    };
}
pub(crate) use eight;

/// The values of an expression for the numbers given.
macro_rules! array {
    // One expression and many numbers do not repeat together, so the numbers are taken one by one.
    ($i:ident => $value:expr; $($n:literal)*) => { $crate::isa::array!(@ $i $value; []; $($n)*) };
    (@ $i:ident $value:expr; [$($done:expr,)*]; $n:literal $($rest:literal)*) => {
        $crate::isa::array!(@ $i $value; [$($done,)* { let $i = $n; $value },]; $($rest)*)
    };
    (@ $i:ident $value:expr; [$($done:expr,)*];) => { [$($done),*] };
}
pub(crate) use array;

macro_rules! isas {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $(, floats of $floats:ident)? $(, if $cfg:meta)?;)*) => {
        /// An instruction set that kernels can run on; it may be unavailable on this machine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Isa { $($(#[$doc])* $variant,)* }

        impl Isa {
            /// Every instruction set of every architecture, from the slowest to the fastest.
            pub const ALL: &'static [Isa] = &[$(Isa::$variant,)*];

            /// Name, as on the command line.
            pub const fn name(self) -> &'static str { match self { $(Isa::$variant => $name,)* } }

            /// Whether this program holds code for it: whether it is of this processor's family.
            pub const fn is_built(self) -> bool {
                match self { $($(#[cfg($cfg)])? Isa::$variant => true,)* #[allow(unreachable_patterns)] _ => false }
            }

            /// Whether this machine can run it.
            pub fn is_available(self) -> bool {
                match self { $($(#[cfg($cfg)])? Isa::$variant => $variant::new().is_some(),)* #[allow(unreachable_patterns)] _ => false }
            }

            /// Runs `op` with the token of this instruction set.
            ///
            /// # Panics
            /// When the machine does not support it: check [`Isa::is_available`] where one is chosen.
            #[inline]
            pub fn dispatch<O: Op>(self, op: O) -> O::Output {
                match self {
                    $($(#[cfg($cfg)])? Isa::$variant => match $variant::new() {
                        Some(simd) => simd.run(op),
                        None => unavailable(self),
                    },)*
                    #[allow(unreachable_patterns)]
                    _ => unavailable(self),
                }
            }

            /// [`Isa::dispatch`] for operations on floats alone, which do not differ between instruction sets
            /// with different dot products: such twins share one copy of the code.
            #[inline]
            pub fn dispatch_floats<O: Op>(self, op: O) -> O::Output {
                match self {
                    $($(#[cfg($cfg)])? Isa::$variant => match <isas!(@floats $variant $($floats)?)>::new() {
                        Some(simd) => simd.run(op),
                        None => unavailable(self),
                    },)*
                    #[allow(unreachable_patterns)]
                    _ => unavailable(self),
                }
            }
        }
    };
    (@floats $variant:ident) => { $variant };
    (@floats $variant:ident $floats:ident) => { $floats };
}

isas! {
    /// Plain loops: the oracle of all others.
    Scalar = "scalar";
    /// The vectors of the family's baseline.
    Portable = "portable";
    /// 256-bit vectors.
    Avx2 = "avx2", if target_arch = "x86_64";
    /// 256-bit vectors with 8-bit dot products.
    AvxVnni = "avxvnni", floats of Avx2, if target_arch = "x86_64";
    /// 512-bit vectors with 8-bit dot products.
    Avx512Vnni = "avx512vnni", if target_arch = "x86_64";
    /// Arm's 128-bit vectors.
    Neon = "neon", if target_arch = "aarch64";
    /// NEON with dot products of signed bytes.
    NeonDotprod = "neon-dotprod", if target_arch = "aarch64";
    /// NEON with dot products of unsigned by signed bytes.
    NeonI8mm = "neon-i8mm", if target_arch = "aarch64";
}

#[cold]
fn unavailable(isa: Isa) -> ! {
    panic!("instruction set {isa} is not available on this machine")
}

impl Isa {
    /// The instruction sets this machine has, from the slowest to the fastest.
    pub fn available() -> impl Iterator<Item = Isa> {
        Self::ALL.iter().copied().filter(|isa| isa.is_available())
    }

    /// Whether multiply-add rounds once: then all results equal those of [`Isa::Scalar`] bit by bit. The baseline of
    /// x86-64 lacks it.
    pub const fn is_fused(self) -> bool {
        let baseline = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        baseline || !matches!(self, Isa::Portable)
    }

    /// The fastest instruction set of this machine.
    pub fn best() -> Isa {
        Self::available().last().unwrap_or(Isa::Scalar)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name is not that of an instruction set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set '{0}'")]
pub struct UnknownIsa(pub String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Self::ALL
            .iter()
            .copied()
            .find(|isa| isa.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
