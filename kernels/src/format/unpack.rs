//! What matrix products need of a quantised format.
use super::Format;
use crate::isa::Simd;

/// A format of quantised blocks as the products see it: rows of u8 values with a bias, f32 scales and,
/// for some, f32 mins:
///
/// value\[e\] = scale · (u8\[e\] − BIAS) + min, with a scale and min per 32 or per 16 values.
pub trait Quantised: Format {
    /// What was added to the signed quants to make them u8.
    const BIAS: i32;
    /// The largest u8 that any bytes of a block can give.
    const MAX: u8;
    /// Scales per 32 values: 1 or 2.
    const SCALES: usize = 1;
    /// Mins per 32 values: 0, 1 or 2.
    const MINS: usize = 0;
    /// Blocks that [`Quantised::unpack128`] takes: four of 32 values, or one of 256.
    const UNIT: usize = if Self::BLOCK_LEN == 32 { 4 } else { 1 };
    /// Groups of 128 values in these blocks: 1 or 2.
    const HALVES: usize = Self::UNIT * Self::BLOCK_LEN / 128;

    /// Unpacks 128 values of `blocks`, which are [`Self::UNIT`] in number; `half` (0, or 1 for blocks of
    /// 256) says which.
    ///
    /// Mark it `#[inline(always)]`. What the halves share should be computed from `blocks` alone, so that
    /// after inlining it is computed once.
    fn unpack128<S: Simd>(simd: S, blocks: &[Self], half: usize) -> Group<S>;
}

/// 128 unpacked values of a row: four runs of 32.
#[derive(Clone, Copy)]
pub struct Group<S: Simd> {
    /// Biased values, 32 to a vector.
    pub q: [S::B; 4],
    /// Scales, exact products in f32: lane b of `d[0]` belongs to run b. With two scales `d[h]` is that
    /// of half h of the run; with one `d[1]` is not used.
    pub d: [S::F4; 2],
    /// Mins with their sign (the product adds min · Σ activations); laid out as `d`, unused without mins.
    pub m: [S::F4; 2],
}
