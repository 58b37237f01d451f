//! Values stored one by one: f32, f16 and bf16, little-endian ("blocks" of one value).
use super::{
    Format, TensorType,
    block::{block, f16_value},
};
use half::{bf16, f16};

block! {
    /// One f32. Spec: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>
    F32 = 4 bytes { le: [u8; 4], }
}

block! {
    /// One IEEE 754 half-precision value.
    F16 = 2 bytes { le: [u8; 2], }
}

block! {
    /// One bfloat16: the upper half of an f32.
    Bf16 = 2 bytes { le: [u8; 2], }
}

/// `to`: bytes → f32; `from`: f32 → bytes, rounded to nearest even.
macro_rules! plain {
    ($name:ident, $to:expr, $from:expr) => {
        impl Format for $name {
            const TYPE: TensorType = TensorType::$name;
            const BLOCK_LEN: usize = 1;
            const CAN_ENCODE: bool = true;

            #[inline(always)]
            fn decode(&self, out: &mut [f32]) {
                out[0] = $to(self.le);
            }

            #[inline(always)]
            fn encode(x: &[f32]) -> Option<Self> {
                Some(Self { le: $from(x[0]) })
            }

            fn random(rng: &mut impl FnMut() -> u64, std: f32) -> Self {
                Self { le: $from(std * normal(rng())) }
            }
        }
    };
}

plain!(F32, f32::from_le_bytes, f32::to_le_bytes);
plain!(F16, f16_value, |x| f16::from_f32(x).to_le_bytes());
plain!(Bf16, |le| bf16::from_le_bytes(le).to_f32(), |x| bf16::from_f32(x).to_le_bytes());

/// About N(0, 1): eight random bytes, each uniform in 0..=255 (variance (256² − 1)/12), summed and normalised.
fn normal(bits: u64) -> f32 {
    let sum: u32 = bits.to_le_bytes().iter().map(|&b| u32::from(b)).sum();
    let variance: f32 = 8.0 * 65_535.0 / 12.0;
    (sum as f32 - 8.0 * 127.5) / variance.sqrt()
}
