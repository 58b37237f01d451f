//! Ctrl-C: ends the program, unless it should only stop what runs.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lapwing::session::Cancel;
use lapwing_models::Class;

/// What Ctrl-C does now.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    cancel: Cancel,
    /// Whether Ctrl-C cancels (true) or ends the program (false).
    cancels: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over Ctrl-C for this process; it may be done once.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> anyhow::Result<Self> {
        let this = Self::default();
        let inner = this.clone();
        ctrlc::set_handler(move || {
            if inner.cancels.load(Ordering::SeqCst) {
                inner.cancel.cancel();
            } else {
                std::process::exit(Class::Interrupted.exit_code().into());
            }
        })?;
        Ok(this)
    }

    /// Ctrl-C cancels from now on: for commands that put things in order before they end, or go on with something else.
    pub fn into_cancel(self) -> Cancel {
        self.cancels.store(true, Ordering::SeqCst);
        self.cancel
    }
}
