//! Outlier channels: the one value of an argument that dwarfs the others is multiplied in f32.
//!
//! The residual stream of a transformer has a few channels of very large values (Dettmers et al., LLM.int8(),
//! <https://arxiv.org/abs/2208.07339>). Such a value stretches the scale of its block of 32 activations until the
//! others are rounded to a few steps; without it they keep their 8 bits. So the largest value x\[c\] of a normed
//! row is left out of its quants, which hold 0 there, when x\[c\]² is more than [`SHARE`] of Σ x², and each row w of
//! a quantised matrix adds x\[c\] · w\[c\] to its finished sum, rounded once.
//!
//! What is an outlier depends on the values of its own row alone, so that a token gives the same bits in any batch.
use crate::format::{Quantised, with_quantised};
use crate::isa::{Isa, Op, Simd};
use crate::matrix::{Matrix, decode_column};
use crate::norm::sum_of_squares;
use crate::out::Out;
use std::marker::PhantomData;
use std::ops::Range;

/// Part of Σ x² that an outlier has. Of normal values the largest of 576 seldom reaches it, that of 4096 never.
const SHARE: f32 = 1.0 / 32.0;

/// A value that the quants of its row leave out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outlier {
    /// Which row of the argument.
    pub t: usize,
    /// Which value of the row.
    pub channel: usize,
    /// The value.
    pub x: f32,
}

/// The outlier of a row, which is row `t`.
#[inline(always)]
pub(crate) fn find<S: Simd>(simd: S, x: &[f32], t: usize) -> Option<Outlier> {
    let (blocks, tail) = x.as_chunks::<16>();
    let mut max = simd.abs(simd.load_part(tail));
    for block in blocks {
        max = simd.max(max, simd.abs(simd.load(block)));
    }
    let max = simd.max_lane(max);
    // Not so for NaN.
    if max * max > SHARE * sum_of_squares(simd, x) {
        let channel = x.iter().position(|x| x.abs() == max)?;
        return Some(Outlier { t, channel, x: x[channel] });
    }
    None
}

/// Adds the products of `rows` of `w` with outliers, which are in the order of their channels, to those of their tokens
/// in `out` that are in `tokens`.
pub(crate) fn add_outliers(
    isa: Isa,
    w: &Matrix,
    rows: Range<usize>,
    (outliers, tokens): (&[Outlier], Range<usize>),
    out: &Out,
) {
    if !outliers.is_empty() {
        with_quantised!(w.ty(), Q => {
            isa.dispatch(Add { w, rows, outliers, tokens, out, format: PhantomData::<Q> })
        }, else => unreachable!("float weights meet all values"));
    }
}

struct Add<'a, Q> {
    w: &'a Matrix<'a>,
    rows: Range<usize>,
    outliers: &'a [Outlier],
    tokens: Range<usize>,
    out: &'a Out<'a>,
    format: PhantomData<Q>,
}

/// Rows whose values in one channel are decoded together: 1 KiB of the L1 cache.
const ROWS: usize = 256;

impl<Q: Quantised> Op for Add<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Add { w, rows, outliers, tokens, out, .. } = self;
        for same in outliers.chunk_by(|a, b| a.channel == b.channel) {
            let channel = same[0].channel;
            if let Some(columns) = w.columns() {
                if let Some(kept) = columns.get(channel) {
                    add(simd, (same, &tokens), rows.start, &kept[rows.clone()], out);
                    continue;
                }
                columns.ask(channel);
            }
            for first in rows.clone().step_by(ROWS) {
                let mut column = [0.0; ROWS];
                let column = &mut column[..ROWS.min(rows.end - first)];
                decode_column::<Q>(w, first, channel, column);
                add(simd, (same, &tokens), first, column, out);
            }
        }
    }
}

/// Adds the products of a column, of the rows from `first` on, with the outliers that are of `tokens`.
#[inline(always)]
fn add<S: Simd>(
    simd: S,
    (outliers, tokens): (&[Outlier], &Range<usize>),
    first: usize,
    column: &[f32],
    out: &Out,
) {
    for outlier in outliers {
        if tokens.contains(&outlier.t) {
            // SAFETY: the calling thread owns these rows of the product, or these tokens.
            unsafe { out.add_scaled(simd, outlier.t, first, outlier.x, column) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Find<'a>(&'a [f32]);

    impl Op for Find<'_> {
        type Output = Option<Outlier>;

        #[inline(always)]
        fn call<S: Simd>(self, simd: S) -> Option<Outlier> {
            find(simd, self.0, 3)
        }
    }

    #[test]
    fn an_outlier_has_more_than_its_share() {
        for isa in Isa::available() {
            let find = |x: &[f32]| isa.dispatch(Find(x));
            for (cols, channel) in [(100, 0), (100, 99), (4096, 1000)] {
                let mut x = vec![0.5f32; cols];
                assert_eq!(find(&x), None, "{isa}");
                // y² = s · (r + y²) for the share s and the sum r of the other squares.
                let limit = (0.25 * (cols - 1) as f32 / 31.0).sqrt();
                x[channel] = -limit * 0.999;
                assert_eq!(find(&x), None, "{isa}");
                x[channel] = -limit * 1.001;
                assert_eq!(find(&x), Some(Outlier { t: 3, channel, x: x[channel] }), "{isa}");
                // Nothing to gain or to find.
                x[0] = f32::NAN;
                assert_eq!(find(&x), None, "{isa}");
            }
            assert_eq!(find(&[0.0; 64]), None, "{isa}");
        }
    }
}
