//! The settings file: `lapwing/config.toml` in the XDG configuration folder, or the file that `$LAPWING_CONFIG` names.
//! Options on the command line win over it; what it says of one model wins over what it says of all.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lapwing::sampler::Settings;
use lapwing_models::{Class, Error, Result};
use serde::Deserialize;

use super::{ModelOptions, SamplerOptions};

/// All that may be set. Everything has a default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The model to chat with when none is named: a file, or a name.
    pub model: Option<String>,
    /// Folders of models, besides those in `$LAPWING_MODELS` and before the XDG data folder.
    pub model_folders: Vec<PathBuf>,
    /// Whether what is typed is kept for the next chat.
    pub history: bool,
    /// Whether chats are saved after each answer.
    pub autosave: bool,
    /// Whether saved chats keep what was computed.
    pub save_cache: bool,
    /// What to do when a conversation no longer fits.
    pub when_full: Option<String>,
    /// For all models.
    pub defaults: Named,
    /// For models by the names that are given to them here.
    pub models: BTreeMap<String, Named>,
    /// Stacks of adapters by name, each of `PATH` or `PATH=SCALE`.
    pub stacks: BTreeMap<String, Vec<String>>,
}

/// What may be set for one model.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Named {
    /// Its file, or the name that its file has in a model folder.
    pub file: Option<PathBuf>,
    /// Threads to compute with.
    pub threads: Option<u16>,
    /// Context in tokens.
    pub ctx_size: Option<u32>,
    /// Type of the cache.
    pub kv_type: Option<String>,
    /// Adapters: paths with or without a scale, or names of stacks.
    pub lora: Vec<String>,
    /// Instructions to the model.
    pub system: Option<String>,
    /// Tokens of an answer at most.
    pub predict: Option<usize>,
    /// Parameters of samplers, by the names of their options.
    pub sampling: toml::Table,
}

impl Config {
    /// The settings of this user.
    ///
    /// # Errors
    /// When there is a file, and it is not what it should be.
    pub fn get() -> Result<&'static Self> {
        static READ: OnceLock<Result<Config>> = OnceLock::new();
        READ.get_or_init(Self::read).as_ref().map_err(Clone::clone)
    }

    fn read() -> Result<Self> {
        let asked = std::env::var_os("LAPWING_CONFIG").map(PathBuf::from);
        let Some(path) = asked.clone().or_else(|| Some(super::folders::config_folder()?.join("config.toml")))
        else {
            return Ok(Self::default());
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path),
            // Nobody needs to have one, unless it was asked for.
            Err(error) if asked.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(error) => Err(Error::io("read the settings", &path, &error)),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut config: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::bad_file(format!("the settings cannot be read: {}", error.message().replace('\n', " ")))
                .in_file(path)
                .at(line.map_or(String::new(), |line| format!("line {line}")))
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.model_folders.iter_mut().for_each(|path| *path = absolute(path, folder));
        for named in config.models.values_mut().chain([&mut config.defaults]) {
            // A bare name is looked for in the model folders.
            if let Some(file) = named.file.as_mut().filter(|file| file.components().count() > 1) {
                *file = absolute(file, folder);
            }
            check_sampling(&named.sampling).map_err(|error| error.in_file(path))?;
        }
        for adapter in config.stacks.values_mut().flatten() {
            *adapter = absolute(Path::new(adapter), folder).to_string_lossy().into_owned();
        }
        Ok(config)
    }

    /// What is set for the model of this name.
    pub fn named(&self, name: &Path) -> Option<&Named> {
        self.models.get(name.to_str()?)
    }

    /// The adapters that the texts of `--lora` mean: a stack's, where one has that name and no file does.
    pub fn adapters(&self, texts: &[String]) -> Vec<String> {
        let meant = |text: &String| match self.stacks.get(text).filter(|_| !Path::new(text).exists()) {
            Some(stack) => stack.clone(),
            None => vec![text.clone()],
        };
        texts.iter().flat_map(meant).collect()
    }
}

/// `path` as seen from the folder of the settings; `~` is home.
fn absolute(path: &Path, folder: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => folder.join(path),
    }
}

