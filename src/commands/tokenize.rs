//! `lapwing tokenize`.
use std::io::{Read, Write};
use std::path::PathBuf;

use lapwing_models::gguf::{Gguf, OpenOptions};
use lapwing_models::tokenizer::Tokenizer;
use lapwing_models::{Class, Error};

use super::{ModelArg, Ui};

/// Arguments of `lapwing tokenize`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The text (default: standard input)
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Begin with the token that begins a sequence
    #[arg(long)]
    bos: bool,
    /// Recognise special tokens in the text
    #[arg(long)]
    special: bool,
}

impl Args {
    /// The text to tokenise, byte for byte as given.
    fn text(self) -> anyhow::Result<String> {
        let (name, bytes) = match (self.prompt, self.file) {
            (Some(text), _) => return Ok(text),
            (None, Some(file)) => {
                let bytes =
                    std::fs::read(&file).map_err(|error| Error::io("read the text", &file, &error))?;
                (file, bytes)
            }
            (None, None) => {
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes)?;
                (PathBuf::from("standard input"), bytes)
            }
        };
        Ok(String::from_utf8(bytes).map_err(|error| {
            Error::new(Class::Usage, "the text is not UTF-8")
                .in_file(&name)
                .at(format!("byte {}", error.utf8_error().valid_up_to()))
        })?)
    }
}

/// Runs the command: ids on one line; with `-v` one token a line, with its text; with `-o json` one array.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let file = Gguf::open(args.model.file()?, &OpenOptions::default())?;
    let tokenizer = Tokenizer::from_gguf(&file)?;
    if tokenizer.guessed_pre() {
        ui.notice("the file names no pre-tokeniser; 'default' is assumed, so tokens may be wrong");
    }
    let (bos, special) = (args.bos, args.special);
    let mut ids = Vec::new();
    if bos {
        let id = tokenizer.bos().ok_or_else(|| {
            Error::new(Class::Usage, "the model has no token that begins a sequence")
                .advice("leave --bos out")
        })?;
        ids.push(id);
    }
    ids.extend(tokenizer.encode(&args.text()?, special));
    let mut out = std::io::stdout().lock();
    if ui.json() {
        writeln!(out, "{}", serde_json::to_string(&ids)?)?;
    } else if ui.verbose {
        for &id in &ids {
            // Debug form: a token may hold control characters, or part of a character.
            writeln!(out, "{id}\t{:?}", String::from_utf8_lossy(&tokenizer.token_bytes(id)))?;
        }
    } else {
        let words: Vec<String> = ids.iter().map(u32::to_string).collect();
        writeln!(out, "{}", words.join(" "))?;
    }
    Ok(())
}
