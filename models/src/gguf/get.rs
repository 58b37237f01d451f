//! Typed access to metadata. A wrong type is an error that names file, key, expected and got: nothing is
//! guessed or converted beyond the width of numbers.
use super::open::{Gguf, Tensor};
use super::read::shown;
use super::value::{Array, Strings, Value};
use crate::error::{Error, Result};

impl Gguf {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = self.by_key.binary_search_by(|&i| self.entries[i as usize].0.as_str().cmp(key)).ok()?;
        Some(&self.entries[self.by_key[at] as usize].1)
    }

    /// An error about the value of a key: what is wrong with it, what was expected and got.
    pub fn key_error(&self, key: &str, message: &str, expected: impl ToString, got: impl ToString) -> Error {
        Error::bad_file(message)
            .in_file(&self.path)
            .at(format!("key {}", shown(key)))
            .expected_got(expected, got)
    }

    /// An error about a tensor.
    pub fn tensor_error(
        &self,
        name: &str,
        message: &str,
        expected: impl ToString,
        got: impl ToString,
    ) -> Error {
        Error::bad_file(message)
            .in_file(&self.path)
            .at(format!("tensor {}", shown(name)))
            .expected_got(expected, got)
    }

    fn missing(&self, key: &str) -> Error {
        Error::bad_file("a key is missing").in_file(&self.path).at(format!("key {}", shown(key)))
    }

    /// The value of `key` through `read`; an error when it is there but not what `expected` says.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(v) => Ok(Some(v)),
            None => Err(self.key_error(key, "a key has an impossible value", expected, describe(value))),
        }
    }

    /// An unsigned integer of any width that fits, if the key is there.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "an integer from 0 to 4294967295", |v| u32::try_from(v.as_int()?).ok())
    }

    /// An unsigned integer of any width that fits.
    pub fn get_u32(&self, key: &str) -> Result<u32> {
        self.opt_u32(key)?.ok_or_else(|| self.missing(key))
    }

    /// An unsigned integer of any width, if the key is there.
    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an integer that is not negative", |v| u64::try_from(v.as_int()?).ok())
    }

    /// An unsigned integer of any width.
    pub fn get_u64(&self, key: &str) -> Result<u64> {
        self.opt_u64(key)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number, if the key is there.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a finite f32", |v| v.as_f32().filter(|x| x.is_finite()))
    }

    /// A finite number.
    pub fn get_f32(&self, key: &str) -> Result<f32> {
        self.opt_f32(key)?.ok_or_else(|| self.missing(key))
    }

    /// A boolean, if the key is there.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// A boolean.
    pub fn get_bool(&self, key: &str) -> Result<bool> {
        self.opt_bool(key)?.ok_or_else(|| self.missing(key))
    }

    /// A string, if the key is there.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A string.
    pub fn get_str(&self, key: &str) -> Result<&str> {
        self.opt_str(key)?.ok_or_else(|| self.missing(key))
    }

    /// An array of strings, if the key is there.
    pub fn opt_strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Array(Array::String(s)) => Some(s),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn get_strings(&self, key: &str) -> Result<&Strings> {
        self.opt_strings(key)?.ok_or_else(|| self.missing(key))
    }

    /// An array of f32, if the key is there. The numbers may be anything, also infinite.
    pub fn opt_f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, "an array of f32", |v| match v {
            Value::Array(Array::F32(s)) => Some(s.as_slice()),
            _ => None,
        })
    }

    /// An array of f32. The numbers may be anything, also infinite.
    pub fn get_f32s(&self, key: &str) -> Result<&[f32]> {
        self.opt_f32s(key)?.ok_or_else(|| self.missing(key))
    }

    /// An array of integers of any width, if the key is there.
    pub fn opt_ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "an array of integers", |v| match v {
            Value::Array(a) => a.to_ints(),
            _ => None,
        })
    }

    /// An array of integers of any width.
    pub fn get_ints(&self, key: &str) -> Result<Vec<i64>> {
        self.opt_ints(key)?.ok_or_else(|| self.missing(key))
    }

    /// An array of booleans, if the key is there.
    pub fn opt_bools(&self, key: &str) -> Result<Option<&[bool]>> {
        self.typed(key, "an array of bool", |v| match v {
            Value::Array(Array::Bool(s)) => Some(s.as_slice()),
            _ => None,
        })
    }

    /// One unsigned integer for each of `n` layers: the key holds either one for all or an array of `n`.
    pub fn opt_u32_per_layer(&self, key: &str, n: usize) -> Result<Option<Vec<u32>>> {
        let expected = format!("an integer from 0 to 4294967295 or an array of {n}");
        self.typed(key, &expected, |v| match v {
            Value::Array(a) if a.len() == n => {
                a.to_ints()?.into_iter().map(|x| u32::try_from(x).ok()).collect()
            }
            Value::Array(_) => None,
            one => Some(vec![u32::try_from(one.as_int()?).ok()?; n]),
        })
    }

    /// The architecture: `general.architecture`.
    pub fn architecture(&self) -> Result<&str> {
        self.get_str("general.architecture")
    }

    /// The tensor of this name, which must have this shape (row length first).
    pub fn tensor_of_shape(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>> {
        let tensor = self.tensor(name).ok_or_else(|| {
            Error::bad_file("a tensor is missing").in_file(&self.path).at(format!("tensor {}", shown(name)))
        })?;
        if tensor.shape != shape {
            return Err(self.tensor_error(
                name,
                "a tensor has the wrong shape",
                format!("{shape:?}"),
                format!("{:?}", tensor.shape),
            ));
        }
        Ok(tensor)
    }
}

/// A value as messages show it: type and, when short, content.
fn describe(value: &Value) -> String {
    match value {
        Value::Array(a) => format!("{}, {} elements", a.type_name(), a.len()),
        Value::String(s) => format!("string \"{}\"", shown(s)),
        Value::Bool(b) => format!("bool {b}"),
        Value::F32(x) => format!("f32 {x}"),
        Value::F64(x) => format!("f64 {x}"),
        int => format!("{} {}", int.type_name(), int.as_int().unwrap_or_default()),
    }
}
