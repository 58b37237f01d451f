//! What every command knows about its user: output form, how talkative to be, whether there is a terminal.
use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use lapwing::session::Stats;

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

/// Whether stdout may be given colours: it is a terminal that knows them, and nobody set `NO_COLOR`.
pub fn colours() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    std::io::stdout().is_terminal() && !no_color && !dumb
}

/// `value` as one line of JSON that is also safe on a terminal: what [`lapwing::text::is_safe`] refuses is escaped.
pub fn json_text(value: &serde_json::Value) -> String {
    let text = value.to_string();
    // serde_json escapes C0; DEL, C1 and bidi controls only occur inside strings, where an escape means the same.
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if lapwing::text::is_safe(c) { out.push(c) } else { out += &format!("\\u{:04x}", u32::from(c)) }
    }
    out
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.0} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// What an answer took, for `-v`.
pub fn speed_line(stats: &Stats) -> String {
    format!(
        "[{} tokens read at {:.1}/s, {} from the cache; {} written at {:.1}/s]",
        stats.n_eval,
        stats.prefill_speed(),
        stats.n_cached,
        stats.n_gen,
        stats.decode_speed()
    )
}
