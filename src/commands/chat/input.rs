//! What the person types: an edited line on a terminal, plain lines otherwise.
use std::io::BufRead;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{
    Behavior, Cmd, ColorMode, CompletionType, Config, Editor, Event, EventHandler, KeyCode, KeyEvent,
    Modifiers,
};

use super::typing::{BrokenOff, Typing};

/// Opens the person's own editor.
const OWN_EDITOR: KeyEvent = KeyEvent(KeyCode::Char('G'), Modifiers::CTRL);

/// What came from the keyboard or the pipe.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A message or a command, whole, without its line end.
    Text(String),
    /// Ctrl-C at an empty prompt.
    Interrupt,
    /// Ctrl-C, which threw away what was typed.
    GivenUp,
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// Where the person types.
pub enum Input {
    /// A terminal, with editing.
    Terminal(Box<Line>),
    /// Lines of a pipe or a file.
    Pipe,
}

/// A line with an editor around it.
pub struct Line {
    editor: Editor<Typing, DefaultHistory>,
    /// How a line ended that was not entered.
    broken_off: BrokenOff,
    /// Where lines are kept for the next chat.
    history: Option<PathBuf>,
}

impl Input {
    /// Editing on a terminal, plain lines otherwise.
    ///
    /// # Errors
    /// When the terminal cannot be used.
    pub fn new(terminal: bool, colours: bool, history: Option<PathBuf>) -> anyhow::Result<Self> {
        if !terminal {
            return Ok(Self::Pipe);
        }
        let config = Config::builder()
            .behavior(Behavior::Stdio)
            .color_mode(if colours { ColorMode::Enabled } else { ColorMode::Disabled })
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Typing::new(colours)));
        let newline = || EventHandler::Simple(Cmd::Newline);
        editor.bind_sequence(Event::from(KeyEvent(KeyCode::Enter, Modifiers::ALT)), newline());
        // What most terminals send for Alt-Enter: an escape before a carriage return.
        editor.bind_sequence(Event::from(KeyEvent(KeyCode::Char('\r'), Modifiers::ALT)), newline());
        let broken_off = BrokenOff::default();
        for key in [OWN_EDITOR, KeyEvent::ctrl('C')] {
            let handler = EventHandler::Conditional(Box::new(broken_off.clone()));
            editor.bind_sequence(Event::from(key), handler);
        }
        if let Some(path) = &history {
            let folder = path.parent().context("the history has no folder")?;
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            // None yet is none; one that cannot be read must not keep the person from chatting.
            match editor.load_history(path) {
                Err(ReadlineError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => eprintln!("lapwing: {}: {error}", path.display()),
                Ok(()) => {}
            }
        }
        Ok(Self::Terminal(Box::new(Line { editor, broken_off, history })))
    }

    /// Sets the words that commands are completed by.
    pub fn set_words(&mut self, words: Vec<(&'static str, Vec<String>)>) {
        if let Self::Terminal(line) = self
            && let Some(typing) = line.editor.helper_mut()
        {
            typing.set_words(words);
        }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When the terminal or the pipe cannot be read, or a pipe holds something else than UTF-8 text.
    pub fn next(&mut self, prompt: &str) -> anyhow::Result<Typed> {
        self.edit(prompt, "")
    }

    /// Asks the person something on a terminal; the answer is in lower case, and empty for anything but a line.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub fn ask(&mut self, question: &str) -> anyhow::Result<String> {
        let Self::Terminal(line) = self else { return Ok(String::new()) };
        line.editor.set_auto_add_history(false);
        let answer = line.editor.readline(question);
        line.editor.set_auto_add_history(true);
        match answer {
            Ok(answer) => Ok(answer.trim().to_lowercase()),
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Input::next`]; on a terminal the person changes `text`.
    ///
    /// # Errors
    /// As there.
    pub fn edit(&mut self, prompt: &str, text: &str) -> anyhow::Result<Typed> {
        let line = match self {
            Self::Terminal(line) => line,
            Self::Pipe => return next_lines(&mut std::io::stdin().lock()),
        };
        let mut text = text.to_owned();
        loop {
            match line.editor.readline_with_initial(prompt, (&text, "")) {
                Ok(typed) => {
                    line.keep_history();
                    return Ok(Typed::Text(unquoted(&typed)));
                }
                Err(ReadlineError::Interrupted) => match line.broken_off.take() {
                    Some((key, typed)) if key == OWN_EDITOR.into() => text = in_own_editor(typed)?,
                    Some((_, typed)) if !typed.is_empty() => return Ok(Typed::GivenUp),
                    _ => return Ok(Typed::Interrupt),
                },
                Err(ReadlineError::Eof) => return Ok(Typed::End),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Line {
    /// After each line, so that a crash loses none.
    fn keep_history(&mut self) {
        if let Some(path) = &self.history
            && let Err(error) = self.editor.append_history(path)
        {
            eprintln!("lapwing: {}: {error}", path.display());
            self.history = None;
        }
    }
}

/// Lets the person change `text` in the editor that `$VISUAL` or `$EDITOR` names. It stays as it was, with a word about
/// why, when that does not work.
fn in_own_editor(text: String) -> anyhow::Result<String> {
    match try_own_editor(&text) {
        Ok(changed) => Ok(changed.trim_end_matches('\n').to_owned()),
        Err(error) => {
            eprintln!("lapwing: {error:#}");
            Ok(text)
        }
    }
}

fn try_own_editor(text: &str) -> anyhow::Result<String> {
    let named =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let named = named.unwrap_or_else(|| "vi".to_owned());
    // Editors are named with options: `code --wait`.
    let words = shlex::split(&named).filter(|words| !words.is_empty()).context("$EDITOR cannot be read")?;
    // Others may not read what is written to a model; the file goes when it is dropped.
    let file = tempfile::Builder::new().prefix("lapwing-").suffix(".md").tempfile()?;
    std::fs::write(file.path(), text)?;
    let status = Command::new(&words[0]).args(&words[1..]).arg(file.path()).status();
    let status = status.with_context(|| format!("the editor {} does not start", words[0]))?;
    anyhow::ensure!(status.success(), "the editor {} failed: the message stays as it was", words[0]);
    std::fs::read_to_string(file.path()).context("the editor's text cannot be read")
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
pub fn is_whole(text: &str) -> bool {
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
