//! What the person types: an edited line on a terminal, plain lines otherwise.
use std::io::BufRead;

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Behavior, Cmd, ColorMode, CompletionType, Config, Context, Editor, Event, EventHandler, Helper, KeyCode,
    KeyEvent, Modifiers,
};

use super::slash;

/// What came from the keyboard or the pipe.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A message or a command, whole, without its line end.
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// Where the person types.
pub enum Input {
    /// A terminal, with editing.
    Terminal(Box<Editor<Typing, DefaultHistory>>),
    /// Lines of a pipe or a file.
    Lines,
}

impl Input {
    /// Editing on a terminal, plain lines otherwise.
    pub fn new(terminal: bool) -> anyhow::Result<Self> {
        if !terminal {
            return Ok(Self::Lines);
        }
        let config = Config::builder()
            .behavior(Behavior::Stdio)
            .color_mode(ColorMode::Enabled)
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Typing { files: FilenameCompleter::new() }));
        let newline = || EventHandler::Simple(Cmd::Newline);
        editor.bind_sequence(Event::from(KeyEvent(KeyCode::Enter, Modifiers::ALT)), newline());
        // What most terminals send for Alt-Enter: an escape before a carriage return.
        editor.bind_sequence(Event::from(KeyEvent(KeyCode::Char('\r'), Modifiers::ALT)), newline());
        Ok(Self::Terminal(Box::new(editor)))
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When the terminal or the pipe cannot be read, or a pipe holds something else than UTF-8 text.
    pub fn next(&mut self, prompt: &str) -> anyhow::Result<Typed> {
        match self {
            Self::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Typed::Text(unquoted(&line))),
                Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(error) => Err(error.into()),
            },
            Self::Lines => next_lines(&mut std::io::stdin().lock()),
        }
    }
}

/// Reads one message of a pipe: a line, or as many as belong together.
fn next_lines(from: &mut impl BufRead) -> anyhow::Result<Typed> {
    let mut text = String::new();
    loop {
        let before = text.len();
        if from.read_line(&mut text)? == 0 {
            return Ok(if text.is_empty() { Typed::End } else { Typed::Text(unquoted(&text)) });
        }
        let ended = text[before..].trim_end_matches(['\n', '\r']).len();
        text.truncate(before + ended);
        if is_whole(&text) {
            return Ok(Typed::Text(unquoted(&text)));
        }
        text.push('\n');
    }
}

/// Quotes around a message of several lines.
const BLOCK: &str = "\"\"\"";

/// Whether a message is finished: a block is closed, and no backslash asks for another line.
fn is_whole(text: &str) -> bool {
    match text.trim_start().strip_prefix(BLOCK) {
        Some(block) => block.trim_end().ends_with(BLOCK),
        None => !text.ends_with('\\'),
    }
}

/// The message without the marks that held its lines together.
fn unquoted(text: &str) -> String {
    let block = text.trim().strip_prefix(BLOCK).and_then(|rest| rest.strip_suffix(BLOCK));
    match block {
        Some(block) => block.trim_matches('\n').to_owned(),
        None => text.replace("\\\n", "\n"),
    }
}

/// Helps while a line is typed: completes commands and paths, hints at arguments, waits for whole messages.
pub struct Typing {
    files: FilenameCompleter,
}

impl Helper for Typing {}

impl Completer for Typing {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, ctx: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        let Some(command) = typed.strip_prefix('/') else { return Ok((pos, Vec::new())) };
        match command.split_once(' ') {
            None => {
                let names = slash::COMMANDS.iter().filter(|c| c.name.starts_with(command));
                let pair = |c: &slash::Slash| Pair {
                    display: format!("/{}", c.name),
                    replacement: format!("/{}{}", c.name, if c.args.is_empty() { "" } else { " " }),
                };
                Ok((0, names.map(pair).collect()))
            }
            Some((name, _)) if slash::find(name).is_some_and(|c| c.args.contains("FILE")) => {
                self.files.complete(line, pos, ctx)
            }
            Some(_) => Ok((pos, Vec::new())),
        }
    }
}

impl Hinter for Typing {
    type Hint = String;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<String> {
        let command = line.strip_prefix('/').filter(|_| pos == line.len())?;
        if let Some(known) = command.strip_suffix(' ').and_then(slash::find) {
            return Some(known.args.to_owned()).filter(|args| !args.is_empty());
        }
        let mut fitting =
            slash::COMMANDS.iter().filter(|c| !command.is_empty() && c.name.starts_with(command));
        let only = fitting.next().filter(|_| fitting.next().is_none())?;
        Some(only.name[command.len()..].to_owned()).filter(|rest| !rest.is_empty())
    }
}

impl Highlighter for Typing {
    fn highlight_hint<'h>(&self, hint: &'h str) -> std::borrow::Cow<'h, str> {
        format!("\x1b[2m{hint}\x1b[0m").into()
    }
}

impl Validator for Typing {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let whole = is_whole(context.input());
        Ok(if whole { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_pipe_become_messages() {
        let mut pipe = "one\r\ntwo \\\nlines\n\"\"\"\na\n\nb\n\"\"\"\n\nlast".as_bytes();
        let mut next = || next_lines(&mut pipe).unwrap();
        let text = |text: &str| Typed::Text(text.to_owned());
        assert_eq!(next(), text("one"));
        assert_eq!(next(), text("two \nlines"));
        assert_eq!(next(), text("a\n\nb"));
        assert_eq!(next(), text(""));
        assert_eq!(next(), text("last"));
        assert_eq!(next(), Typed::End);
        assert!(next_lines(&mut &b"\xff\n"[..]).is_err());
    }

    #[test]
    fn blocks_are_whole_when_closed() {
        assert!(!is_whole("\"\"\"") || unquoted("\"\"\"").is_empty());
        assert!(!is_whole("\"\"\"a\nb"));
        assert!(is_whole("\"\"\"a\nb\"\"\""));
        assert!(!is_whole("a \\"));
        assert!(is_whole("say \"\"\"hi"));
    }
}
