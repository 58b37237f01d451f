//! `lapwing quantize`: a model in another type. f32 gives the exact values of any other.
use lapwing_kernels::TensorType;
use lapwing_kernels::format::{EncodeError, decode_row, encode_row};
use lapwing_models::gguf::{Gguf, OpenOptions, Tensor};
use lapwing_models::mix::Mix;
use lapwing_models::{Class, Error, Result};

use super::output_file::Target;
use super::{ModelArg, Ui};

/// Arguments of `lapwing quantize`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    target: Target,
    /// Type to write: f32 (exact), f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k or q4_k_m
    #[arg(value_name = "TYPE", value_parser = mix)]
    mix: Mix,
}

/// A type that can be written.
fn mix(name: &str) -> std::result::Result<Mix, String> {
    let writable = |mix: Mix| match mix {
        Mix::All(ty) => can_encode(ty),
        Mix::Q4KM => can_encode(TensorType::Q4K) && can_encode(TensorType::Q6K),
    };
    Mix::from_name(name).filter(|&mix| writable(mix)).ok_or_else(|| {
        let names: Vec<_> = Mix::names().filter(|n| Mix::from_name(n).is_some_and(writable)).collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn can_encode(ty: TensorType) -> bool {
    encode_row(ty, &vec![0.0; ty.block_len()], &mut vec![0; ty.block_bytes()]).is_ok()
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let gguf = Gguf::open(args.model.file()?, &OpenOptions::default())?;
    let mut writer = args.target.writer();
    for (key, value) in gguf.entries() {
        writer.set(key, value.clone());
    }
    writer.set("general.file_type", args.mix.file_type());
    writer.set("general.quantization_version", 2u32);

    let arch = gguf.architecture().unwrap_or_default();
    let layers = gguf.opt_u32(&format!("{arch}.block_count"))?.unwrap_or(0) as usize;
    let tied = gguf.tensor("output.weight").is_none();
    let target_type = |t: &Tensor<'_>| {
        let ty = args.mix.type_of(t.name, t.shape, layers, tied);
        // What does not fit the type asked for stays as exact as it is.
        if can_encode(ty) { ty } else { TensorType::F16 }
    };
    for t in gguf.tensors() {
        writer.tensor(t.name, target_type(&t), t.shape)?;
    }
    let mut rows = args.target.rows(writer, ui)?;
    for t in gguf.tensors() {
        convert(&mut rows, &gguf, &t, target_type(&t))?;
    }
    // Nothing may take its place that was made of two states of the source.
    gguf.check_unchanged()?;
    rows.finish(args.mix.name(), ui)
}

fn convert(rows: &mut super::output_file::Rows, gguf: &Gguf, t: &Tensor<'_>, ty: TensorType) -> Result<()> {
    let sizes = || Some((t.ty.row_bytes(t.cols())?, ty.row_bytes(t.cols())?));
    let (from, to) =
        sizes().ok_or_else(|| Error::new(Class::Other, "a row is not whole blocks").at(t.name))?;
    rows.tensor(t.rows(), to, |first, out| {
        let source = &t.data[first * from..][..out.len() / to * from];
        if t.ty == ty {
            out.copy_from_slice(source);
            return Ok(());
        }
        let mut values = vec![0.0; t.cols()];
        for (i, (source, out)) in source.chunks_exact(from).zip(out.chunks_exact_mut(to)).enumerate() {
            decode_row(t.ty, source, &mut values);
            encode_row(ty, &values, out).map_err(|e| match e {
                EncodeError::NotFinite { index } => gguf.tensor_error(
                    t.name,
                    "a weight is not finite",
                    "numbers",
                    format!("{} in row {}, column {index}", values[index], first + i),
                ),
                other => Error::new(Class::Other, other.to_string()).at(t.name),
            })?;
        }
        Ok(())
    })
}
