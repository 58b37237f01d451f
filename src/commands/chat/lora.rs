//! Commands for the stack of adapters. A change takes effect with the next answer.
use std::path::PathBuf;
use std::sync::Arc;

use lapwing::cost::bytes_per_token;
use lapwing::saved::{SavedAdapter, hex};
use lapwing::text::{check_name, safe};
use lapwing_models::lora::{Adapter, DEFAULT_FACTORS, Entry, Fitted, Stack};
use lapwing_models::os::NewFile;
use lapwing_models::{Class, Error, Result};
use serde::{Deserialize, Serialize};

use super::slash::{Complete, Next, Slash};
use super::{Chat, compare, count, files};
use crate::commands::folders::{absolute, data_folder};
use crate::commands::inspect::bytes;
use crate::commands::load;
use crate::commands::lora::inspect::kinds;

/// The commands of this theme.
pub static COMMANDS: &[Slash] = &[
    Slash {
        name: "lora",
        args: "",
        help: "list adapters; /help lora tells how to change them",
        complete: Complete::No,
        run: list,
    },
    Slash {
        name: "lora add",
        args: "PATH [SCALE]",
        help: "apply an adapter: a GGUF file or a PEFT folder",
        complete: Complete::Files,
        run: add,
    },
    Slash {
        name: "lora scale",
        args: "NAME X",
        help: "make an adapter stronger or weaker",
        complete: Complete::Words(loaded),
        run: scale,
    },
    Slash {
        name: "lora rm",
        args: "NAME",
        help: "take an adapter off",
        complete: Complete::Words(loaded),
        run: remove,
    },
    Slash {
        name: "lora off",
        args: "",
        help: "let the base answer alone",
        complete: Complete::No,
        run: |chat, _| switch(chat, false),
    },
    Slash {
        name: "lora on",
        args: "",
        help: "apply the adapters again",
        complete: Complete::No,
        run: |chat, _| switch(chat, true),
    },
    Slash {
        name: "lora save",
        args: "NAME",
        help: "remember these adapters and scales by a name",
        complete: Complete::Words(saved),
        run: save,
    },
    Slash {
        name: "lora load",
        args: "NAME",
        help: "use a remembered stack in place of this one",
        complete: Complete::Words(saved),
        run: load_saved,
    },
    Slash {
        name: "lora compare",
        args: "PROMPT",
        help: "answers of the base and of the stack side by side",
        complete: Complete::No,
        run: compare::run,
    },
];

/// Names of the adapters of the stack.
fn loaded(chat: &Chat) -> Vec<String> {
    chat.session.stack().entries().iter().map(|entry| entry.name.clone()).collect()
}

fn usage(message: impl Into<String>, advice: &str) -> anyhow::Error {
    Error::new(Class::Usage, message).advice(advice).into()
}

