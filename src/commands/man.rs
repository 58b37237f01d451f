//! `lapwing man`: the manual, as one page for each command.
use std::path::{Path, PathBuf};

use lapwing_models::os::NewFile;

use super::Ui;

/// Arguments of `lapwing man`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder to write the pages to (default: the main page to stdout, to be read with `man -l -`)
    folder: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let mut command = super::command();
    command.build();
    match &args.folder {
        None => clap_mangen::Man::new(command).render(&mut std::io::stdout())?,
        Some(folder) => {
            let n = write(command, folder, "lapwing")?;
            ui.notice(&format!("wrote {n} pages"));
        }
    }
    Ok(())
}

/// Writes the page of a command, and those of its parts; returns how many.
fn write(command: clap::Command, folder: &Path, name: &str) -> anyhow::Result<usize> {
    let mut n = 1;
    for part in command.get_subcommands().filter(|part| part.get_name() != "help") {
        n += write(part.clone(), folder, &format!("{name}-{}", part.get_name()))?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).title(name.to_uppercase()).render(&mut page)?;
    let mut file = NewFile::create(&folder.join(format!("{name}.1")))?;
    file.write(&page)?;
    file.commit()?;
    Ok(n)
}
