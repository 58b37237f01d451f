//! Memory aligned to cache lines.
use memmap2::MmapMut;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

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

/// A vector of numbers in pages of its own: aligned to 64 bytes and more, and zero without being written to.
pub(crate) struct Buffer<T> {
    /// Pages for `len` values or more; none for none.
    pages: Option<MmapMut>,
    len: usize,
    _values: PhantomData<T>,
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Buffer { pages: None, len: 0, _values: PhantomData }
    }
}

impl<T: Plain> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len);
        copy.copy_from_slice(self);
        copy
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
    pub fn try_zeros(len: usize) -> io::Result<Self> {
        // Too large a length stays too large when it saturates.
        let pages = pages(len.saturating_mul(size_of::<T>()))?;
        Ok(Buffer { pages, len, _values: PhantomData })
    }

    /// Makes the buffer at least `len` long; new values are zero (or left over from when it was longer).
    ///
    /// # Panics
    /// When the memory is not to be had.
    pub fn grow(&mut self, len: usize) {
        let bytes = len.checked_mul(size_of::<T>()).expect("a size in bytes");
        let old = self.pages.as_deref().unwrap_or_default();
        if bytes > old.len() {
            // Twice as much: a buffer that grows step by step is not copied at each of them.
            let new = pages(bytes.max(2 * old.len()));
            let mut new = new.unwrap_or_else(|e| panic!("no memory for a buffer of {bytes} bytes: {e}"));
            if let Some(new) = &mut new {
                new[..old.len()].copy_from_slice(old);
            }
            self.pages = new;
        }
        self.len = self.len.max(len);
    }

    fn as_ptr(&self) -> *const T {
        self.pages.as_ref().map_or(NonNull::<Line>::dangling().as_ptr().cast(), |pages| pages.as_ptr().cast())
    }

    fn as_mut_ptr(&mut self) -> *mut T {
        let pages = self.pages.as_mut();
        pages.map_or(NonNull::<Line>::dangling().as_ptr().cast(), |pages| pages.as_mut_ptr().cast())
    }

    /// The values as bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the pages hold at least `len` values, and plain values have no padding.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len * size_of::<T>()) }
    }

    /// The values as bytes; any bytes are values.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len * size_of::<T>()) }
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the pages hold at least `len` values, initialised and aligned; any bytes are a `Plain`.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}

/// What a buffer without pages is aligned to.
#[repr(align(64))]
struct Line;

/// Zeros of at least this size are asked for in large pages: fewer faults when they are first written to, and fewer
/// misses of the address cache when they are read. The machine's large pages have 2 MiB.
const LARGE: usize = 4 << 20;

/// Pages of zeros for so many bytes, none for none.
fn pages(bytes: usize) -> io::Result<Option<MmapMut>> {
    if bytes == 0 {
        return Ok(None);
    }
    let pages = MmapMut::map_anon(bytes)?;
    #[cfg(target_os = "linux")]
    if bytes >= LARGE {
        // Advice; a kernel without large pages says no, and small ones do.
        let _ = pages.advise(memmap2::Advice::HugePage);
    }
    Ok(Some(pages))
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

    #[test]
    fn clones_are_apart_and_nothing_needs_no_memory() {
        let mut large = Buffer::<u8>::zeros(LARGE + 1);
        large[LARGE] = 7;
        let copy = large.clone();
        large[LARGE] = 8;
        assert_eq!((copy.len(), copy[0], copy[LARGE]), (LARGE + 1, 0, 7));
        let mut none = Buffer::<f32>::default().clone();
        assert!(none.is_empty() && none.bytes_mut().is_empty() && none.as_ptr().addr().is_multiple_of(64));
        assert!(Buffer::<f32>::try_zeros(usize::MAX).is_err());
    }
}
