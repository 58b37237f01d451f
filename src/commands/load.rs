//! From options to a loaded engine, its sampler settings and its chat template.
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapwing::constraint::{Form, Grammar};
use lapwing::cost::Memory;
use lapwing::engine::{Engine, EngineOptions, parse_isa};
use lapwing::sampler::Settings;
use lapwing::saved::SavedTemplate;
use lapwing::session::{Session, SessionOptions, default_context};
use lapwing_kernels::TensorType;
use lapwing_kernels::team::Team;
use lapwing_models::chat_template::ChatTemplate;
use lapwing_models::kv_cache::{KvCache, KvType};
use lapwing_models::lora::{Adapter, DEFAULT_FACTORS, Stack, check_scale};
use lapwing_models::model::Model;
use lapwing_models::{Class, Error, Result, os};

use super::folders::absolute;
use super::ui::size;
use super::{ModelOptions, SamplerOptions, TemplateOptions, Ui};

/// The model at `path`, loaded as asked.
pub fn engine(path: &Path, options: &ModelOptions) -> Result<Arc<Engine>> {
    Engine::open(path, &options.engine()?)
}

impl ModelOptions {
    /// How to load and compute.
    pub fn engine(&self) -> Result<EngineOptions> {
        Ok(EngineOptions {
            threads: self.threads.map(usize::from),
            isa: self.isa.as_deref().map(parse_isa).transpose()?,
            no_mmap: self.no_mmap,
        })
    }

    /// The shape of a session.
    pub fn session(&self) -> Result<SessionOptions> {
        let kv_type = kv_type(self.kv_type.as_deref().unwrap_or("f16"))?;
        Ok(SessionOptions {
            context: self.ctx_size.map(|n| n as usize),
            kv_type,
            ..SessionOptions::default()
        })
    }
}

/// The cache type of this name.
pub fn kv_type(name: &str) -> Result<KvType> {
    KvType::from_name(name).ok_or_else(|| {
        let known: Vec<_> = KvType::ALL.iter().map(|ty| ty.name()).collect();
        Error::new(Class::Usage, "unknown cache type").expected_got(known.join(", "), name)
    })
}

/// A model in a few words: architecture, size and type.
pub fn model_type(model: &Model) -> String {
    let mut by_type: Vec<(TensorType, usize)> = Vec::new();
    let mut params = 0;
    for tensor in model.gguf().tensors() {
        params += tensor.len();
        match by_type.iter_mut().find(|(ty, _)| *ty == tensor.ty) {
            Some((_, n)) => *n += tensor.len(),
            None => by_type.push((tensor.ty, tensor.len())),
        }
    }
    let most = by_type.iter().max_by_key(|(_, n)| *n).map_or("", |(ty, _)| ty.name());
    let size = match params {
        0..1_000_000_000 => format!("{}M", (params as f64 / 1e6).round()),
        _ => format!("{:.1}B", params as f64 / 1e9),
    };
    format!("{} {size} {most}", model.spec().architecture)
}

/// The adapters named on the command line, each `PATH` or `PATH=SCALE`.
pub fn adapters(named: &[String]) -> Result<Vec<(Adapter, f32)>> {
    let open = |text: &String| {
        let (path, scale) = path_and_scale(text);
        check_scale(scale)?;
        Ok((Adapter::open(path)?, scale))
    };
    named.iter().map(open).collect()
}

/// The adapters fitted to `model`, their factors kept as `ty`.
pub fn stack_of(model: &Model, team: &Team, adapters: &[(Adapter, f32)], ty: TensorType) -> Result<Stack> {
    let mut stack = Stack::default();
    for (adapter, scale) in adapters {
        stack.add(&adapter.name, Arc::new(model.fit(adapter.clone(), ty, team)?), *scale)?;
    }
    Ok(stack)
}

/// The adapters named on the command line, fitted to `model`.
pub fn stack(model: &Model, team: &Team, named: &[String]) -> Result<Stack> {
    stack_of(model, team, &adapters(named)?, DEFAULT_FACTORS)
}

/// Splits `PATH=SCALE`; a path may hold `=`, so only a number behind the last one is a scale.
pub fn path_and_scale(text: &str) -> (&Path, f32) {
    match text.rsplit_once('=') {
        Some((path, scale)) if !Path::new(text).exists() => match scale.parse() {
            Ok(scale) => (Path::new(path), scale),
            Err(_) => (Path::new(text), 1.0),
        },
        _ => (Path::new(text), 1.0),
    }
}

/// A session with the adapters asked for. What it will need of memory is said where that is short, and with `-v`.
pub fn session(engine: &Arc<Engine>, options: &ModelOptions, ui: &Ui) -> Result<Session> {
    let stack = stack(engine.model(), engine.team(), &options.lora)?;
    estimate(engine, options, &stack, ui)?;
    let mut session = Session::new(engine.clone(), &options.session()?)?;
    session.set_stack(stack);
    Ok(session)
}