fn list(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let stack = chat.session.stack();
    if stack.entries().is_empty() {
        chat.out.note("no adapters (/lora add PATH applies one)")?;
        return Ok(Next::Prompt);
    }
    let of_base = bytes_per_token(chat.session.engine().model().gguf()) as f64;
    let mut rows = vec![["name", "scale", "rank", "memory", "reads", "targets"].map(str::to_owned)];
    for entry in stack.entries() {
        let adapter = &entry.fitted.adapter;
        let ranks = || adapter.deltas.values().map(|d| d.rank);
        let (low, high) = (ranks().min().unwrap_or_default(), ranks().max().unwrap_or_default());
        rows.push([
            safe(&entry.name).into_owned(),
            entry.scale.to_string(),
            if low == high { low.to_string() } else { format!("{low}–{high}") },
            bytes(entry.fitted.bytes() as u64),
            // A token reads all weights once; what an adapter adds to that is what it costs.
            format!("+{:.1}%", entry.fitted.bytes_per_token() as f64 * 100.0 / of_base),
            kinds(adapter).join(" "),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut text = rows.iter().map(line).collect::<Vec<_>>().join("\n");
    if !stack.is_on() {
        text += "\noff: the base answers alone (/lora on)";
    }
    let (n, held) = chat.session.snapshots();
    if n > 0 {
        text += &format!("\n{} kept for a swap back, {}", count(n, "other state"), bytes(held as u64));
    }
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}

impl Chat {
    /// Changes the stack and says what that means for the conversation so far; `done` is what was done.
    fn change_stack(&mut self, change: impl FnOnce(&mut Stack) -> Result<String>) -> anyhow::Result<Next> {
        let before = self.session.stack().key();
        let done = self.session.change_stack(change)?;
        let known = self.session.cache().len();
        let effect = if self.session.stack().key() == before {
            "nothing that was evaluated changes"
        } else if self.branches.conversation().turns().is_empty() {
            "from the first answer on"
        } else if known > 0 {
            "from the next answer on, with what this stack had read before"
        } else {
            "from the next answer on, after reading the conversation again"
        };
        self.out.note(&format!("{done}: {effect}"))?;
        Ok(Next::Prompt)
    }
}

/// `path` and a scale behind it, if there is one.
fn path_and_scale(typed: &str) -> Result<(PathBuf, f32)> {
    let mut words = files::paths(typed)?;
    let scale = match words.as_slice() {
        [_, last] => {
            let text = last.to_string_lossy().into_owned();
            let scale = text.parse();
            words.pop();
            scale.map_err(|_| {
                Error::new(Class::Usage, "not a scale").expected_got("a number such as 0.7", text)
            })?
        }
        _ => 1.0,
    };
    match words.as_slice() {
        // As on the command line.
        [path] => match load::path_and_scale(&path.to_string_lossy()) {
            (inner, of_path) if inner != path.as_path() => Ok((inner.to_path_buf(), of_path * scale)),
            _ => Ok((path.clone(), scale)),
        },
        _ => Err(Error::new(Class::Usage, "one adapter, please").advice("quote a path with spaces")),
    }
}

/// The adapter of the stack whose content has this hash.
fn present(chat: &Chat, hash: &str) -> Option<Arc<Fitted>> {
    let mut fitted = chat.session.stack().entries().iter().map(|entry| &entry.fitted);
    fitted.find(|fitted| hex(&fitted.adapter.hash) == hash).cloned()
}

/// The adapter, fitted to the model.
fn fit(chat: &Chat, adapter: Adapter) -> Result<Arc<Fitted>> {
    let engine = chat.session.engine();
    Ok(Arc::new(engine.model().fit(adapter, DEFAULT_FACTORS, engine.team())?))
}

fn add(chat: &mut Chat, typed: &str) -> anyhow::Result<Next> {
    let (path, scale) = path_and_scale(typed)?;
    let adapter = Adapter::open(&path)?;
    let fitted = match present(chat, &hex(&adapter.hash)) {
        Some(fitted) => fitted,
        None => fit(chat, adapter)?,
    };
    let on = chat.session.stack().is_on();
    chat.change_stack(|stack| {
        let name = fitted.adapter.name.clone();
        let name = stack.add(&name, fitted, scale)?;
        let off = if on { "" } else { ", but adapters are off (/lora on)" };
        Ok(format!("{} added with scale {scale}{off}", safe(&name)))
    })
}

fn scale(chat: &mut Chat, typed: &str) -> anyhow::Result<Next> {
    let Some((name, scale)) = typed.rsplit_once(char::is_whitespace) else {
        return Err(usage(
            "which adapter, and how strong?",
            "/lora scale NAME X, such as /lora scale bard 0.5",
        ));
    };
    let scale: f32 = scale
        .parse()
        .map_err(|_| Error::new(Class::Usage, "not a scale").expected_got("a number such as 0.7", scale))?;
    let name = name.trim();
    chat.change_stack(|stack| {
        stack.set_scale(name, scale)?;
        Ok(format!("{} has scale {scale}", safe(name)))
    })
}

fn remove(chat: &mut Chat, name: &str) -> anyhow::Result<Next> {
    if name.is_empty() {
        return Err(usage("which adapter?", "/lora lists them"));
    }
    chat.change_stack(|stack| {
        stack.remove(name)?;
        Ok(format!("{} removed", safe(name)))
    })
}

fn switch(chat: &mut Chat, on: bool) -> anyhow::Result<Next> {
    chat.change_stack(|stack| {
        stack.set_on(on);
        Ok(if on { "adapters on".into() } else { "adapters off".into() })
    })
}

/// A named stack, as it is in its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedStack {
    adapters: Vec<SavedAdapter>,
}

/// The adapters of the stack, for a file.
pub fn described(stack: &Stack) -> Vec<SavedAdapter> {
    let one = |entry: &Entry| {
        let adapter = &entry.fitted.adapter;
        let path = absolute(&adapter.path);
        SavedAdapter { name: entry.name.clone(), path, hash: hex(&adapter.hash), scale: entry.scale }
    };
    stack.entries().iter().map(one).collect()
}

/// The stack that was described so. Adapters of the present stack stay as they are in memory.
///
/// # Errors
/// When a file is not the one that was described, or cannot be read or fitted.
pub fn restored(chat: &Chat, adapters: &[SavedAdapter]) -> Result<Stack> {
    let mut stack = Stack::default();
    for saved in adapters {
        let fitted = match present(chat, &saved.hash) {
            Some(fitted) => fitted,
            None => {
                let adapter = Adapter::open(&saved.path)?;
                if hex(&adapter.hash) != saved.hash {
                    return Err(Error::bad_file("the adapter is not the one that was saved")
                        .in_file(&saved.path)
                        .advice("/lora add applies the new one"));
                }
                fit(chat, adapter)?
            }
        };
        stack.add(&saved.name, fitted, saved.scale)?;
    }
    Ok(stack)
}

/// Longer files are no named stacks.
const LONGEST: u64 = 1 << 20;

/// Where named stacks are.
fn folder() -> Result<PathBuf> {
    let folder = data_folder().ok_or_else(|| Error::new(Class::Other, "this user has no home folder"))?;
    Ok(folder.join("stacks"))
}

/// The file of a named stack.
fn file(name: &str) -> Result<PathBuf> {
    check_name("stack", name)?;
    Ok(folder()?.join(format!("{name}.json")))
}

/// Names of saved stacks.
fn saved(_: &Chat) -> Vec<String> {
    let entries = folder().ok().and_then(|folder| std::fs::read_dir(folder).ok());
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let mut names: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

fn save(chat: &mut Chat, name: &str) -> anyhow::Result<Next> {
    let file = file(name)?;
    let adapters = described(chat.session.stack());
    if adapters.is_empty() {
        return Err(usage("there are no adapters to save", "/lora add PATH applies one"));
    }
    let n = adapters.len();
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, &e))?;
    }
    let mut out = NewFile::create(&file)?;
    out.write(&serde_json::to_vec_pretty(&SavedStack { adapters })?)?;
    out.commit()?;
    chat.out.note(&format!("{} saved as {name}; /lora load {name} brings them back", count(n, "adapter")))?;
    Ok(Next::Prompt)
}

