//! Memory aligned to cache lines.
use std::alloc::{Layout, alloc_zeroed};
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

/// A vector of numbers whose first is aligned to 64 bytes.
pub(crate) struct Buffer<T> {
    /// Room for `len` values and more, from the first place in it that is aligned.
    memory: Vec<u128>,
    len: usize,
    _values: PhantomData<T>,
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Buffer { memory: Vec::new(), len: 0, _values: PhantomData }
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
        Self::try_zeros(len).unwrap_or_else(|e| panic!("a buffer of {len} values: {e}"))
    }

    /// `len` zeros.
    ///
    /// # Errors
    /// When the memory is not to be had.
    pub fn try_zeros(len: usize) -> Result<Self, NoMemory> {
        let memory = zeros(len.checked_mul(size_of::<T>()).ok_or(NoMemory)?)?;
        Ok(Buffer { memory, len, _values: PhantomData })
    }

    /// Makes the buffer at least `len` long; new values are zero (or left over from when it was longer).
    ///
    /// # Panics
    /// When the memory is not to be had.
    pub fn grow(&mut self, len: usize) {
        let room = size_of_val(&self.memory[..]).saturating_sub(ALIGN) / size_of::<T>();
        if len > room {
            // Twice as much: a buffer that grows step by step is not copied at each of them.
            let mut new = Self::zeros(len.max(2 * room));
            new[..self.len].copy_from_slice(self);
            self.memory = new.memory;
        }
        self.len = self.len.max(len);
    }

    fn as_ptr(&self) -> *const T {
        let start = self.memory.as_ptr().cast::<u8>();
        start.wrapping_add(start.align_offset(ALIGN)).cast()
    }

    fn as_mut_ptr(&mut self) -> *mut T {
        let start = self.memory.as_mut_ptr().cast::<u8>();
        start.wrapping_add(start.align_offset(ALIGN)).cast()
    }

    /// The values as bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the memory holds at least `len` values from there on, and plain values have no padding.
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
        // SAFETY: the memory holds at least `len` values from there on, initialised and aligned; any bytes are a `Plain`.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}

/// What the first value is aligned to: a cache line.
const ALIGN: usize = 64;

/// The memory asked for is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("there is not enough memory")]
pub struct NoMemory;

/// Zeros for so many bytes from the first aligned place on.
///
/// The allocator is asked for them by itself, and for no more than its own alignment: it then hands on the system's
/// fresh pages, which are zero, and writes to none of them. A vector of lines would be written to from end to end.
fn zeros(bytes: usize) -> Result<Vec<u128>, NoMemory> {
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let len = bytes.checked_add(ALIGN).ok_or(NoMemory)?.div_ceil(size_of::<u128>());
    let layout = Layout::array::<u128>(len).map_err(|_| NoMemory)?;
    // SAFETY: the layout's size is not zero.
    let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(NoMemory)?;
    // SAFETY: the global allocator's, which is the vector's, of the layout of `len` numbers, which are all zero.
    Ok(unsafe { Vec::from_raw_parts(start.cast().as_ptr(), len, len) })
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
        let mut one = Buffer::<u8>::zeros(1001);
        one[1000] = 7;
        let copy = one.clone();
        one[1000] = 8;
        assert_eq!((copy.len(), copy[0], copy[1000]), (1001, 0, 7));
        let mut none = Buffer::<f32>::default().clone();
        assert!(none.is_empty() && none.bytes_mut().is_empty() && none.as_ptr().addr().is_multiple_of(64));
        assert!(Buffer::<f32>::try_zeros(usize::MAX).is_err());
        assert!(Buffer::<u8>::try_zeros(usize::MAX).is_err());
        // Looked at, since the optimiser takes away what is only asked for.
        assert!(std::hint::black_box(Buffer::<u8>::try_zeros(isize::MAX as usize - 128)).is_err());
    }
}
