//! The commands of the chat: tables of [`Slash`], one for each theme, joined in [`TABLES`]. `/help`, completion, hints
//! and the word about an unknown command are made from them.
use lapwing::text::{nearest, safe};

use super::{Chat, files, lora, schema, sessions, settings, show, turns};

/// Every table of commands, in the order of `/help`.
static TABLES: &[&[Slash]] = &[
    turns::COMMANDS,
    files::COMMANDS,
    sessions::COMMANDS,
    settings::COMMANDS,
    lora::COMMANDS,
    schema::COMMANDS,
    show::COMMANDS,
];

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

/// All commands.
pub fn commands() -> impl Iterator<Item = &'static Slash> + Clone {
    TABLES.iter().copied().flatten()
}

/// The command that `typed` (without its slash) calls, the longest that fits, and what follows its name, not trimmed.
pub fn find(typed: &str) -> Option<(&'static Slash, &str)> {
    let rest = |name: &str| {
        typed.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let fitting = commands().filter_map(|command| Some((command, rest(command.name)?)));
    fitting.max_by_key(|(command, _)| command.name.len())
}

/// What the commands that are completed by words may be followed by.
pub fn words(chat: &Chat) -> Vec<(&'static str, Vec<String>)> {
    let words = |command: &Slash| match command.complete {
        Complete::Words(words) => Some(words(chat)),
        Complete::No | Complete::Files => None,
    };
    commands().filter_map(|command| Some((command.name, words(command)?))).collect()
}

/// Runs the command typed (without its slash). What it refuses is said, and the chat goes on.
pub fn run(chat: &mut Chat, typed: &str) -> anyhow::Result<Next> {
    let Some((command, rest)) = find(typed) else {
        let name = typed.split_whitespace().next().unwrap_or_default();
        let near = match nearest(name, commands().map(|c| c.name)) {
            Some(near) => format!("did you mean /{near}?"),
            None => "/help lists them".to_owned(),
        };
        chat.out.problem(&format!("no command /{}: {near}", safe(name)))?;
        return Ok(Next::Prompt);
    };
    if command.args.is_empty() && !rest.trim().is_empty() {
        chat.out.problem(&format!("/{} takes nothing after it", command.name))?;
        return Ok(Next::Prompt);
    }
    match (command.run)(chat, rest.trim()) {
        Err(error) if !super::ends_chat(&error) => {
            chat.out.problem(&format!("{error:#}"))?;
            Ok(Next::Prompt)
        }
        other => other,
    }
}

/// The text of `/help`: what each command does, or with a name that command and its parts.
pub fn help(name: &str) -> Option<String> {
    let name = name.trim_start_matches('/');
    let part = |c: &&Slash| match name {
        "" => !c.name.contains(' '),
        name => c.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')),
    };
    let listed: Vec<_> = commands().filter(part).collect();
    let width = listed.iter().map(|c| c.form().len()).max()?;
    let line = |c: &&Slash| format!("{:width$}  {}", c.form(), c.help);
    let mut text = listed.iter().map(line).collect::<Vec<_>>().join("\n");
    if name.is_empty() {
        text += "\nSeveral lines: Alt-Enter, \\ at the end, \"\"\" around. Ctrl-G: your editor.";
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_one_screen() {
        let text = help("").unwrap();
        // Of 24 lines the first has what was typed, and the last the prompt.
        assert!(text.lines().count() <= 22, "{text}");
        // A line of 79 would be wrapped.
        assert!(text.lines().all(|line| line.chars().count() <= 78), "{text}");
    }

    #[test]
    fn names_are_unique_and_the_longest_is_called() {
        let mut names: Vec<_> = commands().map(|c| c.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        let (command, rest) = find("undo 3").unwrap();
        assert_eq!((command.name, rest), ("undo", " 3"));
        assert!(find("undone").is_none() && find("").is_none());
    }
}
