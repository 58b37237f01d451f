//! An allocator that puts a page without access behind everything it gives out.
use std::alloc::{GlobalAlloc, Layout};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are read or written behind a value of `size` bytes hit the page as soon as `size` is a multiple of
/// `align`, which sizes of types and of their arrays are.
pub struct Guarded;

/// Allocations made so far.
pub static COUNT: AtomicUsize = AtomicUsize::new(0);

fn page() -> usize {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    match PAGE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: only asks.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
            PAGE.store(page, Ordering::Relaxed);
            page
        }
        page => page,
    }
}

/// Bytes from the start of the mapping to its guard page, for a layout aligned to at most a page.
fn before_guard(layout: Layout) -> Option<usize> {
    let size = layout.size().checked_next_multiple_of(layout.align())?;
    size.max(1).checked_next_multiple_of(page()).filter(|_| layout.align() <= page())
}

// SAFETY: each allocation is a mapping of its own, long enough for the layout; its end, and so its start, is aligned.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(before) = before_guard(layout) else { return null_mut() };
        let Some(all) = before.checked_add(page()) else { return null_mut() };
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: a new mapping, and the protection of its own last page.
        unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let start = libc::mmap(null_mut(), all, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            if start == libc::MAP_FAILED
                || libc::mprotect(start.byte_add(before), page(), libc::PROT_NONE) != 0
            {
                return null_mut();
            }
            let size = layout.size().next_multiple_of(layout.align());
            start.byte_add(before - size).cast()
        }
    }

    unsafe fn dealloc(&self, given: *mut u8, layout: Layout) {
        let Some(before) = before_guard(layout) else { return };
        let size = layout.size().next_multiple_of(layout.align());
        // SAFETY: the whole mapping that `alloc` made for this layout.
        unsafe { libc::munmap(given.byte_add(size).byte_sub(before).cast(), before + page()) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's; new mappings are zero.
        unsafe { self.alloc(layout) }
    }
}

/// Whether reading the byte behind `value` really ends a process: tried in a child.
pub fn guards(value: &[u8]) -> bool {
    // SAFETY: the child calls nothing but `_exit`; the read is what is to fail there.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let byte = value.as_ptr().add(value.len()).read_volatile();
            libc::_exit(i32::from(byte) & 1);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        libc::WIFSIGNALED(status) && [libc::SIGSEGV, libc::SIGBUS].contains(&libc::WTERMSIG(status))
    }
}

/// A word on what this processor could not run, once.
pub fn report(line: &str) {
    use std::io::Write;
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        println!("{line}");
        if let Some(path) = std::env::var_os("LAPWING_TEST_REPORT") {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            writeln!(file, "{line}").unwrap();
        }
    });
}
