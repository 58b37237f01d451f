//! Options that several commands share (flatten them into a command's `Args`).
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use lapwing::engine::Engine;
use lapwing::sampler::{Param, Preset, Settings, params};
use lapwing::session::Limits;

use super::load::FormFile;

/// How a model is loaded and computed.
#[derive(Args, Clone, Debug, Default)]
pub struct ModelOptions {
    /// Threads to compute with (default: what this process may really use)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Context length in tokens (default: the model's, at most 4096)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx_size: Option<u32>,
    /// Type of the cache: f16, q8_0 or f32 (default: f16)
    #[arg(long, value_name = "TYPE")]
    pub kv_type: Option<String>,
    /// LoRA adapter to apply, with its scale, or the name of a stack in the settings (repeatable)
    #[arg(long, value_name = "PATH[=SCALE]")]
    pub lora: Vec<String>,
    /// Read the weights into memory instead of mapping the file
    #[arg(long)]
    pub no_mmap: bool,
    /// Instruction set to force: scalar, portable, avx2, avxvnni, avx512vnni, neon, neon-dotprod, neon-i8mm
    #[arg(long, value_name = "NAME", env = "LAPWING_ISA")]
    pub isa: Option<String>,
}

/// How tokens are chosen: one option for each parameter that a sampler registers, so that a new sampler is on the
/// command line without a line here.
#[derive(Clone, Debug, Default)]
pub struct SamplerOptions {
    /// Most tokens to generate; `None` is until the model ends.
    pub predict: Option<usize>,
    /// Parameters given, by name.
    given: Vec<(&'static str, Vec<String>)>,
}

impl SamplerOptions {
    /// Takes these for what was not given.
    pub fn prefer(&mut self, others: Vec<(&'static str, Vec<String>)>) {
        let new = |name| !self.given.iter().any(|(given, _)| *given == name);
        let others: Vec<_> = others.into_iter().filter(|(name, _)| new(*name)).collect();
        self.given.extend(others);
    }

    /// `base` with what was given on the command line.
    ///
    /// # Errors
    /// A usage error on a value that does not fit.
    pub fn apply(&self, mut base: Settings) -> lapwing_models::Result<Settings> {
        for (name, texts) in &self.given {
            match texts.as_slice() {
                [one] => base.set(name, one)?,
                several => base.set_texts(name, several.to_vec())?,
            }
        }
        Ok(base)
    }
}

impl Args for SamplerOptions {
    fn augment_args(command: clap::Command) -> clap::Command {
        let predict = Arg::new("predict")
            .short('n')
            .long("predict")
            .alias("n-predict")
            .value_name("N")
            .value_parser(clap::value_parser!(usize))
            .help("Tokens to generate at most (default: until the model ends)");
        params()
            .map(sampler_arg)
            .fold(command.arg(predict), |command, arg| command.arg(arg.help_heading("Sampling")))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// The option of one sampler parameter.
fn sampler_arg(param: &'static Param) -> Arg {
    let arg = Arg::new(param.name)
        .long(param.name)
        .aliases(param.aliases.iter().copied())
        .help(format!("{} [default: {}]", param.help, param.default_value()))
        // Kept as text: the settings parse it again, with the same words for what is wrong.
        .value_parser(|text: &str| match param.parse(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(format!("expected {}", error.expected)),
        });
    match param.preset {
        Preset::Int(_, least, _) => arg.value_name("N").allow_negative_numbers(least < 0),
        Preset::Float(_, least, _) => arg.value_name("X").allow_negative_numbers(least < 0.0),
        Preset::Seed => arg.short('s').value_name("N").allow_negative_numbers(true),
        Preset::Order => arg.value_name("NAMES"),
        Preset::Texts(_) if param.name == "logit-bias" => {
            arg.short('l').value_name("ID+X").action(ArgAction::Append)
        }
        Preset::Texts(_) => arg.value_name("TEXT").action(ArgAction::Append).allow_hyphen_values(true),
    }
}

impl FromArgMatches for SamplerOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |param: &'static Param| {
            let texts: Vec<String> = matches.get_many(param.name)?.cloned().collect();
            Some((param.name, texts))
        };
        Ok(Self { predict: matches.get_one("predict").copied(), given: params().filter_map(given).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What an answer may be, and where it ends.
#[derive(Args, Clone, Debug)]
pub struct AnswerOptions {
    /// End answers where this text comes, without it (repeatable)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on when the model ends its answer
    #[arg(long)]
    ignore_eos: bool,
    // The two are one setting of a chat, named by their group.
    /// File with a JSON schema: answers are JSON that it allows, and whole
    #[arg(long, alias = "json-schema-file", value_name = "FILE", group = "schema")]
    json_schema: Option<PathBuf>,
    /// File with a grammar for the answers, in GBNF or Lark
    #[arg(long, alias = "grammar-file", value_name = "FILE", group = "schema")]
    grammar: Option<PathBuf>,
    /// Guess ahead what the text has said before: faster where answers quote it, and never another answer
    #[arg(long)]
    lookup: bool,
}

impl AnswerOptions {
    /// The file with the JSON schema or the grammar of the answers.
    pub fn form(&self) -> Option<&Path> {
        self.json_schema.as_deref().or(self.grammar.as_deref())
    }

    /// The schema or the grammar, which is being compiled while the caller loads a model.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn compile(&self) -> lapwing_models::Result<Option<FormFile>> {
        match (&self.json_schema, &self.grammar) {
            (Some(file), _) => FormFile::json_schema(file).map(Some),
            (None, Some(file)) => FormFile::grammar(file).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The limits of answers of `predict` tokens at most, which have the form that was compiled.
    ///
    /// # Errors
    /// When the schema or the grammar cannot be used.
    pub fn limits(
        &self,
        engine: &Arc<Engine>,
        form: Option<FormFile>,
        predict: Option<usize>,
    ) -> lapwing_models::Result<Limits> {
        let grammar = form.map(|form| form.grammar_for(engine)).transpose()?;
        let (stops, ignore_eos, lookup) = (self.stop.clone(), self.ignore_eos, self.lookup);
        Ok(Limits { predict, ignore_eos, stops, grammar, lookup, ..Limits::default() })
    }
}

/// How turns become the model's prompt.
#[derive(Args, Clone, Debug)]
pub struct TemplateOptions {
    /// File with a chat template (Jinja) to use in place of the model's own
    #[arg(long, value_name = "FILE")]
    pub chat_template_file: Option<PathBuf>,
    /// Variables for the chat template, as a JSON object, such as '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub chat_template_kwargs: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What the command line itself says, whatever its options are: flatten it in before them.
#[derive(Clone, Debug, Default)]
pub struct Given(Vec<String>);

impl Given {
    /// Whether the option of this name, without its dashes, or one of the group of this name was given.
    pub fn has(&self, option: &str) -> bool {
        self.0.iter().any(|given| given == option)
    }
}

impl Args for Given {
    fn augment_args(command: clap::Command) -> clap::Command {
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        command
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        // What a field of an options struct is called with underscores.
        Ok(Self(matches.ids().filter(given).map(|id| id.as_str().replace('_', "-")).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn json_object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))
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
