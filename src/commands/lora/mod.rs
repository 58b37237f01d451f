//! `lapwing lora`: what adapters are, and a stack of them written as one adapter or into the model.
use super::{Ui, inspect as inspect_any, load, output_file, quantize};

pub mod inspect;

mod export;
mod merge;

/// Arguments of `lapwing lora`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Show what adapters are, how they relate, and whether they fit a model
    Inspect(inspect::Args),
    /// Write a stack as one adapter, GGUF or PEFT
    Export(export::Args),
    /// Write a model with a stack merged into its weights
    Merge(merge::Args),
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    match args.command {
        Command::Inspect(args) => inspect::run(args, ui),
        Command::Export(args) => export::run(args, ui),
        Command::Merge(args) => merge::run(args, ui),
    }
}
