//! What every command knows about its user: output form, how talkative to be, whether there is a terminal.
use std::io::IsTerminal;

use clap::{Args, ValueEnum};

/// Form of what a command prints to stdout (`-o`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Plain text for people.
    Text,
    /// A Markdown table.
    Md,
    /// Comma-separated values.
    Csv,
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Jsonl,
}

/// Options every command has.
#[derive(Args, Clone, Debug)]
pub struct UiOptions {
    /// Form of the output (where a command has more than one)
    #[arg(short, long, global = true, value_enum, value_name = "FORM")]
    output: Option<Output>,
    /// Say more (on stderr)
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

/// How this run talks to its user.
#[derive(Clone, Debug)]
pub struct Ui {
    /// The form asked for; `None` means the command's own default.
    pub output: Option<Output>,
    /// `-v` was given.
    pub verbose: bool,
    /// `-q` was given.
    pub quiet: bool,
}

impl Ui {
    /// The options as given.
    pub fn new(options: UiOptions) -> Self {
        Self { output: options.output, verbose: options.verbose, quiet: options.quiet }
    }

    /// Whether progress bars and notices may be shown: stderr is a terminal and nobody asked for quiet.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// Prints a notice for people to stderr, only when that is a terminal.
    pub fn notice(&self, text: &str) {
        if self.shows_progress() {
            eprintln!("{text}");
        }
    }

    /// Whether the output form is JSON (one value or one a line).
    pub fn json(&self) -> bool {
        matches!(self.output, Some(Output::Json | Output::Jsonl))
    }
}
