//! What the chat shows: answers as they stream, notes of its own dimmed, problems on stderr.
use std::io::{IsTerminal, Write};

use lapwing::text::safe;
use lapwing::thinking::Part;

use super::markdown::Markdown;

/// Where the chat writes.
pub struct Out {
    /// Whether control codes may be used: a terminal, and nobody set `NO_COLOR`.
    pub colours: bool,
    /// Whether stdout is a terminal.
    pub terminal: bool,
    /// Whether the last thing written ended its line.
    at_line_start: bool,
    /// Renders the present answer; nothing does so in a pipe, or on a terminal that does not know how to move back.
    markdown: Option<Markdown>,
    renders: bool,
    /// Whether the last text was a thought.
    thought: bool,
}

impl Out {
    /// Writes to stdout, for a terminal if it is one.
    pub fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let renders = terminal && !dumb;
        Self {
            colours: renders && !no_color,
            terminal,
            at_line_start: true,
            markdown: None,
            renders,
            thought: false,
        }
    }

    /// A piece of an answer, or of the thoughts before it, which are dimmed.
    pub fn part(&mut self, part: Part, text: &str) -> std::io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let dims = part == Part::Thought && self.colours;
        if std::mem::replace(&mut self.thought, part == Part::Thought) && part == Part::Answer {
            self.end_line()?;
            writeln!(std::io::stdout())?;
        }
        self.at_line_start = text.ends_with('\n');
        let text = safe(text);
        let mut stdout = std::io::stdout().lock();
        if self.renders {
            let colours = self.colours && part == Part::Answer;
            let markdown = self.markdown.get_or_insert_with(|| Markdown::new(colours));
            if let Some((width, _)) = terminal_size::terminal_size() {
                markdown.set_columns(width.0.into());
            }
            let text = markdown.push(&text);
            if dims { write!(stdout, "\x1b[2m{text}\x1b[0m")? } else { write!(stdout, "{text}")? }
        } else {
            stdout.write_all(text.as_bytes())?;
        }
        stdout.flush()
    }

    /// Ends the answer, if there is one, and its line.
    pub fn end_line(&mut self) -> std::io::Result<()> {
        self.thought = false;
        if let Some(mut markdown) = self.markdown.take() {
            write!(std::io::stdout(), "{}", markdown.finish())?;
        }
        if !self.at_line_start {
            self.at_line_start = true;
            writeln!(std::io::stdout())?;
        }
        Ok(())
    }

    /// Wipes what the terminal shows of Ctrl-C on an empty line.
    pub fn wipe_key(&self) -> std::io::Result<()> {
        if self.renders && self.at_line_start { write!(std::io::stdout(), "\r\x1b[K") } else { Ok(()) }
    }

    /// A note of the chat itself: dimmed, on its own lines.
    pub fn note(&mut self, text: &str) -> std::io::Result<()> {
        self.end_line()?;
        let text = self.broken(text);
        let mut stdout = std::io::stdout().lock();
        if self.colours { writeln!(stdout, "\x1b[2m{text}\x1b[0m") } else { writeln!(stdout, "{text}") }
    }

    /// Something that went wrong and does not end the chat: on stderr, so that a pipe's answers stay clean.
    pub fn problem(&mut self, text: &str) -> std::io::Result<()> {
        self.end_line()?;
        std::io::stdout().flush()?;
        writeln!(std::io::stderr(), "{}", self.broken(&format!("lapwing: {text}")))
    }

    /// `text` with its lines broken as those of answers are.
    fn broken(&self, text: &str) -> String {
        match terminal_size::terminal_size() {
            Some((width, _)) if self.renders => {
                let mut markdown = Markdown::new(false);
                markdown.set_columns(width.0.into());
                markdown.push(text) + &markdown.finish()
            }
            _ => text.to_owned(),
        }
    }

    /// An empty line, on a terminal only.
    pub fn gap(&mut self) -> std::io::Result<()> {
        self.end_line()?;
        if self.terminal { writeln!(std::io::stdout()) } else { Ok(()) }
    }
}
