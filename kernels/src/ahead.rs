//! Asking memory for weights before they are needed.
//!
//! One token's products read every weight once and do little with it, so they are as fast as memory answers. Rows
//! that are read four at a time, in pieces, from one matrix and then another, are no stream that the processor
//! recognises: it fetches half as fast as it could. But the order is known here.
use crate::isa::{Isa, Simd};
use std::ops::Range;

/// How long before they are read weights are asked for.
struct Lead {
    /// Bytes between what is asked for and what is read. Memory that answers after 100 ns and gives a core 40 GB/s needs
    /// 4 KB on their way; what came too early still has to be in the L1 cache (32 or 48 KiB).
    distance: usize,
    /// Where rows are read side by side, bytes between the last of them and what is asked for; with `twice`, how many
    /// bytes sooner a line is asked for the first time.
    sooner: usize,
    /// Whether a line is asked for again at `distance`: a core that waits for as many lines as it can drops what else
    /// it is told to fetch.
    twice: bool,
}

impl Lead {
    /// On Zen 5, `distance` was best of 4 to 64 KiB, with 8 and 32 KiB within 15%; one thread's product with 7B matrices
    /// of Q4_0, Q4_K and Q6_K became 4 to 10% faster by asking twice, the same as asking 8 KiB sooner. On Zen 3, where
    /// the AVX2 kernels have less time for it, asking once, 4 KiB ahead, made most products 2 to 13% faster and none
    /// slower beyond the noise.
    const fn of(isa: Isa) -> Self {
        match isa {
            Isa::Avx2 => Self { distance: 4 << 10, sooner: 1 << 10, twice: false },
            _ => Self { distance: DISTANCE, sooner: 4 << 10, twice: true },
        }
    }
}

/// The [`Lead::distance`] of most instruction sets.
pub(crate) const DISTANCE: usize = 16 << 10;

/// The weights that a thread reads in this order.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'a> {
    /// The product being computed, from its first row on to the last that this thread has.
    pub here: &'a [u8],
    /// What this thread reads after them.
    pub next: &'a [u8],
}

impl Ahead<'_> {
    /// What to begin with when byte `at` of `here` is about to be read, for [`prefetch_stream`]: [`Lead::distance`] from
    /// there, or more where rows are read side by side, whose first bytes lie as far as `span` apart. Only to be
    /// prefetched.
    #[inline(always)]
    pub fn after<S: Simd>(&self, at: usize, span: usize) -> *const u8 {
        let lead = const { Lead::of(S::ISA) };
        let at = at + lead.distance.max(span + lead.sooner);
        match at.checked_sub(self.here.len()) {
            None => self.here.as_ptr().wrapping_add(at),
            Some(at) => self.next.as_ptr().wrapping_add(at.min(self.next.len())),
        }
    }
}

/// What a thread asks memory for while it waits for others, instead of letting memory rest, too.
#[derive(Default)]
pub(crate) struct Idle {
    /// Addresses, only to be prefetched.
    left: Range<usize>,
}

impl Idle {
    /// Most bytes asked for: a quarter of a common L2 cache, which has to hold them until they are used.
    const MOST: usize = 256 << 10;

    /// Waiting, ask for the first of these bytes.
    pub fn set(&mut self, bytes: &[u8]) {
        let start = bytes.as_ptr() as usize;
        self.left = start..start + bytes.len().min(Self::MOST);
    }

    /// Asks for a few lines more; false when nothing is left to ask for.
    #[inline]
    pub fn ask(&mut self) -> bool {
        if self.left.is_empty() {
            return false;
        }
        for line in 0..4 {
            prefetch_line::<READ>(std::ptr::without_provenance(self.left.start + 64 * line));
        }
        self.left.start += 256;
        true
    }
}

/// Asks for the next `len` bytes of a stream of weights, of which `address` came from [`Ahead::after`].
#[inline(always)]
pub(crate) fn prefetch_stream<S: Simd>(address: *const u8, len: usize) {
    let lead = const { Lead::of(S::ISA) };
    if lead.twice {
        prefetch::<READ>(address.wrapping_add(lead.sooner), len);
    }
    prefetch::<READ>(address, len);
}

/// What [`prefetch`] asks for: lines to read, in the first or the second level of the cache, or to write, where that can
/// be told.
pub(crate) const READ: u8 = 1;
pub(crate) const READ_L2: u8 = 2;
pub(crate) const WRITE: u8 = 3;

/// Asks for the lines of `len` bytes from `address` on.
#[inline(always)]
pub(crate) fn prefetch<const FOR: u8>(address: *const u8, len: usize) {
    let mut at = 0;
    while at < len {
        prefetch_line::<FOR>(address.wrapping_add(at));
        at += 64;
    }
}

/// Asks the memory for the cache line at `address`; any address will do.
#[inline(always)]
pub(crate) fn prefetch_line<const FOR: u8>(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        // SAFETY: part of every x86-64, that to write without effect where it is not known; a prefetch reads and writes
        // nothing.
        unsafe {
            match FOR {
                READ => _mm_prefetch::<_MM_HINT_T0>(address.cast()),
                READ_L2 => _mm_prefetch::<_MM_HINT_T1>(address.cast()),
                _ => _mm_prefetch::<_MM_HINT_ET0>(address.cast()),
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::asm;
        // SAFETY: part of every aarch64; a prefetch reads and writes nothing.
        unsafe {
            match FOR {
                READ => {
                    asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
                }
                READ_L2 => {
                    asm!("prfm pldl2keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
                }
                _ => {
                    asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
                }
            }
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Scalar;

    #[test]
    fn a_stream_goes_on_in_the_next_weights_and_ends_with_them() {
        let (here, next) = (vec![0u8; 3 * DISTANCE], vec![0u8; DISTANCE]);
        let ahead = Ahead { here: &here, next: &next };
        let after = |at, span| ahead.after::<Scalar>(at, span);
        let sooner = Lead::of(Isa::Scalar).sooner;
        assert_eq!(after(7, 0), here[DISTANCE + 7..].as_ptr());
        assert_eq!(after(7, DISTANCE), here[DISTANCE + sooner + 7..].as_ptr());
        assert_eq!(after(2 * DISTANCE + 5, 0), next[5..].as_ptr());
        assert_eq!(after(3 * DISTANCE, 0), next.as_ptr_range().end);
    }
}
