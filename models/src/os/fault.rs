//! What happens when a mapped file becomes shorter while it is read: the processor raises a fault, which
//! would kill the process without a word. Here it ends with one clear line and the exit code of
//! [`Class::Changed`](crate::Class::Changed); faults elsewhere go to whoever handled them before.
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Class, Error};

/// Whether the line is JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// Whether the line written on a fault is to be JSON, as errors under `-o json` are. Counts for files that are mapped
/// afterwards.
pub fn faults_as_json(on: bool) {
    AS_JSON.store(on, Ordering::Relaxed);
}

/// The line written when the map of `file` faults. It is made now: within a signal nothing can be allocated.
fn line(file: &Path) -> Box<[u8]> {
    let error = Error::new(Class::Changed, "the file became shorter while it was in use")
        .in_file(file)
        .advice("restore it and start again");
    let mut line = if AS_JSON.load(Ordering::Relaxed) {
        serde_json::json!({ "error": {
            "class": error.class.name(), "file": file.to_string_lossy(), "at": "", "expected": "", "got": "",
            "message": error.to_string(),
        }})
        .to_string()
    } else {
        format!("lapwing: {}", error.to_string().replace(char::is_control, " "))
    };
    line.push('\n');
    line.into_bytes().into()
}

#[cfg(unix)]
mod imp {
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    /// Most maps at one time: four sessions of the largest split models.
    const SLOTS: usize = 4096;

    /// A live map, found by the handler. Free when `start` is 0.
    struct Slot {
        start: AtomicUsize,
        len: AtomicUsize,
        line: AtomicPtr<u8>,
        line_len: AtomicUsize,
    }

    static MAPS: [Slot; SLOTS] = [const {
        Slot {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            line: AtomicPtr::new(ptr::null_mut()),
            line_len: AtomicUsize::new(0),
        }
    }; SLOTS];

    /// Start of a slot that is being filled: no map begins there.
    const FILLING: usize = usize::MAX;

    /// What handled the signal before; set once, before the handler is installed.
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

    /// A map known to the handler for as long as this lives.
    #[derive(Debug)]
    pub struct Guard {
        slot: usize,
        /// Pointed to by the slot.
        _line: Box<[u8]>,
    }

    impl Guard {
        /// Makes the memory from `start`, `len` bytes, known under `line`. `None` when too many are.
        pub fn new(start: usize, len: usize, line: Box<[u8]>) -> Option<Self> {
            install();
            for (i, slot) in MAPS.iter().enumerate() {
                if slot.start.compare_exchange(0, FILLING, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    slot.len.store(len, Ordering::Relaxed);
                    slot.line.store(line.as_ptr().cast_mut(), Ordering::Relaxed);
                    slot.line_len.store(line.len(), Ordering::Relaxed);
                    slot.start.store(start, Ordering::Release);
                    return Some(Self { slot: i, _line: line });
                }
            }
            None
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            MAPS[self.slot].start.store(0, Ordering::Release);
        }
    }

    fn install() {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // SAFETY: all-zero bytes are a valid `sigaction`; reading the present action of a real signal
            // into a local has no further duties.
            let previous = unsafe {
                let mut previous: libc::sigaction = std::mem::zeroed();
                libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous);
                previous
            };
            let _ = PREVIOUS.set(previous);
            // SAFETY: the handler has the signature that SA_SIGINFO asks for, lives as long as the program
            // and calls only functions that are safe within a signal.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                // On the alternative stack: the handler before ours may report an overflown one.
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigemptyset(&raw mut action.sa_mask);
                libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
            }
        });
    }

    extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system passes a valid siginfo to a handler installed with SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        for slot in &MAPS {
            let start = slot.start.load(Ordering::Acquire);
            if start == 0
                || start == FILLING
                || address.wrapping_sub(start) >= slot.len.load(Ordering::Relaxed)
            {
                continue;
            }
            // Several threads read the same weights: only the first writes, the others wait for the end.
            static DYING: AtomicBool = AtomicBool::new(false);
            if DYING.swap(true, Ordering::Relaxed) {
                loop {
                    // SAFETY: pause is safe within a signal and takes nothing.
                    unsafe { libc::pause() };
                }
            }
            // SAFETY: someone reads this map now, so its guard, which owns the line, is alive; write and
            // _exit are safe within a signal.
            unsafe {
                let line = slot.line.load(Ordering::Relaxed);
                libc::write(2, line.cast(), slot.line_len.load(Ordering::Relaxed));
                libc::_exit(i32::from(crate::Class::Changed.exit_code()));
            }
        }
        chain(signal, info, context);
    }

    /// Hands a fault that is not ours to the handler before us.
    fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let previous = PREVIOUS.get();
        let action = previous.map_or(libc::SIG_DFL, |p| p.sa_sigaction);
        // SAFETY: `action` is what sigaction returned for this signal. SIG_DFL and SIG_IGN are put back
        // (returning then repeats the fault under it); anything else is a handler of the kind that its flags say.
        unsafe {
            match previous {
                Some(p) if action != libc::SIG_DFL && action != libc::SIG_IGN => {
                    if p.sa_flags & libc::SA_SIGINFO != 0 {
                        type Full = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                        std::mem::transmute::<usize, Full>(action)(signal, info, context);
                    } else {
                        std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(action)(signal);
                    }
                }
                _ => {
                    let mut default: libc::sigaction = std::mem::zeroed();
                    default.sa_sigaction = libc::SIG_DFL;
                    libc::sigaction(signal, &raw const default, ptr::null_mut());
                }
            }
        }
    }
}

#[cfg(not(unix))]
mod imp {
    /// Elsewhere a mapped file cannot become shorter.
    #[derive(Debug)]
    pub struct Guard;

    impl Guard {
        pub fn new(_start: usize, _len: usize, _line: Box<[u8]>) -> Option<Self> {
            Some(Self)
        }
    }
}

pub(super) use imp::Guard;

/// Makes a map of `file` known to the fault handler. `None` when too many are.
pub(super) fn watch(bytes: &[u8], file: &Path) -> Option<Guard> {
    Guard::new(bytes.as_ptr() as usize, bytes.len(), line(file))
}
