//! `lapwing synth`: a model of random weights in a real shape, that any runtime can load.
use lapwing_models::synth::{OPTIONS, Shape, Synth};
use lapwing_models::{Class, Error, mix::Mix};

use super::Ui;
use super::interrupt::Interrupt;
use super::output_file::{self, Target};

/// Arguments of `lapwing synth`.
#[derive(clap::Args, Debug)]
#[command(after_long_help = help())]
pub struct Args {
    /// Shape and type, such as llama-7b:q4_0; --help lists them
    #[arg(value_name = "SHAPE:TYPE")]
    model: String,
    #[command(flatten)]
    target: Target,
    /// Change the shape, such as layers=2,kv_heads=4 (repeatable); --help lists the options
    #[arg(long = "with", value_name = "OPTION=VALUE", value_delimiter = ',')]
    options: Vec<String>,
    /// Instead of the model, a LoRA adapter of this rank on all of its linear layers
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u16).range(1..))]
    lora: Option<u16>,
    /// Seed of the random weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn help() -> String {
    let mut text = format!(
        "Shapes: {}\n\nTypes: {}\n\nOptions:\n",
        Shape::names().collect::<Vec<_>>().join(", "),
        Mix::names().collect::<Vec<_>>().join(", "),
    );
    for (name, what) in OPTIONS {
        text += &format!("  {name:<17} {what}\n");
    }
    text
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let (mut shape, mix) = Synth::parse(&args.model)?;
    for option in &args.options {
        let (name, value) = option.split_once('=').ok_or_else(|| {
            Error::new(Class::Usage, "this is no option of a shape").expected_got("OPTION=VALUE", option)
        })?;
        shape.set(name, value)?;
    }
    let synth = match args.lora {
        Some(rank) => Synth::adapter(&shape, mix, args.seed, rank.into())?,
        None => Synth::new(&shape, mix, args.seed)?,
    };
    let mut writer = args.target.writer();
    for (key, value) in synth.entries() {
        writer.set(key, value.clone());
    }
    for t in synth.tensors() {
        writer.tensor(&t.name, t.ty, &t.shape)?;
    }
    let cancel = Interrupt::install()?.into_cancel();
    let mut rows = args.target.rows(writer, ui, &cancel)?;
    for (i, t) in synth.tensors().iter().enumerate() {
        rows.tensor(t.rows(), t.row_bytes(), |first, out| {
            synth.fill(i, first, out);
            Ok(())
        })?;
    }
    let (paths, bytes) = rows.finish()?;
    output_file::report(&paths, bytes, mix.name(), ui);
    Ok(())
}
