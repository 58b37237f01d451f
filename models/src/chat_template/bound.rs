//! Bounds for what templates do beyond what fuel covers.
//!
//! Fuel pays for instructions and text, but the engine also writes out and compares lists, and a list that
//! holds another list twice, which holds another twice, is small and yet never done. So templates run on a
//! thread of their own: with a stack for deeply nested values, and watched for the time it takes.
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::error::{Class, Error, Result};

/// Address space for the stack; what nesting all fuel can pay for needs a fifth of it.
const STACK: usize = 64 << 20;
/// Processor time that a template may take beyond what the length of its messages explains.
const TIME: Duration = Duration::from_millis(900);
/// A loaded machine may take longer for it, but not forever.
const WAIT: Duration = Duration::from_secs(20);

/// What the error for work that does not end says.
pub(super) const ENDLESS: &str = "the chat template does not end";

/// The result of `work`, which may take [`TIME`] and `extra`.
///
/// # Errors
/// When it takes longer. Threads cannot be stopped, so it keeps running then: the program should end.
pub(super) fn bounded<T: Send + 'static>(
    extra: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (result, done) = channel();
    let (thread, watched) = channel();
    let spawned =
        std::thread::Builder::new().name("template".to_owned()).stack_size(STACK).spawn(move || {
            let _ = thread.send(clock());
            let _ = result.send(work());
        });
    if let Err(error) = spawned {
        return Err(Error::new(Class::Memory, format!("no thread for the chat template: {error}")));
    }
    let allowed = TIME + extra;
    let start = Instant::now();
    let clock = watched.recv().unwrap_or(None);
    loop {
        match done.recv_timeout(Duration::from_millis(50)) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::bad_file("the chat template breaks its engine"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let waited = start.elapsed();
        let worked = clock.as_deref().and_then(processor_time).unwrap_or(waited);
        if worked > allowed || waited > WAIT + extra {
            return Err(Error::bad_file(ENDLESS)
                .at("key tokenizer.chat_template")
                .advice("choose another template"));
        }
    }
}

/// Where the system tells how long this thread has run, if it does.
fn clock() -> Option<std::path::PathBuf> {
    let thread = std::fs::read_link("/proc/thread-self").ok()?;
    Some(std::path::Path::new("/proc").join(thread).join("schedstat"))
}

/// How long a thread has run on a processor.
fn processor_time(clock: &std::path::Path) -> Option<Duration> {
    let text = std::fs::read_to_string(clock).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_ends_is_waited_for_and_other_work_is_not() {
        assert_eq!(bounded(Duration::ZERO, || 7), Ok(7));
        let start = Instant::now();
        let error = bounded(Duration::ZERO, || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(60) {
                std::hint::black_box(0);
            }
        });
        assert_eq!(error.unwrap_err().message, ENDLESS);
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
