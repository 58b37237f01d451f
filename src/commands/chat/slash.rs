//! The commands of the chat: one entry each in [`COMMANDS`].
use lapwing::text::nearest;

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

/// A command of the chat.
pub struct Slash {
    /// Its name, without the slash.
    pub name: &'static str,
    /// What follows the name, for people; empty when nothing does.
    pub args: &'static str,
    /// One line for `/help`.
    pub help: &'static str,
    /// Does it. The text is what followed the name, trimmed.
    pub run: fn(&mut Chat, &str) -> anyhow::Result<Next>,
}

/// All commands, in the order of `/help`.
pub static COMMANDS: &[Slash] = &[
    Slash { name: "help", args: "", help: "show this", run: help },
    Slash { name: "clear", args: "", help: "forget the conversation and start anew", run: clear },
    Slash { name: "stats", args: "", help: "tokens and times of the last answer", run: stats },
    Slash { name: "exit", args: "", help: "leave (also Ctrl-D)", run: |_, _| Ok(Next::Leave) },
];

/// The command of this exact name.
pub fn find(name: &str) -> Option<&'static Slash> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// Runs the command typed (without its slash).
pub fn run(chat: &mut Chat, typed: &str) -> anyhow::Result<Next> {
    let (name, rest) = typed.split_once(char::is_whitespace).unwrap_or((typed, ""));
    let Some(command) = find(name) else {
        let near = nearest(name, COMMANDS.iter().map(|c| c.name));
        let near =
            near.map_or_else(|| "/help lists them".to_owned(), |near| format!("did you mean /{near}?"));
        chat.out.problem(&format!("no command /{}: {near}", lapwing::text::safe(name)))?;
        return Ok(Next::Prompt);
    };
    if command.args.is_empty() && !rest.trim().is_empty() {
        chat.out.problem(&format!("/{name} takes nothing after it"))?;
        return Ok(Next::Prompt);
    }
    (command.run)(chat, rest.trim())
}

fn help(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let form = |c: &Slash| format!("/{} {}", c.name, c.args).trim_end().to_owned();
    let width = COMMANDS.iter().map(|c| form(c).len()).max().unwrap_or_default();
    let mut text = String::new();
    for command in COMMANDS {
        text += &format!("{:width$}  {}\n", form(command), command.help);
    }
    text += "Several lines: Alt-Enter, a \\ at the end of a line, or \"\"\" before and after.\n";
    text += "Ctrl-C stops an answer; twice at the prompt, or Ctrl-D, leaves.";
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}

fn clear(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    chat.conversation.clear();
    chat.out.note("The conversation starts anew.")?;
    Ok(Next::Prompt)
}

fn stats(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let stats = chat.session.stats();
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    let text = format!(
        "prompt      {} tokens: {} from the cache, {} read in {:.2} s ({:.1}/s)\n\
         answer      {} tokens in {:.2} s ({:.1}/s), the first after {:.2} s\n\
         context     {} of {} tokens used\n\
         load        {:.2} s",
        stats.n_prompt,
        stats.n_cached,
        stats.n_eval,
        seconds(stats.prefill),
        stats.prefill_speed(),
        stats.n_gen,
        seconds(stats.decode),
        stats.decode_speed(),
        seconds(stats.first_token),
        chat.session.tokens().len(),
        chat.session.context(),
        seconds(chat.session.engine().load_time()),
    );
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}
