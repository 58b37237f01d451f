//! The one place where a failure becomes a line on stderr and an exit code.
use std::io::Write;
use std::process::ExitCode;

use lapwing_models::{Class, Error};

use super::Output;

/// Reports why a command failed; returns its exit code.
pub fn failure(error: &anyhow::Error, output: Option<Output>) -> ExitCode {
    // A reader that closed the pipe has seen what it wanted: `lapwing run … | head -1` is no failure.
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(closed)) {
        return ExitCode::SUCCESS;
    }
    let typed = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    let report = match typed {
        // Context added on the way up stays in front of the typed error's own words.
        Some(typed) => Error { message: outer_context(error, typed), ..typed.clone() },
        None => {
            let full = |e: &std::io::Error| e.kind() == std::io::ErrorKind::StorageFull;
            let full = error.chain().any(|cause| cause.downcast_ref().is_some_and(full));
            Error::new(if full { Class::Memory } else { Class::Other }, format!("{error:#}"))
        }
    };
    print(&report, matches!(output, Some(Output::Json | Output::Jsonl)));
    ExitCode::from(report.class.exit_code())
}

/// `typed`'s message behind the contexts that wrap it in `error`.
fn outer_context(error: &anyhow::Error, typed: &Error) -> String {
    let mut message = String::new();
    for cause in error.chain() {
        if cause.downcast_ref::<Error>().is_some() {
            break;
        }
        message += &format!("{cause}: ");
    }
    message + &typed.message
}

/// Reports what clap found wrong with the arguments (or prints the help asked for); returns the exit code.
pub fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion => {
            // Nothing to do when stdout is closed.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return ExitCode::from(Class::Usage.exit_code());
        }
        _ => {}
    }
    // clap writes several paragraphs; people and scripts get one line.
    let text = error.render().to_string();
    let line = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|paragraph| !paragraph.is_empty() && !paragraph.starts_with("Usage:"))
        .map(|paragraph| paragraph.trim_start_matches("error: ").to_owned())
        .collect::<Vec<_>>()
        .join("; ");
    let line = line.replace("; For more information, try '--help'.", " (try '--help')");
    print(&Error::new(Class::Usage, line), asks_for_json(std::env::args()));
    ExitCode::from(Class::Usage.exit_code())
}

/// Whether unparsable arguments still say `-o json`, so that their error is printed that way.
fn asks_for_json(args: impl Iterator<Item = String>) -> bool {
    let mut value_next = false;
    for arg in args {
        let value = match arg.as_str() {
            "-o" | "--output" => {
                value_next = true;
                continue;
            }
            _ if value_next => Some(arg.as_str()),
            _ => arg.strip_prefix("--output=").or_else(|| arg.strip_prefix("-o")),
        };
        value_next = false;
        if matches!(value, Some("json" | "jsonl")) {
            return true;
        }
    }
    false
}

/// One line on stderr: for people, or as JSON.
fn print(error: &Error, json: bool) {
    let mut stderr = std::io::stderr().lock();
    // A closed stderr leaves nowhere to complain to.
    let _ = if json {
        let file = error.file.as_ref().map(|f| f.to_string_lossy().into_owned());
        let value = serde_json::json!({ "error": {
            "class": error.class.name(), "file": file, "at": error.at, "expected": error.expected,
            "got": error.got, "message": error.to_string(),
        }});
        writeln!(stderr, "{value}")
    } else {
        writeln!(stderr, "lapwing: {}", one_line(&error.to_string()))
    };
}

/// Text that may hold a stranger's words, as one line safe for a terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::asks_for_json;

    #[test]
    fn json_is_seen_in_every_spelling_of_the_option() {
        let asks = |args: &[&str]| asks_for_json(args.iter().map(|s| (*s).to_owned()));
        assert!(asks(&["run", "-o", "json"]));
        assert!(asks(&["--output=json"]));
        assert!(asks(&["-ojson"]));
        assert!(!asks(&["run", "json", "-o", "text"]));
    }
}
