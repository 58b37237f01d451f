//! Asking memory for weights before they are needed.
//!
//! One token's products read every weight once and do little with it, so they are as fast as memory answers. Rows
//! that are read four at a time, in pieces, from one matrix and then another, are no stream that the processor
//! recognises: it fetches half as fast as it could. But the order is known here.
use crate::isa::{Isa, Simd};
use std::ops::Range;

/// How long before they are read weights are asked for.
struct Lead {
    /// Bytes between what is asked for and what is read. What comes too early has to stay in the L1 cache (32 or 48 KiB)
    /// until then.
    near: usize,
    /// Where rows are read side by side, bytes between the last of them and what is asked for.
    sooner: usize,
    /// Where that would be more than this, lines are not asked for so: the processor recognises long rows as streams of
    /// their own, and what lies between would fill the L1 cache.
    most: usize,
    /// How many bytes before that lines are asked for in the L2 cache, if they are: a core waits for more lines there
    /// than in L1. Memory that answers after 100 ns and gives a core 40 GB/s needs 4 KB on their way.
    far: Option<usize>,
}

impl Lead {
    /// With AVX512 on Zen 4, decode of SmolLM2, gemma, Qwen 0.5B and 7B became 1.3 to 1.7 times as fast as by asking
    /// twice in L1, 16 and 20 KiB ahead, which had been best on Zen 5, where this was not measured. For SmolLM2's short
    /// rows L2 alone is 37% slower, for those of 7B 6 to 9% faster. `near` was best of 1 to 4 KiB and `far` of 4 to 32 KiB,
    /// most of the others within 5%. On Zen 3, where the AVX2 kernels have less time for it, asking once, 4 KiB ahead,
    /// made most products 2 to 13% faster and none slower beyond the noise.
    const fn of(isa: Isa) -> Self {
        match isa {
            Isa::Avx2 => Self { near: 4 << 10, sooner: 1 << 10, most: usize::MAX, far: None },
            _ => Self { near: 2 << 10, sooner: 1 << 10, most: 4 << 10, far: Some(8 << 10) },
        }
    }
}

/// The weights that a thread reads in this order.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'a> {
    /// The product being computed, from its first row on to the last that this thread has.
    pub here: &'a [u8],
    /// What this thread reads after them.
    pub next: &'a [u8],
}

impl Ahead<'_> {
    /// What to ask for from when byte `at` of `here` is about to be read, or one of rows that are read side by side, whose
    /// first bytes lie as far as `span` apart.
    #[inline(always)]
    pub fn after<S: Simd>(&self, at: usize, span: usize) -> Stream {
        let lead = const { Lead::of(S::ISA) };
        let near = lead.near.max(span + lead.sooner);
        Stream {
            near: if near <= lead.most { Some(self.byte(at + near)) } else { None },
            far: lead.far.map(|far| self.byte(at + near + far)),
        }
    }

    /// The address of a byte of `here`, or of what follows.
    #[inline(always)]
    fn byte(&self, at: usize) -> *const u8 {
        match at.checked_sub(self.here.len()) {
            None => self.here.as_ptr().wrapping_add(at),
            Some(at) => self.next.as_ptr().wrapping_add(at.min(self.next.len())),
        }
    }
}

/// Where weights are that will be needed. Addresses are only to be prefetched.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    /// Those that are asked for in the L1 cache.
    near: Option<*const u8>,
    /// In the L2 cache.
    far: Option<*const u8>,
}

impl Stream {
    /// Asks for `len` bytes from byte `at` of the stream on.
    #[inline(always)]
    pub fn ask(&self, at: usize, len: usize) {
        if let Some(far) = self.far {
            prefetch::<READ_L2>(far.wrapping_add(at), len);
        }
        if let Some(near) = self.near {
            prefetch::<READ>(near.wrapping_add(at), len);
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
        let Lead { near, sooner, most, far } = Lead::of(Isa::Scalar);
        let far = near + far.unwrap();
        let (here, next) = (vec![0u8; 3 * far], vec![0u8; far]);
        let ahead = Ahead { here: &here, next: &next };
        let after = |at, span| {
            let Stream { near, far } = ahead.after::<Scalar>(at, span);
            (near, far.unwrap())
        };
        let (of_here, of_next) = (|at: usize| here[at..].as_ptr(), |at: usize| next[at..].as_ptr());
        assert_eq!(after(7, 0), (Some(of_here(near + 7)), of_here(far + 7)));
        assert_eq!(after(7, near), (Some(of_here(near + sooner + 7)), of_here(far + sooner + 7)));
        assert_eq!(after(0, most), (None, of_here(far - near + most + sooner)));
        assert_eq!(after(2 * far + 5, 0), (Some(of_here(2 * far + 5 + near)), of_next(5)));
        assert_eq!(after(3 * far, 0), (Some(of_next(near)), next.as_ptr_range().end));
    }
}
