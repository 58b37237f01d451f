//! Stopping work that is under way.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Class, Error, Result};

/// Stops a running evaluation or answer from another thread. Clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for a stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Takes the request back, before the next answer.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Ends the work when a stop was asked for.
    ///
    /// # Errors
    /// [`Class::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::new(Class::Interrupted, "interrupted")) } else { Ok(()) }
    }
}
