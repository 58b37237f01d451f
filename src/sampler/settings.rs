//! What the samplers are set to, by name.
use std::collections::BTreeMap;

use lapwing_models::gguf::Gguf;
use lapwing_models::{Class, Error, Result};

use super::{KINDS, Kind, Place};

/// One parameter of a sampler.
#[derive(Debug)]
pub struct Param {
    /// Name as in `--top-k` and `/set top-k`.
    pub name: &'static str,
    /// Other names it answers to, among them its `general.sampling.*` key where that differs.
    pub aliases: &'static [&'static str],
    /// One line for `--help`.
    pub help: &'static str,
    /// Its default, and what it may be.
    pub preset: Preset,
}

/// Default and bounds of a parameter.
#[derive(Clone, Copy, Debug)]
pub enum Preset {
    /// A whole number: default, least, greatest.
    Int(i64, i64, i64),
    /// A number: default, least, greatest.
    Float(f32, f32, f32),
    /// Texts, any number of them.
    Texts(&'static [&'static str]),
    /// The seed of the random choices: a whole number, or `random` (the default) for a new one each time.
    Seed,
    /// Names of listed samplers joined by `;`, in the order in which they are applied.
    Order,
}

/// What a seed is called that nobody chose.
const RANDOM: &str = "random";

/// Parameters of the chain as a whole.
static CHAIN_PARAMS: [Param; 2] = [
    Param {
        name: "samplers",
        aliases: &["sequence"],
        help: "Samplers to apply, in order, joined by `;`",
        preset: Preset::Order,
    },
    Param { name: "seed", aliases: &[], help: "Seed of the random choices", preset: Preset::Seed },
];

/// Every parameter: of the chain, then of each sampler in the order of [`KINDS`].
pub fn params() -> impl Iterator<Item = &'static Param> + Clone {
    CHAIN_PARAMS.iter().chain(KINDS.iter().flat_map(|kind| kind.params))
}

/// A value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f32),
    /// Texts.
    Texts(Vec<String>),
    /// A seed; `None` is a new one each time.
    Seed(Option<u64>),
    /// Names of samplers.
    Order(Vec<&'static str>),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Texts(texts) => write!(f, "{texts:?}"),
            Value::Seed(None) => f.write_str(RANDOM),
            Value::Seed(Some(seed)) => write!(f, "{seed}"),
            Value::Order(names) => f.write_str(&names.join(";")),
        }
    }
}

impl Param {
    /// The default value.
    pub fn default_value(&self) -> Value {
        match self.preset {
            Preset::Int(default, ..) => Value::Int(default),
            Preset::Float(default, ..) => Value::Float(default),
            Preset::Texts(texts) => Value::Texts(texts.iter().map(|&t| t.to_owned()).collect()),
            Preset::Seed => Value::Seed(None),
            Preset::Order => Value::Order(listed().map(|kind| kind.name).collect()),
        }
    }

    /// Whether `name` means this parameter (`-` and `_` are one letter).
    pub fn answers_to(&self, name: &str) -> bool {
        let same = |known: &str| {
            known.len() == name.len()
                && known.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'-' && b == b'_'))
        };
        same(self.name) || self.aliases.iter().any(|alias| same(alias))
    }

    /// What its values may be, in words: `a number from 0 to 1`.
    pub fn range(&self) -> String {
        match self.preset {
            Preset::Int(_, least, greatest) if greatest == i64::from(i32::MAX) => {
                format!("a whole number of at least {least}")
            }
            Preset::Int(_, least, greatest) => format!("a whole number from {least} to {greatest}"),
            Preset::Float(_, f32::MIN, f32::MAX) => "a number".to_owned(),
            Preset::Float(_, f32::MIN_POSITIVE, f32::MAX) => "a number above 0".to_owned(),
            Preset::Float(_, least, f32::MAX) => format!("a number of at least {least}"),
            Preset::Float(_, least, greatest) => format!("a number from {least} to {greatest}"),
            Preset::Texts(_) => "text, or none".to_owned(),
            Preset::Seed => format!("a whole number, or {RANDOM}"),
            Preset::Order => {
                format!("some of {}", listed().map(|kind| kind.name).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// Reads a value from `text`.
    ///
    /// # Errors
    /// A usage error when it is not of this parameter's sort, or out of bounds.
    pub fn parse(&self, text: &str) -> Result<Value> {
        let value = match self.preset {
            Preset::Int(_, least, greatest) => {
                text.parse().ok().filter(|value| (least..=greatest).contains(value)).map(Value::Int)
            }
            Preset::Float(_, least, greatest) => {
                text.parse().ok().filter(|value| (least..=greatest).contains(value)).map(Value::Float)
            }
            Preset::Texts(_) if text == "none" => Some(Value::Texts(Vec::new())),
            Preset::Texts(_) => Some(Value::Texts(vec![text.to_owned()])),
            // llama.cpp's word for it is -1.
            Preset::Seed if text == RANDOM || text == "-1" => Some(Value::Seed(None)),
            Preset::Seed => text.parse().ok().map(|seed| Value::Seed(Some(seed))),
            Preset::Order => {
                let names = text.split(';').map(str::trim).filter(|name| !name.is_empty());
                return names.map(sampler).collect::<Result<_>>().map(Value::Order);
            }
        };
        value.ok_or_else(|| {
            Error::new(Class::Usage, format!("bad value for {}", self.name)).expected_got(self.range(), text)
        })
    }
}

/// The name of the listed sampler that `name` means, by llama.cpp's own aliases too.
fn sampler(name: &str) -> Result<&'static str> {
    let canonical = match name {
        "temp" => "temperature".to_owned(),
        "nucleus" => "top_p".to_owned(),
        "typ" | "typical" | "typical_p" | "typical-p" => "typ_p".to_owned(),
        other => other.replace('-', "_"),
    };
    listed().find(|kind| kind.name == canonical).map(|kind| kind.name).ok_or_else(|| {
        let known = listed().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
        Error::new(Class::Usage, "unknown sampler").expected_got(format!("some of {known}"), name)
    })
}

/// The samplers that the order may name.
fn listed() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().copied().filter(|kind| kind.place == Place::Listed)
}

/// Values of all parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { values: params().map(|param| (param.name, param.default_value())).collect() }
    }
}

