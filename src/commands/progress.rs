//! How far a piece of work is, on one line of stderr, if that is a terminal.
use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, Instant};

use lapwing::session::{Cancel, Session};

use super::ui::{Ui, size};

/// Work shorter than this shows nothing, as it would only flicker.
const SHOW_AFTER: Duration = Duration::from_millis(300);
/// Time between two drawings.
const DRAW_AFTER: Duration = Duration::from_millis(100);
/// Columns of the bar. The line is short: one that fills the terminal is broken, and stays, as soon as Ctrl-C is shown
/// behind it or the terminal gets narrower.
const BAR: u64 = 20;

/// A line that appears when the work takes a while, and is gone when this is dropped.
pub struct Progress {
    what: &'static str,
    /// An amount in words, such as `12 of 90 tokens`.
    amount: fn(u64, u64) -> String,
    /// When the work began; `None` where nobody sees how far it is.
    begun: Option<Instant>,
    drawn: Cell<Option<Instant>>,
}

impl Progress {
    /// For work on tokens.
    pub fn tokens(ui: &Ui, what: &'static str) -> Self {
        Self::new(ui, what, |done, of| format!("{done} of {of} tokens"))
    }

    /// For bytes to be written.
    pub fn bytes(ui: &Ui, what: &'static str) -> Self {
        Self::new(ui, what, |done, of| format!("{} of {}", size(done), size(of)))
    }

    fn new(ui: &Ui, what: &'static str, amount: fn(u64, u64) -> String) -> Self {
        // Others cannot wipe a line.
        let shows = ui.shows_progress() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { what, amount, begun: shows.then(Instant::now), drawn: Cell::new(None) }
    }

    /// `done` of `of` is done.
    pub fn set(&self, done: u64, of: u64) {
        let Some(begun) = self.begun else { return };
        let since = self.drawn.get().map_or_else(|| begun + SHOW_AFTER, |drawn| drawn + DRAW_AFTER);
        if done >= of || Instant::now() < since {
            return;
        }
        let filled = (BAR * done / of) as usize;
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR as usize - filled));
        draw(&format!("{} [{bar}] {}", self.what, (self.amount)(done, of)));
        self.drawn.set(Some(Instant::now()));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.get().is_some() {
            draw("");
        }
    }
}

/// Puts `text` in place of the line. That it cannot be shown must not end the work.
fn draw(text: &str) {
    drop(write!(std::io::stderr(), "\r{text}\x1b[K"));
}

/// Makes `prompt` the sequence of `session`, and says meanwhile how far `what` is done.
///
/// # Errors
/// As [`Session::eval`].
pub fn eval(
    session: &mut Session,
    prompt: &[u32],
    cancel: &Cancel,
    ui: &Ui,
    what: &'static str,
) -> lapwing_models::Result<()> {
    let progress = Progress::tokens(ui, what);
    session.eval(prompt, cancel, &mut |done, of| progress.set(done as u64, of as u64))
}
