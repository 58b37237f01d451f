//! Answers of a form, after a JSON schema or a grammar.
use super::slash::{Complete, Next, Slash};
use super::{Chat, files};
use crate::commands::load;

/// The commands of this theme.
pub static COMMANDS: &[Slash] = &[Slash {
    name: "schema",
    args: "[FILE]",
    help: "answer after a JSON schema or grammar; off: freely",
    complete: Complete::Files,
    run: schema,
}];

fn schema(chat: &mut Chat, typed: &str) -> anyhow::Result<Next> {
    match typed {
        "" if chat.limits.grammar.is_some() => {
            chat.out.note("Answers have a form; /schema off frees them.")?
        }
        "" => chat.out.note("Answers are free; /schema FILE gives them a form.")?,
        "off" | "none" => {
            chat.limits.grammar = None;
            chat.out.note("Answers are free.")?;
        }
        typed => {
            let paths = files::paths(typed)?;
            let [file] = paths.as_slice() else { anyhow::bail!("one schema or grammar at a time") };
            chat.limits.grammar = Some(load::form(chat.session.engine(), file)?);
            chat.out.note("Answers have this form from now on; /schema off frees them.")?;
        }
    }
    Ok(Next::Prompt)
}
