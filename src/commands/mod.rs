//! The commands of the program. Each is one file with a `pub struct Args` (clap) and
//! `pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()>`, and one line in [`commands!`] below.
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

mod config;
mod fail;
mod find;
mod folders;
mod interrupt;
mod load;
mod options;
mod output_file;
mod progress;
mod ui;

mod bench;
mod chat;
mod completions;
mod cpu;
mod inspect;
mod lora;
mod man;
mod models;
mod perplexity;
mod quantize;
mod run;
mod synth;
mod tokenize;

pub use options::{AnswerOptions, Given, ModelArg, ModelOptions, SamplerOptions, TemplateOptions};
pub use ui::{Output, Ui};

/// Makes the subcommand enum and its dispatch from one list.
macro_rules! commands {
    ($($(#[$doc:meta])* $variant:ident => $module:ident,)*) => {
        #[derive(Subcommand)]
        enum Command {
            $($(#[$doc])* $variant($module::Args),)*
        }

        impl Command {
            fn run(self, ui: &Ui) -> anyhow::Result<()> {
                match self {
                    $(Command::$variant(args) => $module::run(args, ui),)*
                }
            }
        }
    };
}

commands! {
    /// Chat with a model
    Chat => chat,
    /// Print one answer to a prompt
    Run => run,
    /// Measure tokens per second
    Bench => bench,
    /// Measure perplexity, or divergence from another model's logits
    Perplexity => perplexity,
    /// Turn text into token ids
    Tokenize => tokenize,
    /// Show what a model or adapter is and what it will cost
    Inspect => inspect,
    /// Make a model file of random weights in a real shape
    Synth => synth,
    /// Write a model in another type
    Quantize => quantize,
    /// Look into LoRA adapters, write a stack as one adapter or into a model
    Lora => lora,
    /// Show instruction sets, measured limits and thread advice
    Cpu => cpu,
    /// List the models that can be named
    Models => models,
    /// Print what makes a shell complete arguments
    Completions => completions,
    /// Print the manual, or write its pages
    Man => man,
}

/// A self-contained CPU runtime for quantised language models.
#[derive(Parser)]
#[command(name = "lapwing", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    ui: ui::UiOptions,
    #[command(subcommand)]
    command: Command,
}

/// The whole command line, as data.
fn command() -> clap::Command {
    Cli::command()
}

/// Parses the process's arguments, runs the command and returns its exit code (docs: README, "Exit codes").
pub fn main() -> ExitCode {
    let cli = match command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return fail::usage(&error),
    };
    let ui = Ui::new(cli.ui);
    lapwing_models::os::faults_as_json(ui.json());
    match cli.command.run(&ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail::failure(&error, ui.output),
    }
}
