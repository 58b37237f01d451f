//! Help while a line is typed: completes commands, paths and names, hints at what may follow, waits for whole messages.
use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, ConditionalEventHandler, Context, Event, EventContext, Helper, RepeatCount};

use super::input::is_whole;
use super::slash::{self, Complete};

/// Helps the editor of lines.
pub struct Typing {
    files: FilenameCompleter,
    /// Of each command that is completed by words, those words.
    words: Vec<(&'static str, Vec<String>)>,
    colours: bool,
}

impl Typing {
    /// Hints are dimmed where colours may be used, and left out elsewhere: nobody could tell them from what is typed.
    pub fn new(colours: bool) -> Self {
        Self { files: FilenameCompleter::new(), words: Vec::new(), colours }
    }

    /// Of each command that is completed by words, those words.
    pub fn set_words(&mut self, words: Vec<(&'static str, Vec<String>)>) {
        self.words = words;
    }

    fn words(&self, command: &str) -> &[String] {
        self.words.iter().find(|(name, _)| *name == command).map_or(&[], |(_, words)| words)
    }
}

impl Helper for Typing {}

impl Completer for Typing {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, ctx: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let Some(typed) = line[..pos].strip_prefix('/') else { return Ok((pos, Vec::new())) };
        let mut found: Vec<Pair> = slash::commands()
            .filter(|c| c.name.starts_with(typed))
            .map(|c| Pair {
                display: format!("/{}", c.name),
                replacement: format!("/{}{}", c.name, if c.args.is_empty() { "" } else { " " }),
            })
            .collect();
        let Some((command, rest)) = slash::find(typed).filter(|(_, rest)| !rest.is_empty()) else {
            return Ok((0, found));
        };
        match command.complete {
            Complete::Files => return self.files.complete(line, pos, ctx),
            Complete::Words(_) => {
                // One word: the first.
                let start = rest.trim_start();
                let words = self.words(command.name).iter().filter(|word| word.starts_with(start));
                let at = "/".len() + typed.len() - start.len();
                let whole = |word: &String| format!("{}{word}", &line[..at]);
                found.extend(words.map(|word| Pair { display: word.clone(), replacement: whole(word) }));
            }
            Complete::No => {}
        }
        Ok((0, found))
    }
}

impl Hinter for Typing {
    type Hint = String;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<String> {
        let typed = line.strip_prefix('/').filter(|_| pos == line.len() && self.colours)?;
        if let Some((command, " ")) = slash::find(typed) {
            return Some(command.args.to_owned()).filter(|args| !args.is_empty());
        }
        let mut fitting = slash::commands().filter(|c| !typed.is_empty() && c.name.starts_with(typed));
        let only = fitting.next().filter(|_| fitting.next().is_none())?;
        Some(only.name[typed.len()..].to_owned()).filter(|rest| !rest.is_empty())
    }
}

impl Highlighter for Typing {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        format!("\x1b[2m{hint}\x1b[0m").into()
    }
}

impl Validator for Typing {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let whole = is_whole(context.input());
        Ok(if whole { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

/// The key that broke a line off, and what was typed by then.
#[derive(Clone, Default)]
pub struct BrokenOff(Arc<Mutex<Option<(Event, String)>>>);

impl BrokenOff {
    /// Takes them, if there are any.
    pub fn take(&self) -> Option<(Event, String)> {
        self.0.lock().ok()?.take()
    }
}

impl ConditionalEventHandler for BrokenOff {
    fn handle(&self, key: &Event, _: RepeatCount, _: bool, ctx: &EventContext) -> Option<Cmd> {
        if let Ok(mut broken_off) = self.0.lock() {
            *broken_off = Some((key.clone(), ctx.line().to_owned()));
        }
        // The line editor gives the terminal back only when it is done.
        Some(Cmd::Interrupt)
    }
}
