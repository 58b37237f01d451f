//! Memory aligned to cache lines.
use std::collections::TryReserveError;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Numbers that any bytes are a value of.
///
/// # Safety
/// No padding, no invalid bit patterns, an alignment of at most 64 and a size that divides 64.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: a plain number.
unsafe impl Plain for u8 {}
// SAFETY: a plain number.
unsafe impl Plain for i8 {}
// SAFETY: a plain number.
unsafe impl Plain for i32 {}
// SAFETY: a plain number.
unsafe impl Plain for f32 {}
// SAFETY: a plain number (a transparent u16).
unsafe impl Plain for half::f16 {}

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A vector of numbers whose first is aligned to 64 bytes.
#[derive(Clone)]
pub(crate) struct Buffer<T> {
    lines: Vec<Line>,
    len: usize,
    _values: PhantomData<T>,
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Buffer { lines: Vec::new(), len: 0, _values: PhantomData }
    }
}

impl<T: Plain> Buffer<T> {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::default();
        buffer.grow(len);
        buffer
    }

    /// `len` zeros, or an error when the memory is not to be had.
    pub fn try_zeros(len: usize) -> Result<Self, TryReserveError> {
        let mut buffer = Self::default();
        // Too large a length stays too large when it saturates.
        buffer.lines.try_reserve_exact(len.saturating_mul(size_of::<T>()).div_ceil(64))?;
        buffer.grow(len);
        Ok(buffer)
    }

    /// Makes the buffer at least `len` long; new values are zero (or left over from when it was longer).
    pub fn grow(&mut self, len: usize) {
        let lines = (len * size_of::<T>()).div_ceil(64);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.len = self.len.max(len);
    }

    /// The values as bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the lines hold at least `len` values, and plain values have no padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len * size_of::<T>()) }
    }

    /// The values as bytes; any bytes are values.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len * size_of::<T>()) }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `len` values, initialised and aligned; any bytes are a `Plain`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// The bytes as numbers of another type.
///
/// # Panics
/// When the bytes are not aligned for `T`; the start of a [`Buffer`] always is.
pub(crate) fn cast_mut<T: Plain>(bytes: &mut [u8]) -> &mut [T] {
    assert!(bytes.as_ptr().addr().is_multiple_of(align_of::<T>()), "aligned bytes");
    // SAFETY: aligned as checked, in bounds since the division rounds down, and any bytes are a `Plain`.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>()) }
}

/// Consecutive parts of `bytes`, each starting at a multiple of 64.
pub(crate) fn split<const N: usize>(mut bytes: &mut [u8], sizes: [usize; N]) -> [&mut [u8]; N] {
    sizes.map(|size| {
        let (part, rest) = std::mem::take(&mut bytes).split_at_mut(size.next_multiple_of(64));
        bytes = rest;
        &mut part[..size]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_keep_what_they_hold() {
        let mut buffer = Buffer::<f32>::zeros(3);
        buffer[2] = 1.5;
        buffer.grow(1000);
        assert_eq!((buffer.len(), buffer[2], buffer[999]), (1000, 1.5, 0.0));
        assert!(buffer.as_ptr().addr().is_multiple_of(64));
        buffer.grow(10);
        assert_eq!(buffer.len(), 1000);
    }
}
