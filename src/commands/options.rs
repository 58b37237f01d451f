//! Options that several commands share (flatten them into a command's `Args`).
use std::path::PathBuf;

use clap::Args;

/// How a model is loaded and computed.
#[derive(Args, Clone, Debug)]
pub struct ModelOptions {
    /// Threads to compute with (default: what this process may really use)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Context length in tokens (default: the model's, at most 4096)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx_size: Option<u32>,
    /// Type of the cache: f16, q8_0 or f32
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub kv_type: String,
    /// LoRA adapter to apply, with its scale (repeatable)
    #[arg(long, value_name = "PATH[=SCALE]")]
    pub lora: Vec<String>,
    /// Read the weights into memory instead of mapping the file
    #[arg(long)]
    pub no_mmap: bool,
    /// Instruction set to force: scalar, portable, avx2, avxvnni, avx512vnni, neon, neon-dotprod, neon-i8mm
    #[arg(long, value_name = "NAME", env = "LAPWING_ISA")]
    pub isa: Option<String>,
}

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
pub struct SamplerOptions {
    /// Tokens to generate at most (default: until the model ends)
    #[arg(short = 'n', long, value_name = "N")]
    pub predict: Option<usize>,
    /// Seed of the random choices (default: a new one each time)
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Temperature; 0 always takes the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.8)]
    pub temp: f32,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Keep the most likely tokens up to this total probability; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Penalty on tokens among the last 64; 1 is none
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repeat_penalty: f32,
}

/// A model named on the command line: a path, or a name looked up in the model folders.
#[derive(Args, Clone, Debug)]
pub struct ModelArg {
    /// Model file, or the name of one in $LAPWING_MODELS or the XDG data folder
    pub model: PathBuf,
}

impl ModelArg {
    /// The file meant.
    ///
    /// # Errors
    /// A usage error when no file, or more than one, has that name.
    pub fn file(&self) -> lapwing_models::Result<PathBuf> {
        super::find::model(&self.model)
    }
}
