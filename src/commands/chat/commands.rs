//! The commands of the chat: tables of [`Slash`], one for each theme, joined in [`TABLES`]. `/help`, completion, hints
//! and the word about an unknown command are made from them.
use lapwing::text::{nearest, safe};

use super::slash::{Complete, Next, Slash, find};
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
    COMMANDS,
];

/// The commands about the chat itself.
static COMMANDS: &[Slash] = &[
    Slash { name: "help", args: "[COMMAND]", help: "show this", complete: Complete::No, run: show_help },
    Slash {
        name: "exit",
        args: "",
        help: "leave (also Ctrl-D)",
        complete: Complete::No,
        run: |_, _| Ok(Next::Leave),
    },
];

/// All commands.
pub fn all() -> impl Iterator<Item = &'static Slash> + Clone {
    TABLES.iter().copied().flatten()
}

/// What the commands that are completed by words may be followed by.
pub fn words(chat: &Chat) -> Vec<(&'static str, Vec<String>)> {
    let words = |command: &Slash| match command.complete {
        Complete::Words(words) => Some(words(chat)),
        Complete::No | Complete::Files => None,
    };
    all().filter_map(|command| Some((command.name, words(command)?))).collect()
}

/// Runs the command typed (without its slash). What it refuses is said, and the chat goes on.
pub fn run(chat: &mut Chat, typed: &str) -> anyhow::Result<Next> {
    let Some((command, rest)) = find(all(), typed) else {
        let name = typed.split_whitespace().next().unwrap_or_default();
        let near = match nearest(name, all().map(|c| c.name)) {
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
fn help(name: &str) -> Option<String> {
    let name = name.trim_start_matches('/');
    let part = |c: &&Slash| match name {
        "" => !c.name.contains(' '),
        name => c.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')),
    };
    let listed: Vec<_> = all().filter(part).collect();
    let width = listed.iter().map(|c| c.form().len()).max()?;
    let line = |c: &&Slash| format!("{:width$}  {}", c.form(), c.help);
    let mut text = listed.iter().map(line).collect::<Vec<_>>().join("\n");
    if name.is_empty() {
        text += "\nSeveral lines: Alt-Enter, \\ at the end, \"\"\" around. Ctrl-G: your editor.";
    }
    Some(text)
}

fn show_help(chat: &mut Chat, name: &str) -> anyhow::Result<Next> {
    match help(name) {
        Some(text) => chat.out.note(&text)?,
        None => chat.out.problem(&format!("no command {}: /help lists them", safe(name)))?,
    }
    Ok(Next::Prompt)
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
        let mut names: Vec<_> = all().map(|c| c.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        let (command, rest) = find(all(), "undo 3").unwrap();
        assert_eq!((command.name, rest), ("undo", " 3"));
        assert!(find(all(), "undone").is_none() && find(all(), "").is_none());
    }
}
