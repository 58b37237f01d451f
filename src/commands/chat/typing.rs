//! Help while a line is typed: completes commands, paths and names, hints at what may follow, waits for whole messages.
use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, ConditionalEventHandler, Context, Event, EventContext, Helper, KeyEvent, RepeatCount};

use super::slash::{Complete, Slash, find};

/// Helps the editor of lines.
pub struct Typing {
    files: FilenameCompleter,
    commands: Vec<&'static Slash>,
    /// Of each command that is completed by words, those words.
    words: Vec<(&'static str, Vec<String>)>,
    colours: bool,
}

impl Typing {
    /// Hints are dimmed where colours may be used, and left out elsewhere: nobody could tell them from what is typed.
    pub fn new(colours: bool, commands: Vec<&'static Slash>) -> Self {
        Self { files: FilenameCompleter::new(), commands, words: Vec::new(), colours }
    }

    /// Of each command that is completed by words, those words.
    pub fn set_words(&mut self, words: Vec<(&'static str, Vec<String>)>) {
        self.words = words;
    }

    fn commands(&self) -> impl Iterator<Item = &'static Slash> {
        self.commands.iter().copied()
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
        let mut found: Vec<Pair> = self
            .commands()
            .filter(|c| c.name.starts_with(typed))
            .map(|c| Pair {
                display: format!("/{}", c.name),
                replacement: format!("/{}{}", c.name, if c.args.is_empty() { "" } else { " " }),
            })
            .collect();
        let Some((command, rest)) = find(self.commands(), typed).filter(|(_, rest)| !rest.is_empty()) else {
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
        if let Some((command, " ")) = find(self.commands(), typed) {
            return Some(command.args.to_owned()).filter(|args| !args.is_empty());
        }
        let mut fitting = self.commands().filter(|c| !typed.is_empty() && c.name.starts_with(typed));
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

/// The key that ended a line in the place of Enter.
#[derive(Clone, Default)]
pub struct EndKey(Arc<Mutex<Option<KeyEvent>>>);

impl EndKey {
    /// Takes it, if there was one.
    pub fn take(&self) -> Option<KeyEvent> {
        self.0.lock().ok()?.take()
    }
}

impl ConditionalEventHandler for EndKey {
    fn handle(&self, key: &Event, _: RepeatCount, _: bool, _: &EventContext) -> Option<Cmd> {
        if let Ok(mut end_key) = self.0.lock() {
            *end_key = key.get(0).copied();
        }
        // As if it were entered: the line editor gives the terminal back, and leaves no hint on the screen.
        Some(Cmd::AcceptLine)
    }
}

/// Quotes around a message of several lines.
const BLOCK: &str = "\"\"\"";

/// Whether a message is finished: a block is closed, and no backslash asks for another line.
pub fn is_whole(text: &str) -> bool {
    match text.trim_start().strip_prefix(BLOCK) {
        Some(block) => block.trim_end().ends_with(BLOCK),
        None => !text.ends_with('\\'),
    }
}

/// The message without the marks that held its lines together.
pub fn unquoted(text: &str) -> String {
    let block = text.trim().strip_prefix(BLOCK).and_then(|rest| rest.strip_suffix(BLOCK));
    match block {
        Some(block) => block.trim_matches('\n').to_owned(),
        None => text.replace("\\\n", "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_when_closed() {
        assert!(!is_whole("\"\"\"") || unquoted("\"\"\"").is_empty());
        assert!(!is_whole("\"\"\"a\nb"));
        assert!(is_whole("\"\"\"a\nb\"\"\""));
        assert!(!is_whole("a \\"));
        assert!(is_whole("say \"\"\"hi"));
    }
}
