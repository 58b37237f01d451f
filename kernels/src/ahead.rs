//! Asking memory for weights before they are needed.
//!
//! One token's products read every weight once and do little with it, so they are as fast as memory answers. Rows
//! that are read four at a time, in pieces, from one matrix and then another, are no stream that the processor
//! recognises: it fetches half as fast as it could. But the order is known here.
use crate::isa::Floats;

/// Bytes between what is asked for and what is read. Memory that answers after 100 ns and gives a core 40 GB/s needs
/// 4 KB on their way; what came too early still has to be in the L1 cache (32 or 48 KiB). Measured best of 4 to
/// 64 KiB on Zen 5, with 8 and 32 KiB within 15%.
const DISTANCE: usize = 16 << 10;

/// The weights that a thread reads in this order.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'a> {
    /// The product being computed, from its first row on to the last that this thread has.
    pub here: &'a [u8],
    /// What this thread reads after them.
    pub next: &'a [u8],
}

impl Ahead<'_> {
    /// The address that will be read [`DISTANCE`] after byte `at` of `here`: only to be prefetched.
    #[inline(always)]
    pub fn after(&self, at: usize) -> *const u8 {
        let at = at + DISTANCE;
        match at.checked_sub(self.here.len()) {
            None => self.here.as_ptr().wrapping_add(at),
            Some(at) => self.next.as_ptr().wrapping_add(at.min(self.next.len())),
        }
    }
}

/// Asks for the lines of `len` bytes from `address` on.
#[inline(always)]
pub(crate) fn prefetch<S: Floats>(s: S, address: *const u8, len: usize) {
    let mut at = 0;
    while at < len {
        s.prefetch_l1(address.wrapping_add(at));
        at += 64;
    }
}
