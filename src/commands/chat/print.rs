//! What the chat shows: answers as they stream, notes of its own dimmed, problems on stderr.
use std::io::{IsTerminal, Write};

use lapwing::text::safe;

/// Where the chat writes.
pub struct Out {
    /// Whether control codes may be used: a terminal, and nobody set `NO_COLOR`.
    colours: bool,
    /// Whether stdout is a terminal.
    pub terminal: bool,
    /// Whether the last thing written ended its line.
    at_line_start: bool,
}

impl Out {
    /// Writes to stdout, for a terminal if it is one.
    pub fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { colours: terminal && !no_color && !dumb, terminal, at_line_start: true }
    }

    /// A piece of an answer.
    pub fn answer(&mut self, text: &str) -> std::io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.at_line_start = text.ends_with('\n');
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(safe(text).as_bytes())?;
        stdout.flush()
    }

    /// Ends the line of an answer.
    pub fn end_line(&mut self) -> std::io::Result<()> {
        if !self.at_line_start {
            self.at_line_start = true;
            writeln!(std::io::stdout())?;
        }
        Ok(())
    }

    /// A note of the chat itself: dimmed, on its own lines.
    pub fn note(&mut self, text: &str) -> std::io::Result<()> {
        self.end_line()?;
        let mut stdout = std::io::stdout().lock();
        if self.colours { writeln!(stdout, "\x1b[2m{text}\x1b[0m") } else { writeln!(stdout, "{text}") }
    }

    /// Something that went wrong and does not end the chat: on stderr, so that a pipe's answers stay clean.
    pub fn problem(&mut self, text: &str) -> std::io::Result<()> {
        self.end_line()?;
        std::io::stdout().flush()?;
        writeln!(std::io::stderr(), "lapwing: {text}")
    }

    /// An empty line, on a terminal only.
    pub fn gap(&mut self) -> std::io::Result<()> {
        self.end_line()?;
        if self.terminal { writeln!(std::io::stdout()) } else { Ok(()) }
    }
}
