//! Blocks as they lie in a file: byte arrays only, so any byte of a map may start one.
use half::f16;

/// A struct of byte arrays, readable in place at any address.
///
/// # Safety
/// The type has alignment 1, no padding, and every bit pattern is a valid value.
pub unsafe trait Bytes: Copy + Send + Sync + 'static {}

/// Declares a block: a `repr(C)` struct of byte arrays whose size is asserted.
macro_rules! block {
    ($(#[$meta:meta])* $name:ident = $bytes:literal bytes {
        $($(#[$field_meta:meta])* $field:ident: [u8; $len:literal],)*
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name { $($(#[$field_meta])* pub(crate) $field: [u8; $len],)* }

        const _: () = assert!(size_of::<$name>() == $bytes);

        // SAFETY: the macro admits only byte arrays as fields: alignment 1, no padding, all bit patterns valid.
        unsafe impl crate::format::block::Bytes for $name {}
    };
}
pub(super) use block;

// SAFETY: as of the byte arrays of blocks.
unsafe impl<const N: usize> Bytes for [i8; N] {}

/// The bytes of `src` as blocks; bytes after the last whole block are left out.
pub fn as_blocks<B: Bytes>(src: &[u8]) -> &[B] {
    // SAFETY: the pointer is valid for `len / size` blocks of `size` bytes, `B` has alignment 1 and accepts any bytes
    // (contract of `Bytes`), and the result borrows `src`.
    unsafe { std::slice::from_raw_parts(src.as_ptr().cast(), src.len() / size_of::<B>()) }
}

/// As [`as_blocks`], for writing.
pub fn as_blocks_mut<B: Bytes>(dst: &mut [u8]) -> &mut [B] {
    // SAFETY: as in `as_blocks`; the borrow of `dst` is exclusive, and blocks without padding leave every byte initialised.
    unsafe { std::slice::from_raw_parts_mut(dst.as_mut_ptr().cast(), dst.len() / size_of::<B>()) }
}

/// A block of random bytes.
pub(super) fn random_block<B: Bytes>(rng: &mut impl FnMut() -> u64) -> B {
    // SAFETY: all-zero bytes are a valid `B` (contract of `Bytes`).
    let mut block: B = unsafe { std::mem::zeroed() };
    // SAFETY: `B` has no padding, so it is `size_of::<B>()` initialised bytes, borrowed exclusively here; any bytes are valid.
    let bytes = unsafe { std::slice::from_raw_parts_mut((&raw mut block).cast::<u8>(), size_of::<B>()) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&rng().to_le_bytes()[..chunk.len()]);
    }
    block
}

/// The value of a stored f16.
///
/// In integer operations and one product: without the calls and branches of a library, loops over it become vectors.
#[inline(always)]
pub(super) fn f16_value(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    // Exponent and fraction move to their places in an f32, whose exponents are biased by 127 − 15 = 112 more; the
    // product also makes subnormal values normal.
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((112 + 127) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// Bytes 0, 2, 4 and 6 of a little-endian word.
#[inline(always)]
pub(super) fn even_bytes(word: u64) -> [u8; 4] {
    let word = word & 0x00ff_00ff_00ff_00ff;
    let word = (word | word >> 8) & 0x0000_ffff_0000_ffff;
    ((word | word >> 16) as u32).to_le_bytes()
}

/// A stored f16 with the other sign.
#[inline(always)]
pub(super) fn minus([low, high]: [u8; 2]) -> [u8; 2] {
    [low, high ^ 0x80]
}

/// The nearest f16 (ties to even), with values beyond ±65504 held at the limit, so that a scale is never infinite.
#[inline(always)]
pub(super) fn f16_bytes(value: f32) -> [u8; 2] {
    let max = f16::MAX.to_f32();
    f16::from_f32(value.clamp(-max, max)).to_le_bytes()
}

/// A random scale for synthetic blocks: `mean` × 0.75 … 1.25.
pub(super) fn random_scale(rng: &mut impl FnMut() -> u64, mean: f32) -> f32 {
    mean * (0.75 + 0.5 * (rng() >> 40) as f32 / (1u32 << 24) as f32)
}

/// As [`random_scale`] with a random sign, which centres formats whose quants are not symmetric around zero.
pub(super) fn random_signed_scale(rng: &mut impl FnMut() -> u64, mean: f32) -> f32 {
    let scale = random_scale(rng, mean);
    if rng() >> 63 == 0 { scale } else { -scale }
}

/// √E[f²] of the factors f that [`random_scale`] draws, uniform in 0.75 … 1.25: √(1 + 0.5²/12).
pub(super) const SCALE_RMS: f32 = 1.010_362_9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_values_are_those_of_the_library() {
        for bits in 0..=u16::MAX {
            let (got, want) = (f16_value(bits.to_le_bytes()), f16::from_bits(bits).to_f32());
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{bits:#x}: {got} for {want}"
            );
        }
    }
}
