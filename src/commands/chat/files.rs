//! Commands that read and write text files.
use std::io::Read;
use std::path::{Path, PathBuf};

use lapwing::text::safe;
use lapwing_models::os::NewFile;
use lapwing_models::{Class, Error, Result};

use super::slash::{Complete, Next, Slash};
use super::{Chat, count};

/// The commands of this theme.
pub static COMMANDS: &[Slash] = &[
    Slash {
        name: "read",
        args: "FILE…",
        help: "put text files before your next message (none: let go)",
        complete: Complete::Files,
        run: read,
    },
    Slash {
        name: "dump",
        args: "FILE",
        help: "write the conversation as plain text",
        complete: Complete::Files,
        run: dump,
    },
];

/// Longer files fit no context.
const LONGEST: u64 = 16 << 20;

/// The paths typed, as a shell would read them: quotes and backslashes hold spaces, `~` is home.
pub fn paths(typed: &str) -> Result<Vec<PathBuf>> {
    let words = shlex::split(typed).ok_or_else(|| {
        Error::new(Class::Usage, "a quote is not closed").advice("\\\" means the letter itself")
    })?;
    if words.is_empty() {
        return Err(Error::new(Class::Usage, "which file?"));
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let path = |word: String| match (word.strip_prefix("~/"), &home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(word),
    };
    Ok(words.into_iter().map(path).collect())
}

/// A text file, whole.
fn text(path: &Path) -> Result<String> {
    let failed = |e| Error::io("read", path, &e);
    let file = std::fs::File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::new(Class::Usage, "not a text file").in_file(path));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::new(Class::Usage, "the file is too long")
            .in_file(path)
            .expected_got(format!("at most {} MiB", LONGEST >> 20), "more"));
    }
    String::from_utf8(bytes).map_err(|error| {
        Error::bad_file("not a text file")
            .in_file(path)
            .at(format!("byte {}", error.utf8_error().valid_up_to()))
            .expected_got("UTF-8", "other bytes")
    })
}

/// A file in a message: its name, and its text between fences that do not occur in it.
fn fenced(path: &Path, text: &str) -> String {
    let mut fence = "```".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}:\n{fence}\n{}\n{fence}\n\n", text.trim_end_matches('\n'))
}

fn read(chat: &mut Chat, typed: &str) -> anyhow::Result<Next> {
    if typed == "none" {
        chat.attached.clear();
        chat.out.note("Nothing goes before your next message.")?;
        return Ok(Next::Prompt);
    }
    // All or none: what one of several files refuses should not half happen.
    let files: Vec<_> =
        paths(typed)?.into_iter().map(|path| text(&path).map(|text| (path, text))).collect::<Result<_>>()?;
    let tokens = |text: &str| chat.session.engine().model().tokenizer().encode(text, false).len();
    let mut waiting = tokens(&chat.attached);
    let mut lines = Vec::new();
    for (path, text) in &files {
        let text = fenced(path, text);
        let n = tokens(&text);
        lines.push(format!("{}: {}", safe(&path.to_string_lossy()), count(n, "token")));
        waiting += n;
        chat.attached += &text;
    }
    let left = chat.session.context().saturating_sub(chat.used_tokens());
    lines.push(match left.checked_sub(waiting) {
        Some(left) => {
            format!("Goes before your next message, which leaves {} of the context.", count(left, "token"))
        }
        None => format!(
            "Goes before your next message, but is more than the {} that the context has left: /read none lets go of \
             it, /set ctx-size makes room.",
            count(left, "token")
        ),
    });
    chat.out.note(&lines.join("\n"))?;
    Ok(Next::Prompt)
}

fn dump(chat: &mut Chat, typed: &str) -> anyhow::Result<Next> {
    let paths = paths(typed)?;
    let [path] = paths.as_slice() else {
        return Err(Error::new(Class::Usage, "one file, please").advice("quote a name with spaces").into());
    };
    let turns = chat.branches.conversation().turns();
    let mut file = NewFile::create(path)?;
    for turn in turns {
        file.write(format!("{}: {}\n\n", turn.role.name(), turn.text.trim_end()).as_bytes())?;
    }
    file.commit()?;
    chat.out.note(&format!("{}: {}", safe(&path.to_string_lossy()), count(turns.len(), "turn")))?;
    Ok(Next::Prompt)
}
