//! `lapwing quantize`: a model in another type. f32 gives the exact values of any other.
use std::path::PathBuf;

use lapwing_kernels::TensorType;
use lapwing_kernels::format::{EncodeError, decode_row, encode_row};
use lapwing_kernels::team::Team;
use lapwing_models::cancel::Cancel;
use lapwing_models::gguf::{Gguf, OpenOptions, Tensor};
use lapwing_models::lora::{Change, Combined, EMBEDDING, OUTPUT};
use lapwing_models::mix::Mix;
use lapwing_models::{Class, Error, Result};

use super::interrupt::Interrupt;
use super::output_file::{self, Target};
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
pub fn mix(name: &str) -> std::result::Result<Mix, String> {
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
    let cancel = Interrupt::install()?.into_cancel();
    let (paths, bytes) = write(&gguf, args.mix, &args.target, None, ui, &cancel)?;
    output_file::report(&paths, bytes, args.mix.name(), ui);
    Ok(())
}

/// Writes the model in `gguf`, with a stack merged into it if there is one, to `target`. Gives the files, and the bytes
/// of all tensors.
pub fn write(
    gguf: &Gguf,
    mix: Mix,
    target: &Target,
    stack: Option<(&Combined<'_>, &Team)>,
    ui: &Ui,
    cancel: &Cancel,
) -> Result<(Vec<PathBuf>, u64)> {
    let mut writer = target.writer();
    for (key, value) in gguf.entries() {
        writer.set(key, value.clone());
    }
    writer.set("general.file_type", mix.file_type());
    writer.set("general.quantization_version", 2u32);

    let arch = gguf.architecture().unwrap_or_default();
    let layers = gguf.opt_u32(&format!("{arch}.block_count"))?.unwrap_or(0) as usize;
    let mut tensors: Vec<(&str, Tensor<'_>)> = gguf.tensors().map(|t| (t.name, t)).collect();
    let changed = |name: &str| stack.is_some_and(|(stack, _)| stack.ranks().contains_key(name));
    let mut tied = gguf.tensor(OUTPUT).is_none();
    if tied
        && (changed(EMBEDDING) || changed(OUTPUT))
        && let Some(embedding) = gguf.tensor(EMBEDDING)
    {
        // Changed alone, the embedding and the output are no longer the same matrix.
        tensors.push((OUTPUT, embedding));
        tied = false;
    }
    let target_type = |name: &str, t: &Tensor<'_>| {
        let ty = mix.type_of(name, t.shape, layers, tied);
        if stack.is_some() && !changed(name) && t.ty.is_quantised() && ty.is_quantised() {
            // Merging is no reason to round again what is not changed.
            return t.ty;
        }
        // What does not fit the type asked for stays as exact as it is.
        if can_encode(ty) { ty } else { TensorType::F16 }
    };
    for (name, t) in &tensors {
        writer.tensor(name, target_type(name, t), t.shape)?;
    }
    let mut rows = target.rows(writer, ui, cancel)?;
    for (name, t) in &tensors {
        let change = stack.and_then(|(stack, team)| stack.change(team, name));
        convert(&mut rows, gguf, t, target_type(name, t), change.as_ref())?;
    }
    // Nothing may take its place that was made of two states of the source.
    gguf.check_unchanged()?;
    rows.finish()
}

fn convert(
    rows: &mut output_file::Rows,
    gguf: &Gguf,
    t: &Tensor<'_>,
    ty: TensorType,
    change: Option<&Change>,
) -> Result<()> {
    let sizes = || Some((t.ty.row_bytes(t.cols())?, ty.row_bytes(t.cols())?));
    let (from, to) =
        sizes().ok_or_else(|| Error::new(Class::Other, "a row is not whole blocks").at(t.name))?;
    rows.tensor(t.rows(), to, |first, out| {
        let source = &t.data[first * from..][..out.len() / to * from];
        if t.ty == ty && change.is_none() {
            out.copy_from_slice(source);
            return Ok(());
        }
        let mut values = vec![0.0; t.cols()];
        for (i, (source, out)) in source.chunks_exact(from).zip(out.chunks_exact_mut(to)).enumerate() {
            decode_row(t.ty, source, &mut values);
            if let Some(change) = change {
                change.apply(first + i, &mut values);
            }
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
