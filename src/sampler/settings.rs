//! What the samplers are set to, by name.
use std::collections::BTreeMap;

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
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Texts(texts) => write!(f, "{texts:?}"),
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

    /// Reads a value from `text`.
    ///
    /// # Errors
    /// A usage error when it is not of this parameter's sort, or out of bounds.
    pub fn parse(&self, text: &str) -> Result<Value> {
        let wrong = |expected: String| {
            Error::new(Class::Usage, format!("bad value for {}", self.name)).expected_got(expected, text)
        };
        match self.preset {
            Preset::Int(_, least, greatest) => match text.parse() {
                Ok(value) if (least..=greatest).contains(&value) => Ok(Value::Int(value)),
                _ if greatest == i64::from(i32::MAX) => {
                    Err(wrong(format!("a whole number of at least {least}")))
                }
                _ => Err(wrong(format!("a whole number from {least} to {greatest}"))),
            },
            Preset::Float(_, least, greatest) => match text.parse::<f32>() {
                Ok(value) if (least..=greatest).contains(&value) => Ok(Value::Float(value)),
                _ if greatest == f32::MAX && least == f32::MIN => Err(wrong("a number".to_owned())),
                _ if greatest == f32::MAX => Err(wrong(format!("a number of at least {least}"))),
                _ => Err(wrong(format!("a number from {least} to {greatest}"))),
            },
            Preset::Texts(_) => Ok(Value::Texts(if text == "none" { vec![] } else { vec![text.to_owned()] })),
        }
    }
}

/// The samplers that the order may name.
fn listed() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().copied().filter(|kind| kind.place == Place::Listed)
}

/// Values of all parameters and the order of the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
    /// Names of the samplers in the order in which they are applied.
    order: Vec<&'static str>,
    /// Seed of the random choices; `None` is a new one each time.
    pub seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        let params = KINDS.iter().flat_map(|kind| kind.params);
        Self {
            values: params.map(|param| (param.name, param.default_value())).collect(),
            order: listed().map(|kind| kind.name).collect(),
            seed: None,
        }
    }
}

impl Settings {
    /// The parameter that `name` means.
    ///
    /// # Errors
    /// A usage error that names the nearest parameter when there is none.
    pub fn param(name: &str) -> Result<&'static Param> {
        let mut params = KINDS.iter().flat_map(|kind| kind.params);
        params.clone().find(|param| param.answers_to(name)).ok_or_else(|| {
            let names = params.by_ref().map(|param| param.name);
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

    /// Sets which samplers are applied, and in which order: names joined by `;`.
    ///
    /// # Errors
    /// A usage error on an unknown name.
    pub fn set_order(&mut self, names: &str) -> Result<()> {
        let find = |name: &str| {
            // llama.cpp's own aliases.
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
        };
        let names = names.split(';').map(str::trim).filter(|name| !name.is_empty());
        self.order = names.map(find).collect::<Result<_>>()?;
        Ok(())
    }

    /// The samplers to apply, in order. Some may have nothing to do.
    pub fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        let placed = |place| KINDS.iter().copied().filter(move |kind| kind.place == place);
        let mirostat = self.int("mirostat") > 0;
        let order = self.order.iter().filter_map(|name| listed().find(|kind| kind.name == *name));
        let order = order.filter(move |kind| !mirostat || kind.name == "temperature");
        placed(Place::First).chain(order).chain(placed(Place::Last))
    }

    /// All parameters with their values, in the order of [`KINDS`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static Param, &Value)> {
        let params = KINDS.iter().flat_map(|kind| kind.params);
        params.filter_map(|param| Some((param, self.values.get(param.name)?)))
    }
}
