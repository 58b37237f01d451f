//! Range-checked reading of the hyper-parameters of one model file.
use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::{Error, Result};

/// Where hyper-parameters come from: a GGUF file, or a list in tests.
///
/// Every getter gives `None` for a key that is absent and an error for one of another type.
pub trait Keys {
    /// A whole number of any width.
    fn unsigned(&self, key: &str) -> Result<Option<u64>>;
    /// A number of any kind.
    fn float(&self, key: &str) -> Result<Option<f64>>;
    /// A string.
    fn text(&self, key: &str) -> Result<Option<&str>>;
    /// An array of whole numbers or booleans.
    fn unsigned_list(&self, key: &str) -> Result<Option<Vec<u64>>>;
}

/// The hyper-parameters of one architecture: keys are given without its prefix.
#[derive(Clone, Copy)]
pub struct Metadata<'a> {
    keys: &'a dyn Keys,
    architecture: &'static str,
}

impl<'a> Metadata<'a> {
    /// Reads keys `<architecture>.…` of `keys`.
    pub fn new(keys: &'a dyn Keys, architecture: &'static str) -> Self {
        Self { keys, architecture }
    }

    /// The architecture whose keys these are.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// The full name of a key.
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A count which must be there and lie in `range`. A list counts when all its entries are equal.
    pub fn count(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        match self.count_if_any(key, range.clone())? {
            Some(value) => Ok(value),
            None => Err(missing(self.name(key), &range)),
        }
    }

    /// A finite number which must be there and lie in `range`.
    pub fn number(&self, key: &str, range: RangeInclusive<f32>) -> Result<f32> {
        match self.number_if_any(key, range.clone())? {
            Some(value) => Ok(value),
            None => Err(missing(self.name(key), &range)),
        }
    }

    /// A count in `range`, or `default` when absent.
    pub fn count_or(&self, key: &str, default: usize, range: RangeInclusive<usize>) -> Result<usize> {
        Ok(self.count_if_any(key, range)?.unwrap_or(default))
    }

    /// A count in `range`, if the file has one.
    pub fn count_if_any(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let name = self.name(key);
        let value = match self.keys.unsigned(&name) {
            Ok(value) => value,
            Err(scalar) => match self.keys.unsigned_list(&name) {
                Ok(Some(list)) => Some(self.same_everywhere(key, &list)?),
                _ => return Err(scalar),
            },
        };
        let Some(value) = value else { return Ok(None) };
        match usize::try_from(value) {
            Ok(v) if range.contains(&v) => Ok(Some(v)),
            _ => Err(out_of_range(name, &range, value)),
        }
    }

    /// One value per layer is how some families vary their layers; here all must agree.
    fn same_everywhere(&self, key: &str, list: &[u64]) -> Result<u64> {
        match list {
            [first, rest @ ..] if rest.iter().all(|v| v == first) => Ok(*first),
            [] => Err(Error::bad_file("a list of hyper-parameters is empty").at(self.name(key))),
            _ => Err(Error::bad_file("layers that differ in size are not supported")
                .at(self.name(key))
                .expected_got("one value for all layers", "a list of different values")),
        }
    }

    /// A finite number in `range`, or `default` when absent.
    pub fn number_or(&self, key: &str, default: f32, range: RangeInclusive<f32>) -> Result<f32> {
        Ok(self.number_if_any(key, range)?.unwrap_or(default))
    }

    /// A finite number in `range`, if the file has one.
    pub fn number_if_any(&self, key: &str, range: RangeInclusive<f32>) -> Result<Option<f32>> {
        let name = self.name(key);
        let Some(value) = self.keys.float(&name)? else { return Ok(None) };
        // A cast to f32 keeps NaN (never in a range) and makes infinities of what is too large.
        let narrow = value as f32;
        if range.contains(&narrow) { Ok(Some(narrow)) } else { Err(out_of_range(name, &range, value)) }
    }

    /// A number for which 0 means "not used" (soft caps, windows and scales are written like that).
    pub fn number_unless_zero(&self, key: &str, range: RangeInclusive<f32>) -> Result<Option<f32>> {
        match self.keys.float(&self.name(key))? {
            None | Some(0.0) => Ok(None),
            Some(_) => self.number_if_any(key, range),
        }
    }

    /// A string, if the file has one.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.keys.text(&self.name(key))
    }

    /// One whole number or truth value per entry, if the file has such a list (and not a single value).
    pub fn list(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.keys.unsigned_list(&self.name(key))
    }
}

fn show<T: Display>(range: &RangeInclusive<T>) -> String {
    format!("{} to {}", range.start(), range.end())
}

fn missing<T: Display>(name: String, range: &RangeInclusive<T>) -> Error {
    Error::bad_file("a hyper-parameter is missing").at(name).expected_got(show(range), "nothing")
}

fn out_of_range<T: Display>(name: String, range: &RangeInclusive<T>, got: impl Display) -> Error {
    Error::bad_file("a hyper-parameter is out of range").at(name).expected_got(show(range), got)
}