/// Says before anything is computed what it will need.
fn estimate(engine: &Engine, options: &ModelOptions, stack: &Stack, ui: &Ui) -> Result<()> {
    let model = engine.model();
    let session = options.session()?;
    let context = session.context.unwrap_or_else(|| default_context(model.spec()));
    let adapters = stack.entries().iter().map(|entry| entry.fitted.bytes()).sum();
    let needs = Memory::estimate(model, session.kv_type, context, session.batch.min(context), adapters);
    // A cache that cannot be had is refused by the session, in words of its own.
    let Some(free) = os::available_memory().filter(|&free| needs.cache <= free) else { return Ok(()) };
    let advice = needs.advice(free);
    if !ui.quiet && (ui.verbose || advice.is_some()) {
        let mut smaller = KvType::ALL.iter().filter(|&&ty| {
            let bytes = |ty| KvCache::bytes_for(model.spec(), ty, context);
            bytes(ty) < bytes(session.kv_type)
        });
        let smaller = smaller.next().filter(|_| advice.is_some());
        let smaller = smaller.map_or(String::new(), |ty| format!("; --kv-type {ty} makes the cache smaller"));
        let advice = advice.map_or(String::new(), |advice| format!(": {advice}"));
        eprintln!(
            "lapwing: memory: {} weights, {} cache for {context} tokens, {} adapters, {} buffers; {} free{advice}{smaller}",
            size(needs.weights),
            size(needs.cache),
            size(needs.adapters),
            size(needs.buffers),
            size(free)
        );
    }
    Ok(())
}

/// Sampler settings: the defaults, then what the model's file recommends, then what was asked for. What the file
/// recommends and cannot be used is said.
pub fn settings(engine: &Engine, options: &SamplerOptions, ui: &Ui) -> Result<Settings> {
    let (base, ignored) = Settings::of_model(engine.model().gguf());
    if !ui.quiet {
        ignored.iter().for_each(|error| eprintln!("lapwing: {}", lapwing::text::safe(&error.to_string())));
    }
    options.apply(base)
}

/// The JSON schema or the grammar in a file, which is being compiled.
pub struct FormFile {
    form: Form,
    file: PathBuf,
}

impl FormFile {
    /// A JSON schema.
    pub fn json_schema(file: &Path) -> Result<Self> {
        Self::new(file, Form::json_schema(&text(file, "read the JSON schema")?))
    }

    /// A grammar.
    pub fn grammar(file: &Path) -> Result<Self> {
        Self::new(file, Form::text(&text(file, "read the grammar")?))
    }

    /// Either: a schema begins with a brace, and no grammar does.
    pub fn either(file: &Path) -> Result<Self> {
        let text = text(file, "read the schema")?;
        let schema = text.trim_start().starts_with('{');
        Self::new(file, if schema { Form::json_schema(&text) } else { Form::text(&text) })
    }

    fn new(file: &Path, form: Result<Form>) -> Result<Self> {
        Ok(Self { form: form.map_err(|error| error.in_file(file))?, file: file.to_path_buf() })
    }

    /// Compiled for the model of `engine`.
    pub fn grammar_for(self, engine: &Arc<Engine>) -> Result<Grammar> {
        Grammar::new(engine, self.form).map_err(|error| error.in_file(&self.file))
    }
}

/// The text of a file that may be anything: at most a little more than any use of it allows.
fn text(file: &Path, doing: &str) -> Result<String> {
    let failed = |error| Error::io(doing, file, &error);
    let mut text = String::new();
    let open = std::fs::File::open(file).map_err(failed)?;
    open.take(lapwing::constraint::LONGEST as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// The text of a file with a chat template.
pub fn template_text(file: &Path) -> Result<String> {
    text(file, "read the chat template")
}

impl TemplateOptions {
    /// What is asked for, its file read.
    pub fn chosen(self) -> Result<SavedTemplate> {
        let read = |path: PathBuf| template_text(&path).map(|text| (absolute(&path), text));
        Ok(SavedTemplate {
            file: self.chat_template_file.map(read).transpose()?,
            variables: self.chat_template_kwargs.unwrap_or_default(),
        })
    }
}

/// The chat template that is chosen, or one that works in place of the model's own; that is said.
pub fn template(engine: &Engine, chosen: &SavedTemplate, ui: &Ui) -> Result<ChatTemplate> {
    let model = engine.model();
    let mut template = match &chosen.file {
        // Who names a template wants that one or none.
        Some((file, text)) => {
            ChatTemplate::new(text, model.tokenizer()).map_err(|error| error.in_file(file))?
        }
        None => ChatTemplate::for_model(model.chat_template_source()?, model.tokenizer())?,
    };
    for (name, value) in &chosen.variables {
        template.set_variable(name, value.clone());
    }
    if let Some(why) = template.fallback()
        && !ui.quiet
    {
        eprintln!("lapwing: {}", lapwing::text::safe(why));
    }
    Ok(template)
}
