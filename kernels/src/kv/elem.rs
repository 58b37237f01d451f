//! The types that the cache stores numbers as.
use super::{BLOCK, Cells, Data, KvBlock, other_type};
use crate::buffer::Plain;
use crate::isa::Floats;
use half::f16;

/// The numbers of one layer and head in a block.
#[derive(Clone, Copy)]
pub(crate) struct Cell<'a, E> {
    /// `[dim][64]`
    pub k: &'a [E],
    /// `[64][v_stride]`
    pub v: &'a [E],
    /// `[groups][64]`, empty for floats.
    pub k_scales: &'a [f16],
    /// Likewise.
    pub v_scales: &'a [f16],
}

/// A number as the cache stores it.
pub(crate) trait Elem: Plain {
    const ZERO: Self;
    /// Whether numbers are to be multiplied with a scale that [`SCALED`](super::SCALED) dimensions share.
    const SCALES: bool;

    /// Without its scale.
    fn to_f32(self) -> f32;

    /// The values of [`SCALED`](super::SCALED) dimensions, and their scale.
    fn encode<S: Floats>(s: S, x: [S::F; 2], out: &mut [[Self; 16]; 2]) -> f16;

    /// The cells of a block.
    ///
    /// # Panics
    /// If the block stores another type.
    fn cells(block: &KvBlock) -> &Cells<Self>;

    /// The cells of a block, to be written.
    ///
    /// # Panics
    /// If the block stores another type.
    fn cells_mut(data: &mut Data) -> &mut Cells<Self>;

    /// The numbers of one head.
    #[inline(always)]
    fn cell(block: &KvBlock, layer: usize, kv_head: usize) -> Cell<'_, Self> {
        let (index, size, scales) =
            (block.shape.index(layer, kv_head), block.shape.cell(), block.shape.scales());
        let (k, v) = Self::cells(block)[index * size..][..size].split_at(block.shape.dim * BLOCK);
        let (k_scales, v_scales) = block.scales[index * 2 * scales..][..2 * scales].split_at(scales);
        Cell { k, v, k_scales, v_scales }
    }
}

macro_rules! cells_of {
    ($variant:ident) => {
        #[inline(always)]
        fn cells(block: &KvBlock) -> &Cells<Self> {
            let Data::$variant(cells) = &block.data else { other_type(block.shape.ty) };
            cells
        }

        fn cells_mut(data: &mut Data) -> &mut Cells<Self> {
            match data {
                Data::$variant(cells) => cells,
                other => other_type(other.ty()),
            }
        }
    };
}

macro_rules! float {
    ($type:ty, $zero:expr, $variant:ident, |$s:ident, $v:ident, $out:ident| $store:expr) => {
        impl Elem for $type {
            const ZERO: Self = $zero;
            const SCALES: bool = false;

            fn to_f32(self) -> f32 {
                f32::from(self)
            }

            #[inline(always)]
            fn encode<S: Floats>($s: S, x: [S::F; 2], out: &mut [[Self; 16]; 2]) -> f16 {
                for i in 0..2 {
                    let ($v, $out) = (x[i], &mut out[i]);
                    $store;
                }
                f16::ONE
            }

            cells_of!($variant);
        }
    };
}
float!(f32, 0.0, F32, |s, v, out| s.store(v, out));
// An infinity would turn what a query does not see, 0 · ∞, into NaN.
float!(f16, f16::ZERO, F16, |s, v, out| s
    .store_f16(s.min(s.max(v, s.splat(-65504.0)), s.splat(65504.0)), out));

impl Elem for i8 {
    const ZERO: Self = 0;
    const SCALES: bool = true;

    fn to_f32(self) -> f32 {
        f32::from(self)
    }

    /// As in Q8_0: d = max |x| / 127, rounded to f16, and the nearest multiples of it.
    #[inline(always)]
    fn encode<S: Floats>(s: S, x: [S::F; 2], out: &mut [[Self; 16]; 2]) -> f16 {
        let largest = s.max_lane(s.max(s.abs(x[0]), s.abs(x[1])));
        let d = f16::from_f32((largest / 127.0).min(f16::MAX.to_f32()));
        // A scale that was rounded down, or to nothing, would make more than 127.
        let inverse = s.splat(if d == f16::ZERO { 0.0 } else { 1.0 / d.to_f32() });
        for i in 0..2 {
            let q = s.mul(x[i], inverse);
            s.store_i8(s.min(s.max(q, s.splat(-127.0)), s.splat(127.0)), &mut out[i]);
        }
        d
    }

    cells_of!(Q8_0);
}
