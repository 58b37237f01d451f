//! What a command of the chat is.
use super::Chat;

/// What the chat does after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Waits for the next message.
    Prompt,
    /// Answers the conversation as it is now.
    Answer,
    /// Ends.
    Leave,
}

/// How what follows a command is completed.
#[derive(Clone, Copy)]
pub enum Complete {
    /// Not at all.
    No,
    /// As paths of files.
    Files,
    /// As one of these words.
    Words(fn(&Chat) -> Vec<String>),
}

/// A command of the chat.
pub struct Slash {
    /// Its name, without the slash. One with a space (`lora add`) is a part of another command: `/help` leaves it to
    /// `/help lora`.
    pub name: &'static str,
    /// What follows the name, for people; empty when nothing may.
    pub args: &'static str,
    /// A few words for `/help`: with name and `args` at most 78 columns.
    pub help: &'static str,
    /// How `args` are completed.
    pub complete: Complete,
    /// Does it. The text is what followed the name, trimmed.
    pub run: fn(&mut Chat, &str) -> anyhow::Result<Next>,
}

impl Slash {
    /// How it is typed.
    pub fn form(&self) -> String {
        format!("/{} {}", self.name, self.args).trim_end().to_owned()
    }
}

/// The one of `commands` that `typed` (without its slash) calls, the longest that fits, and what follows its name, not
/// trimmed.
pub fn find(commands: impl Iterator<Item = &'static Slash>, typed: &str) -> Option<(&'static Slash, &str)> {
    let rest = |name: &str| {
        typed.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let fitting = commands.filter_map(|command| Some((command, rest(command.name)?)));
    fitting.max_by_key(|(command, _)| command.name.len())
}
