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
    /// Bias and largest byte of what [`Quantised::unpack_narrow`] gives, where there is that.
    const NARROW: Option<(i32, u8)> = None;
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

    /// As [`Quantised::unpack128`], with smaller bytes and two scales, which are integers. For instruction sets that
    /// multiply small bytes faster. Only called where there is a [`Quantised::NARROW`].
    fn unpack_narrow<S: Simd>(simd: S, blocks: &[Self], half: usize) -> Narrow<S> {
        let _ = (simd, blocks, half);
        unreachable!("{} has one form", Self::TYPE)
    }

    /// Value `i` of the block, as [`Format::decode`] gives it.
    ///
    /// Mark it `#[inline(always)]`: a loop over blocks computes but once what depends on `i` alone.
    fn value(&self, i: usize) -> f32;
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

/// As [`Group`], of [`Quantised::unpack_narrow`]: value\[e\] = d · scale · (u8\[e\] − bias) + min.
#[derive(Clone, Copy)]
pub struct Narrow<S: Simd> {
    /// Biased values, 32 to a vector.
    pub q: [S::B; 4],
    /// Words, each twice: the scales of the first halves of the runs, then of the second halves.
    pub scales: S::B,
    /// Lane b is what both scales of run b are multiplied with.
    pub d: S::F4,
    /// As in [`Group`].
    pub m: [S::F4; 2],
}

/// Scales as [`Narrow`] holds them.
#[inline(always)]
pub(super) fn scale_words<S: Simd>(simd: S, halves: [[i8; 4]; 2]) -> S::B {
    let mut bytes = [0; 32];
    for (bytes, &scale) in bytes.as_chunks_mut().0.iter_mut().zip(halves.as_flattened()) {
        *bytes = (u32::from(i16::from(scale) as u16) * 0x1_0001).to_le_bytes();
    }
    simd.b_load(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{TensorType, as_blocks, random_row, with_quantised};
    use crate::isa::{Isa, Op};
    use std::array::from_fn;

    /// Value by value.
    struct Single<'a, Q>(&'a [Q]);

    impl<Q: Quantised> Op for Single<'_, Q> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn call<S: Simd>(self, _simd: S) -> Vec<f32> {
            self.0.iter().flat_map(|block| (0..Q::BLOCK_LEN).map(|i| block.value(i))).collect()
        }
    }

    /// Unpacks every unit, narrow if asked to, and puts the values together again as the formulas of [`Quantised`] say.
    struct Values<'a, Q>(&'a [Q], bool);

    impl<Q: Quantised> Op for Values<'_, Q> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn call<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut out = Vec::new();
            for unit in self.0.chunks_exact(Q::UNIT) {
                for half in 0..Q::HALVES {
                    let narrow = Q::NARROW.filter(|_| self.1);
                    let (bias, max) = narrow.unwrap_or((Q::BIAS, Q::MAX));
                    let floats = |v: [S::F4; 2]| v.map(|v| simd.f4_array(v).map(f64::from));
                    let (q, d, m) = match narrow {
                        Some(_) => {
                            let group = Q::unpack_narrow(simd, unit, half);
                            let mut bytes = [0; 32];
                            simd.b_store(group.scales, &mut bytes);
                            let scale = |i: usize| {
                                let [a, b, c, d] = bytes.as_chunks().0[i];
                                assert_eq!([a, b], [c, d], "a scale twice");
                                f64::from(i16::from_le_bytes([a, b]))
                            };
                            let [d, _] = floats([group.d; 2]);
                            let d = from_fn(|h| from_fn(|b| d[b] * scale(4 * h + b)));
                            (group.q, d, floats(group.m))
                        }
                        None => {
                            let group = Q::unpack128(simd, unit, half);
                            (group.q, floats(group.d), floats(group.m))
                        }
                    };
                    let scales = if narrow.is_some() { 2 } else { Q::SCALES };
                    for (b, q) in q.into_iter().enumerate() {
                        let mut bytes = [0; 32];
                        simd.b_store(q, &mut bytes);
                        for (e, u) in bytes.into_iter().enumerate() {
                            assert!(u <= max, "{}: byte {u}", Q::TYPE);
                            let scale = d[e / 16 % scales][b];
                            let min = if Q::MINS == 0 { 0.0 } else { m[e / 16 % Q::MINS][b] };
                            out.push((scale * f64::from(i32::from(u) - bias) + min) as f32);
                        }
                    }
                }
            }
            out
        }
    }

    /// Whatever the bytes, including infinite and NaN scales, on every instruction set.
    #[test]
    fn groups_and_single_values_are_those_that_decode_gives() {
        let mut state = 3u64;
        let mut rng = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            state ^ state >> 29
        };
        for &ty in TensorType::ALL.iter().filter(|ty| ty.is_quantised()) {
            let count = 512 * 8;
            let mut bytes = vec![0; ty.row_bytes(count).unwrap()];
            for kind in 0..3 {
                match kind {
                    0 => random_row(ty, &mut rng, 1.0, &mut bytes),
                    1 => bytes.iter_mut().for_each(|b| *b = (rng() >> 50) as u8),
                    _ => bytes.iter_mut().for_each(|b| *b = 0xff),
                }
                let mut want = vec![0.0f32; count];
                crate::format::decode_row(ty, &bytes, &mut want);
                for isa in Isa::available() {
                    let all = with_quantised!(
                        ty,
                        Q => {
                            let blocks = as_blocks::<Q>(&bytes);
                            [
                                isa.dispatch(Values(blocks, false)),
                                isa.dispatch(Values(blocks, true)),
                                isa.dispatch(Single(blocks)),
                            ]
                        },
                        else => unreachable!()
                    );
                    for (way, values) in all.into_iter().enumerate() {
                        assert_eq!(values.len(), count);
                        for (i, (got, want)) in values.into_iter().zip(&want).enumerate() {
                            assert!(
                                got == *want || got.is_nan() && want.is_nan(),
                                "{isa} {ty} way {way} value {i}: {got} for {want}"
                            );
                        }
                    }
                }
            }
        }
    }
}
