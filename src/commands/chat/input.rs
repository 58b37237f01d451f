//! What the person types: an edited line on a terminal, plain lines otherwise.
use std::io::BufRead;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{
    Behavior, Cmd, ColorMode, CompletionType, Config, Editor, Event, EventHandler, KeyCode, KeyEvent,
    Modifiers,
};

use super::slash::Slash;
use super::typing::{EndKey, Typing, is_whole, unquoted};

/// Opens the person's own editor.
const OWN_EDITOR: KeyEvent = KeyEvent(KeyCode::Char('G'), Modifiers::CTRL);
/// Gives a line up.
const GIVE_UP: KeyEvent = KeyEvent(KeyCode::Char('C'), Modifiers::CTRL);

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
    /// The key that ended a line in the place of Enter.
    end_key: EndKey,
    /// Where lines are kept for the next chat.
    history: Option<PathBuf>,
}

impl Input {
    /// Editing on a terminal, with help about these commands; plain lines otherwise.
    ///
    /// # Errors
    /// When the terminal cannot be used.
    pub fn new(
        terminal: bool,
        colours: bool,
        history: Option<PathBuf>,
        commands: impl Iterator<Item = &'static Slash>,
    ) -> anyhow::Result<Self> {
        if !terminal {
            return Ok(Self::Pipe);
        }
        let config = Config::builder()
            .behavior(Behavior::Stdio)
            .color_mode(if colours { ColorMode::Enabled } else { ColorMode::Disabled })
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Typing::new(colours, commands.collect())));
        let newline = || EventHandler::Simple(Cmd::Newline);
        editor.bind_sequence(Event::from(KeyEvent(KeyCode::Enter, Modifiers::ALT)), newline());
        // What most terminals send for Alt-Enter: an escape before a carriage return.
        editor.bind_sequence(Event::from(KeyEvent(KeyCode::Char('\r'), Modifiers::ALT)), newline());
        let end_key = EndKey::default();
        for key in [OWN_EDITOR, GIVE_UP] {
            let handler = EventHandler::Conditional(Box::new(end_key.clone()));
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
        Ok(Self::Terminal(Box::new(Line { editor, end_key, history })))
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
        Ok(match line.read(question, "")? {
            Ended::Entered(answer) => answer.trim().to_lowercase(),
            Ended::Key(..) | Ended::End => String::new(),
        })
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
            match line.read(prompt, &text)? {
                Ended::Entered(typed) => {
                    line.keep_history(&typed)?;
                    return Ok(Typed::Text(unquoted(&typed)));
                }
                Ended::Key(OWN_EDITOR, typed) => text = in_own_editor(typed)?,
                Ended::Key(_, typed) if typed.is_empty() => return Ok(Typed::Interrupt),
                Ended::Key(..) => return Ok(Typed::GivenUp),
                Ended::End => return Ok(Typed::End),
            }
        }
    }
}

/// How an edited line ended.
enum Ended {
    /// With Enter.
    Entered(String),
    /// With another key: what was typed by then is not meant to be sent.
    Key(KeyEvent, String),
    /// With Ctrl-D.
    End,
}

impl Line {
    /// Lets the person change `text`.
    fn read(&mut self, prompt: &str, text: &str) -> anyhow::Result<Ended> {
        let read = self.editor.readline_with_initial(prompt, (text, ""));
        match (self.end_key.take(), read) {
            (Some(key), Ok(typed)) => Ok(Ended::Key(key, typed)),
            (None, Ok(typed)) => Ok(Ended::Entered(typed)),
            (_, Err(ReadlineError::Interrupted)) => Ok(Ended::Key(GIVE_UP, String::new())),
            (_, Err(ReadlineError::Eof)) => Ok(Ended::End),
            (_, Err(error)) => Err(error.into()),
        }
    }

    /// After each line, so that a crash loses none.
    fn keep_history(&mut self, typed: &str) -> anyhow::Result<()> {
        self.editor.add_history_entry(typed)?;
        if let Some(path) = &self.history
            && let Err(error) = self.editor.append_history(path)
        {
            eprintln!("lapwing: {}: {error}", path.display());
            self.history = None;
        }
        Ok(())
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
}