/// What the samplers are set to, each value as it would be typed.
fn sampling(table: &toml::Table) -> Result<Vec<(&'static str, Vec<String>)>> {
    let text = |value: &toml::Value| match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(n) => n.to_string(),
        toml::Value::Float(x) => x.to_string(),
        toml::Value::Boolean(on) => on.to_string(),
        // No parameter takes such a thing; its name in the message says more than its content.
        other => other.type_str().to_owned(),
    };
    let one = |(name, value): (&String, &toml::Value)| {
        let texts = match value {
            toml::Value::Array(values) => values.iter().map(text).collect(),
            value => vec![text(value)],
        };
        Settings::param(name).map(|param| (param.name, texts))
    };
    table.iter().map(one).collect()
}

fn check_sampling(table: &toml::Table) -> Result<()> {
    let applied = sampling(table).and_then(|values| {
        let mut options = SamplerOptions::default();
        options.prefer(values);
        options.apply(Settings::default())
    });
    applied.map(drop).map_err(|error| Error { class: Class::BadFile, ..error }.at("sampling"))
}

impl ModelOptions {
    /// These options, and where nothing was given, those of `named`, then those of all models.
    ///
    /// # Errors
    /// What is wrong with the settings file.
    pub fn or_config(mut self, named: Option<&Named>) -> Result<Self> {
        let config = Config::get()?;
        for named in named.into_iter().chain([&config.defaults]) {
            self.threads = self.threads.or(named.threads);
            self.ctx_size = self.ctx_size.or(named.ctx_size);
            self.kv_type = self.kv_type.or_else(|| named.kv_type.clone());
            if self.lora.is_empty() {
                self.lora.clone_from(&named.lora);
            }
        }
        self.lora = config.adapters(&self.lora);
        Ok(self)
    }
}

impl SamplerOptions {
    /// Likewise.
    ///
    /// # Errors
    /// What is wrong with the settings file.
    pub fn or_config(mut self, named: Option<&Named>) -> Result<Self> {
        let config = Config::get()?;
        for named in named.into_iter().chain([&config.defaults]) {
            self.predict = self.predict.or(named.predict);
            self.prefer(sampling(&named.sampling)?);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new("/etc/lapwing/config.toml"))
    }

    #[test]
    fn settings_are_read() {
        let config = parse(
            r#"
            model = "coder"
            history = true
            model-folders = ["/models", "more"]
            [defaults]
            ctx-size = 8192
            sampling = { temp = 0.5, top-k = 20 }
            [models.coder]
            file = "qwen2.5-coder"
            lora = ["voice"]
            system = "Be brief."
            sampling = { temp = 0, dry-sequence-breaker = ["a", "b"] }
            [stacks]
            voice = ["bard=0.5", "/lora/json"]
            "#,
        );
        let config = config.unwrap();
        assert_eq!((config.defaults.ctx_size, config.history, config.autosave), (Some(8192), true, false));
        assert_eq!(config.model_folders, [Path::new("/models"), Path::new("/etc/lapwing/more")]);
        let coder = config.named(Path::new("coder")).unwrap();
        assert_eq!(coder.file.as_deref(), Some(Path::new("qwen2.5-coder")));
        assert_eq!(config.adapters(&coder.lora), ["/etc/lapwing/bard=0.5", "/lora/json"]);
        assert_eq!(config.adapters(&["x=2".to_owned()]), ["x=2"]);
        let texts = sampling(&coder.sampling).unwrap();
        assert!(texts.contains(&("temp", vec!["0".to_owned()])), "{texts:?}");
        assert!(texts.iter().any(|(name, texts)| *name == "dry-sequence-breaker" && texts.len() == 2));
        assert!(parse("").is_ok());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, words) in [
            ("a = ", "line 1"),
            ("\ncolour = 1", "colour"),
            ("[defaults]\nctx-size = \"big\"", "line 2"),
            ("history = true\n[defaults]\nthreads = -1", "line 3"),
            ("[defaults.sampling]\ntmep = 1", "did you mean temp?"),
            ("[defaults.sampling]\ntop-p = 7", "0 to 1"),
            ("[models.x]\nsampling = { top-k = \"many\" }", "top-k"),
            ("[models.x]\nctxsize = 1", "ctxsize"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.class, Class::BadFile, "{text}: {error}");
            let line = error.to_string();
            assert!(line.contains("config.toml") && line.contains(words), "{text}: {line}");
        }
    }
}
