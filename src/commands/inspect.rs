//! `lapwing inspect`.
use super::Ui;

/// Arguments of `lapwing inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args, _ui: &Ui) -> anyhow::Result<()> {
    anyhow::bail!("not here yet")
}