fn load_saved(chat: &mut Chat, name: &str) -> anyhow::Result<Next> {
    let file = file(name)?;
    let known = saved(chat).join(", ");
    let known = if known.is_empty() { "none is saved".to_owned() } else { format!("there are: {known}") };
    let size = std::fs::metadata(&file)
        .map_err(|_| Error::new(Class::Usage, format!("no stack {name}")).advice(known))?
        .len();
    let bad = |what: String| Error::bad_file(what).in_file(&file);
    if size > LONGEST {
        return Err(bad("not a saved stack".into())
            .expected_got(format!("at most {LONGEST} bytes"), size)
            .into());
    }
    let text = std::fs::read(&file).map_err(|e| Error::io("read", &file, &e))?;
    let saved: SavedStack =
        serde_json::from_slice(&text).map_err(|e| bad(format!("not a saved stack: {e}")))?;
    let stack = restored(chat, &saved.adapters)?;
    let n = stack.entries().len();
    chat.change_stack(|present| {
        *present = stack;
        Ok(format!("{name} with {}", count(n, "adapter")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_have_a_scale_behind_it() {
        let of = |typed: &str| path_and_scale(typed).map(|(path, scale)| (path.display().to_string(), scale));
        assert_eq!(of("a.gguf").unwrap(), ("a.gguf".into(), 1.0));
        assert_eq!(of("a.gguf -0.5").unwrap(), ("a.gguf".into(), -0.5));
        assert_eq!(of("'my adapter' 2").unwrap(), ("my adapter".into(), 2.0));
        assert_eq!(of("a.gguf=0.7").unwrap(), ("a.gguf".into(), 0.7));
        assert!(of("a.gguf b.gguf").is_err() && of("").is_err() && of("a b c").is_err());
    }

    #[test]
    fn names_of_stacks_stay_in_their_folder() {
        for bad in ["", "..", ".x", "a/b", "a b", "a\\b"] {
            assert!(file(bad).is_err(), "{bad}");
        }
        assert!(file("bard-2_x.y").is_ok());
    }
}
