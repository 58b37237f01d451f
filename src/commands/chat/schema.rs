//! Answers of a form, after a JSON schema or a grammar.
use std::path::Path;

use lapwing::text::safe;
use lapwing_models::Result;

use super::slash::{Complete, Next, Slash};
use super::{Chat, files};
use crate::commands::folders::absolute;
use crate::commands::load::FormFile;

/// The commands of this theme.
pub static COMMANDS: &[Slash] = &[Slash {
    name: "schema",
    args: "[FILE]",
    help: "answer after a JSON schema or grammar; off: freely",
    complete: Complete::Files,
    run: schema,
}];

/// Gives answers the form in `file`, or none.
pub fn set(chat: &mut Chat, file: Option<&Path>) -> Result<()> {
    let engine = chat.session.engine();
    chat.limits.grammar = file.map(|file| FormFile::either(file)?.grammar_for(engine)).transpose()?;
    chat.form = file.map(absolute);
    Ok(())
}

fn schema(chat: &mut Chat, typed: &str) -> anyhow::Result<Next> {
    match typed {
        "" => {}
        "off" | "none" => set(chat, None)?,
        typed => {
            let paths = files::paths(typed)?;
            let [file] = paths.as_slice() else { anyhow::bail!("one schema or grammar at a time") };
            set(chat, Some(file))?;
        }
    }
    let text = match &chat.form {
        Some(file) => format!("Answers follow {}; /schema off frees them.", safe(&file.to_string_lossy())),
        None => "Answers are free; /schema FILE gives them a form.".to_owned(),
    };
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}
