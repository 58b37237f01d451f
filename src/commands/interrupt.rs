//! Ctrl-C: ends the program, except while an answer runs that it should only stop.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lapwing::session::Cancel;
use lapwing_models::Class;

/// What Ctrl-C does now.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    cancel: Cancel,
    /// Whether Ctrl-C cancels (true) or ends the program (false).
    answering: Arc<AtomicBool>,
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
            if inner.answering.load(Ordering::SeqCst) {
                inner.cancel.cancel();
            } else {
                std::process::exit(Class::Interrupted.exit_code().into());
            }
        })?;
        Ok(this)
    }

    /// Ctrl-C cancels from now on: for commands that put things in order before they end.
    pub fn into_cancel(self) -> Cancel {
        self.answering.store(true, Ordering::SeqCst);
        self.cancel
    }

    /// Until the guard is dropped, Ctrl-C cancels instead of ending the program.
    pub fn guard(&self) -> Guard {
        self.cancel.reset();
        self.answering.store(true, Ordering::SeqCst);
        Guard(self.clone())
    }
}

/// While this lives, Ctrl-C cancels what watches [`Guard::cancel`].
pub struct Guard(Interrupt);

impl Guard {
    /// The flag that Ctrl-C sets.
    pub fn cancel(&self) -> &Cancel {
        &self.0.cancel
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.answering.store(false, Ordering::SeqCst);
    }
}