impl Settings {
    /// The defaults with what a model's file recommends under `general.sampling.*`, and an error for each of those
    /// keys that holds no such value, and was passed over.
    pub fn of_model(gguf: &Gguf) -> (Self, Vec<Error>) {
        let mut settings = Self::default();
        let mut ignored = Vec::new();
        for param in params() {
            for name in [param.name].iter().chain(param.aliases) {
                let key = format!("general.sampling.{}", name.replace('-', "_"));
                let Some(value) = gguf.get(&key) else { continue };
                let text = match (value.as_str(), value.as_int(), value.as_f32(), param.preset) {
                    (Some(text), ..) => text.to_owned(),
                    (_, Some(n), ..) => n.to_string(),
                    // Converters write some whole numbers as floats.
                    (_, _, Some(x), Preset::Int(..)) if x.fract() == 0.0 => (x as i64).to_string(),
                    (_, _, Some(x), _) => x.to_string(),
                    _ => "something else".to_owned(),
                };
                if let Err(error) = settings.set(param.name, &text) {
                    ignored.push(
                        Error::bad_file("the model's own sampler setting is ignored")
                            .in_file(gguf.path())
                            .at(format!("key {key}"))
                            .expected_got(error.expected, error.got),
                    );
                }
            }
        }
        (settings, ignored)
    }

    /// The parameter that `name` means.
    ///
    /// # Errors
    /// A usage error that names the nearest parameter when there is none.
    pub fn param(name: &str) -> Result<&'static Param> {
        params().find(|param| param.answers_to(name)).ok_or_else(|| {
            let names = params().map(|param| param.name);
            let nearest = crate::text::nearest(name, names).map(|near| format!("did you mean {near}?"));
            Error::new(Class::Usage, format!("no setting named {name}")).advice(nearest.unwrap_or_default())
        })
    }

    /// Sets the parameter that `name` means from text.
    ///
    /// # Errors
    /// A usage error when there is no such parameter, or the value does not fit it.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let param = Self::param(name)?;
        let value = param.parse(text)?;
        self.put(param, value)
    }

    /// Sets a parameter of texts to several.
    ///
    /// # Errors
    /// A usage error when there is no such parameter or it takes one number.
    pub fn set_texts(&mut self, name: &str, texts: Vec<String>) -> Result<()> {
        let param = Self::param(name)?;
        if !matches!(param.preset, Preset::Texts(_)) {
            return Err(Error::new(Class::Usage, format!("{} takes one number", param.name)));
        }
        self.put(param, Value::Texts(texts))
    }

    fn put(&mut self, param: &Param, value: Value) -> Result<()> {
        if let (Value::Texts(texts), "logit-bias") = (&value, param.name) {
            texts.iter().try_for_each(|text| super::logit_bias::parse(text).map(drop))?;
        }
        self.values.insert(param.name, value);
        Ok(())
    }

    /// The value of a parameter by its exact name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// The number that a parameter has; whole numbers too. 0 for a name that no sampler has.
    pub fn float(&self, name: &str) -> f32 {
        match self.get(name) {
            Some(Value::Float(value)) => *value,
            Some(Value::Int(value)) => *value as f32,
            _ => 0.0,
        }
    }

    /// The whole number that a parameter has; 0 for a name that no sampler has.
    pub fn int(&self, name: &str) -> i64 {
        match self.get(name) {
            Some(Value::Int(value)) => *value,
            _ => 0,
        }
    }

    /// The texts that a parameter has.
    pub fn texts(&self, name: &str) -> &[String] {
        match self.get(name) {
            Some(Value::Texts(texts)) => texts,
            _ => &[],
        }
    }

    /// The seed asked for; `None` is a new one each time.
    pub fn seed(&self) -> Option<u64> {
        match self.get("seed") {
            Some(Value::Seed(seed)) => *seed,
            _ => None,
        }
    }

    /// The samplers to apply, in order. Some may have nothing to do.
    pub fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        let placed = |place| KINDS.iter().copied().filter(move |kind| kind.place == place);
        let mirostat = self.int("mirostat") > 0;
        let order = match self.get("samplers") {
            Some(Value::Order(names)) => names.as_slice(),
            _ => &[],
        };
        let order = order.iter().filter_map(|name| listed().find(|kind| kind.name == *name));
        let order = order.filter(move |kind| !mirostat || kind.name == "temperature");
        placed(Place::First).chain(order).chain(placed(Place::Last))
    }

    /// All parameters with their values, in the order of [`params`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static Param, &Value)> {
        params().filter_map(|param| Some((param, self.values.get(param.name)?)))
    }
}
