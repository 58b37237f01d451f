//! `lapwing lora export`: a stack as one adapter that other programs load with the same result.
use std::path::PathBuf;

use lapwing::engine::team;
use lapwing_kernels::TensorType;
use lapwing_kernels::isa::Isa;
use lapwing_models::model::{Model, OpenOptions};
use lapwing_models::os;

use super::{Ui, load, output_file};
use crate::commands::ModelArg;

/// Writes a stack as one adapter: its rank is the sum of theirs, and all scales are in its factors.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Where to write: a file that ends in .gguf, or else a PEFT folder
    out: PathBuf,
    /// LoRA adapter of the stack, with its scale (repeatable)
    #[arg(long, value_name = "PATH[=SCALE]", required = true)]
    lora: Vec<String>,
    /// Type of the factors: f32 (exact), f16 or bf16
    #[arg(long = "type", value_name = "TYPE", default_value = "f32", value_parser = factor_type)]
    ty: TensorType,
}

fn factor_type(name: &str) -> Result<TensorType, String> {
    let fits = |ty: &TensorType| matches!(ty, TensorType::F32 | TensorType::F16 | TensorType::Bf16);
    TensorType::from_name(name).filter(fits).ok_or_else(|| "expected f32, f16 or bf16".into())
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let model = Model::open(args.model.file()?, &OpenOptions::default())?;
    let adapters = load::adapters(&args.lora)?;
    let combined = model.combine(&adapters)?;
    let team = team(os::default_threads(), Isa::best())?;
    let gguf = args.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let written = if gguf {
        combined.write_gguf(&team, &args.out, args.ty)?
    } else {
        combined.write_peft(&team, &args.out, args.ty)?
    };
    if ui.json() {
        let (ranks, files) = (combined.ranks().values().max(), output_file::names(&written));
        println!("{}", serde_json::json!({ "files": files, "type": args.ty.name(), "rank": ranks }));
    } else {
        output_file::say_written(&written, ui);
    }
    Ok(())
}
