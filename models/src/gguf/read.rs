//! Bounded parser of the front part of one GGUF file: header, metadata and tensor table.
//!
//! It reads from the file, never from the map, so what was checked cannot change afterwards. No length or
//! count is trusted before it is compared with the bytes that are left.
use std::io::{BufReader, Read};
use std::path::Path;

use super::layout::{
    self, MAX_DIMS, MAX_NAME, Packing, SizeError, align_up, alignment_allowed, tensor_bytes,
};
use super::value::{Array, Strings, Value, id};
use crate::error::{Class, Error, Result};

/// Largest front part that is read, in bytes: eight times what the largest vocabularies in use need.
pub(super) const MAX_FRONT: u64 = 64 << 20;
/// Most keys and most tensors of one file: far above any real file, low enough to keep tables small.
const MAX_ENTRIES: u64 = 65_536;
/// Longest key, in bytes. Source: the GGUF specification.
const MAX_KEY: u64 = 65_535;
/// Reserved ahead for a vector, in bytes, however many elements are announced.
const RESERVE: usize = 1 << 20;

/// A tensor as the table announces it, its place checked against the file.
#[derive(Clone, Debug)]
pub(super) struct RawTensor {
    pub name: String,
    pub type_id: u32,
    pub packing: Packing,
    /// Row length first.
    pub shape: Vec<u64>,
    /// Absolute offset in the file, in bytes.
    pub start: u64,
    pub bytes: u64,
}

/// The front part of one file.
#[derive(Debug)]
pub(super) struct Front {
    pub version: u32,
    pub entries: Vec<(String, Value)>,
    pub tensors: Vec<RawTensor>,
    pub alignment: u64,
}

/// Text from a file made safe for a message: escaped and cut.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let mut out: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

/// Reads the front part of the file at `path` from `file`, which is `len` bytes long.
pub(super) fn read_front(file: impl Read, len: u64, path: &Path) -> Result<Front> {
    Parser { from: BufReader::with_capacity(1 << 16, file), pos: 0, len, place: "header".into() }
        .front()
        .map_err(|e| e.in_file(path))
}

struct Parser<R> {
    from: R,
    /// Bytes read so far.
    pos: u64,
    /// Bytes of the file.
    len: u64,
    /// What is being read, for messages.
    place: String,
}

macro_rules! numbers {
    ($($name:ident: $t:ty),*) => { $(
        fn $name(&mut self, field: &str) -> Result<$t> {
            let mut bytes = [0; size_of::<$t>()];
            self.fill(&mut bytes, field)?;
            Ok(<$t>::from_le_bytes(bytes))
        }
    )* };
}

impl<R: Read> Parser<R> {
    numbers!(u8: u8, i8: i8, u16: u16, i16: i16, u32: u32, i32: i32, u64: u64, i64: i64, f32: f32, f64: f64);

    /// An error at the current place.
    fn bad(&self, field: &str, message: impl Into<String>) -> Error {
        Error::bad_file(message).at(format!("{}, {field}, byte {}", self.place, self.pos))
    }

    /// Checks that `n` more bytes exist and may be read.
    fn need(&self, n: u64, field: &str) -> Result<()> {
        let left = self.len.saturating_sub(self.pos);
        if n > left {
            return Err(self
                .bad(field, "the file ends early")
                .expected_got(format!("{n} more bytes"), format!("{left}"))
                .advice("it is truncated or damaged: fetch it again"));
        }
        // pos never passes MAX_FRONT, so the sum of two checked numbers cannot wrap.
        if n > MAX_FRONT - self.pos {
            return Err(self.bad(field, "the metadata is too large").expected_got(
                format!("at most {MAX_FRONT} bytes before the tensors"),
                format!("{n} more at byte {}", self.pos),
            ));
        }
        Ok(())
    }

    fn fill(&mut self, buf: &mut [u8], field: &str) -> Result<()> {
        self.need(buf.len() as u64, field)?;
        self.from.read_exact(buf).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::new(Class::Changed, "the file became shorter while it was read")
            }
            _ => Error::new(Class::Other, format!("cannot read: {e}")),
        })?;
        self.pos += buf.len() as u64;
        Ok(())
    }

    /// `n` bytes, memory growing only as they arrive.
    fn bytes(&mut self, n: u64, field: &str) -> Result<Vec<u8>> {
        self.need(n, field)?;
        // need() holds n below MAX_FRONT.
        let mut bytes = vec![0; n as usize];
        self.fill(&mut bytes, field)?;
        Ok(bytes)
    }

    /// A length of at most `most` bytes, then that many bytes of UTF-8.
    fn string(&mut self, most: u64, field: &str) -> Result<String> {
        let n = self.u64(&format!("length of {field}"))?;
        if n > most {
            return Err(self
                .bad(field, format!("{field} is too long"))
                .expected_got(format!("at most {most} bytes"), n));
        }
        let bytes = self.bytes(n, field)?;
        String::from_utf8(bytes).map_err(|e| {
            self.bad(field, format!("{field} is not UTF-8"))
                .expected_got("UTF-8", shown(&String::from_utf8_lossy(e.as_bytes())))
        })
    }

    /// A count of entries of at least `smallest` bytes each.
    fn count(&mut self, field: &str, smallest: u64, most: u64) -> Result<u64> {
        let n = self.u64(field)?;
        let left = self.len.saturating_sub(self.pos);
        let fits = left / smallest;
        if n > fits.min(most) {
            return Err(self
                .bad(field, format!("impossible {field}"))
                .expected_got(format!("at most {} in the {left} bytes that follow", fits.min(most)), n));
        }
        Ok(n)
    }

    fn front(mut self) -> Result<Front> {
        let version = self.version()?;
        // The smallest tensor entry: name length, one byte of name, dimensions, one of them, type, offset.
        let n_tensors = self.count("number of tensors", 8 + 1 + 4 + 8 + 4 + 8, MAX_ENTRIES)?;
        // The smallest key: length, one byte of key, type, one byte of value.
        let n_keys = self.count("number of keys", 8 + 1 + 4 + 1, MAX_ENTRIES)?;

        let mut entries = Vec::new();
        for i in 0..n_keys {
            self.place = format!("key {i}");
            let key = self.string(MAX_KEY, "the key")?;
            if key.is_empty() {
                return Err(self.bad("the key", "a key is empty"));
            }
            self.place = format!("key {}", shown(&key));
            let value = self.value()?;
            entries.push((key, value));
        }
        self.place = "metadata".into();
        if let Some(twice) = first_duplicate(entries.iter().map(|(key, _)| key.as_str())) {
            return Err(Error::bad_file("a key occurs twice").at(format!("key {}", shown(twice))));
        }
        let alignment = self.alignment(&entries)?;

        let mut tensors = Vec::new();
        for i in 0..n_tensors {
            self.place = format!("tensor {i}");
            tensors.push(self.tensor()?);
        }
        if let Some(twice) = first_duplicate(tensors.iter().map(|t| t.name.as_str())) {
            return Err(Error::bad_file("a tensor name occurs twice").at(format!("tensor {}", shown(twice))));
        }
        place_tensors(&mut tensors, self.pos, alignment, self.len)?;
        Ok(Front { version, entries, tensors, alignment })
    }

    fn version(&mut self) -> Result<u32> {
        const ADVICE: &str = "give a model or adapter in GGUF format";
        if self.len == 0 {
            return Err(Error::bad_file("the file is empty")
                .expected_got("a GGUF file", "0 bytes")
                .advice(ADVICE));
        }
        let mut magic = [0; 4];
        let n = self.len.min(4) as usize;
        self.fill(&mut magic[..n], "magic")?;
        if magic != *b"GGUF" {
            let got = shown(&String::from_utf8_lossy(&magic[..n]));
            return Err(Error::bad_file("this is not a GGUF file")
                .at("magic, byte 0")
                .expected_got("\"GGUF\"", format!("\"{got}\""))
                .advice(ADVICE));
        }
        let version = self.u32("version")?;
        if version == 2 || version == 3 {
            return Ok(version);
        }
        let error = self.bad("version", "this version of GGUF is not supported");
        Err(if matches!(version.swap_bytes(), 1..=3) {
            error
                .expected_got("little-endian version 2 or 3", "a big-endian file")
                .advice("convert it to little-endian")
        } else {
            error.expected_got("version 2 or 3", version)
        })
    }

    fn value(&mut self) -> Result<Value> {
        let what = "the value";
        Ok(match self.u32("type of the value")? {
            id::U8 => Value::U8(self.u8(what)?),
            id::I8 => Value::I8(self.i8(what)?),
            id::U16 => Value::U16(self.u16(what)?),
            id::I16 => Value::I16(self.i16(what)?),
            id::U32 => Value::U32(self.u32(what)?),
            id::I32 => Value::I32(self.i32(what)?),
            id::F32 => Value::F32(self.f32(what)?),
            id::U64 => Value::U64(self.u64(what)?),
            id::I64 => Value::I64(self.i64(what)?),
            id::F64 => Value::F64(self.f64(what)?),
            id::BOOL => {
                let byte = self.u8(what)?;
                Value::Bool(self.boolean(byte)?)
            }
            id::STRING => Value::String(self.string(u64::MAX, what)?),
            id::ARRAY => Value::Array(self.array()?),
            other => {
                return Err(self
                    .bad("type of the value", "unknown type of value")
                    .expected_got(format!("a type id from 0 to {}", id::F64), other));
            }
        })
    }

    fn boolean(&self, byte: u8) -> Result<bool> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.bad("the value", "this is no boolean").expected_got("0 or 1", other)),
        }
    }

    fn array(&mut self) -> Result<Array> {
        let kind = self.u32("type of the elements")?;
        let size: u64 = match kind {
            id::U8 | id::I8 | id::BOOL => 1,
            id::U16 | id::I16 => 2,
            id::U32 | id::I32 | id::F32 => 4,
            // A string is at least its length.
            id::U64 | id::I64 | id::F64 | id::STRING => 8,
            id::ARRAY => {
                return Err(self
                    .bad("type of the elements", "an array of arrays is not supported")
                    .expected_got("numbers, booleans or strings", "arrays"));
            }
            other => {
                return Err(self
                    .bad("type of the elements", "unknown type of value")
                    .expected_got(format!("a type id from 0 to {}", id::F64), other));
            }
        };
        let n = self.count("number of elements", size, u64::MAX)?;
        macro_rules! read {
            ($variant:ident, $t:ty) => {{
                // count() compared n·size with the file, and bytes() compares it with the limit.
                let bytes = self.bytes(n * size, "the elements")?;
                let (chunks, _) = bytes.as_chunks::<{ size_of::<$t>() }>();
                Array::$variant(chunks.iter().map(|&b| <$t>::from_le_bytes(b)).collect())
            }};
        }
        Ok(match kind {
            id::U8 => Array::U8(self.bytes(n, "the elements")?),
            id::I8 => read!(I8, i8),
            id::U16 => read!(U16, u16),
            id::I16 => read!(I16, i16),
            id::U32 => read!(U32, u32),
            id::I32 => read!(I32, i32),
            id::F32 => read!(F32, f32),
            id::U64 => read!(U64, u64),
            id::I64 => read!(I64, i64),
            id::F64 => read!(F64, f64),
            id::BOOL => {
                let bytes = self.bytes(n, "the elements")?;
                Array::Bool(bytes.iter().map(|&b| self.boolean(b)).collect::<Result<_>>()?)
            }
            _ => Array::String(self.strings(n)?),
        })
    }

    fn strings(&mut self, n: u64) -> Result<Strings> {
        let mut text = Vec::with_capacity(RESERVE.min(n as usize * 8));
        let mut ends = Vec::with_capacity((RESERVE / 4).min(n as usize));
        for i in 0..n {
            let bytes = self.u64("length of a string")?;
            self.need(bytes, "a string")?;
            let start = text.len();
            text.resize(start + bytes as usize, 0);
            self.fill(&mut text[start..], "a string")?;
            if std::str::from_utf8(&text[start..]).is_err() {
                return Err(self
                    .bad(&format!("string {i}"), "a string is not UTF-8")
                    .expected_got("UTF-8", shown(&String::from_utf8_lossy(&text[start..]))));
            }
            // All of it lies within MAX_FRONT.
            ends.push(text.len() as u32);
        }
        let text = String::from_utf8(text).map_err(|_| {
            self.bad("the elements", "a string is not UTF-8").expected_got("UTF-8", "other bytes")
        })?;
        Ok(Strings::from_parts(text, ends))
    }

    fn alignment(&self, entries: &[(String, Value)]) -> Result<u64> {
        const KEY: &str = "general.alignment";
        let Some((_, value)) = entries.iter().find(|(key, _)| key == KEY) else {
            return Ok(layout::DEFAULT_ALIGNMENT);
        };
        let error = |got: String| {
            Error::bad_file("this alignment of tensors is not possible")
                .at(format!("key {KEY}"))
                .expected_got("a u32, a power of two from 8 to 65536", got)
        };
        match *value {
            Value::U32(n) if alignment_allowed(n.into()) => Ok(n.into()),
            Value::U32(n) => Err(error(n.to_string())),
            ref other => Err(error(other.type_name().into())),
        }
    }

    /// One entry of the tensor table; its start is still relative to the data.
    fn tensor(&mut self) -> Result<RawTensor> {
        let name = self.string(MAX_NAME as u64, "the name")?;
        if name.is_empty() {
            return Err(self.bad("the name", "a tensor has no name"));
        }
        self.place = format!("tensor {}", shown(&name));
        let n_dims = self.u32("number of dimensions")?;
        if !(1..=MAX_DIMS as u32).contains(&n_dims) {
            return Err(self
                .bad("number of dimensions", "impossible number of dimensions")
                .expected_got(format!("1 to {MAX_DIMS}"), n_dims));
        }
        let mut shape = Vec::with_capacity(n_dims as usize);
        for _ in 0..n_dims {
            shape.push(self.u64("a dimension")?);
        }
        let type_id = self.u32("type")?;
        let Some(packing) = layout::packing(type_id) else {
            return Err(self
                .bad("type", "unknown type of tensor")
                .expected_got(format!("one of {}", super::supported_types()), format!("type id {type_id}")));
        };
        let bytes = tensor_bytes(packing, &shape).map_err(|e| {
            let expected = match e {
                SizeError::Zero => "dimensions of at least 1".into(),
                SizeError::Partial => {
                    format!("rows of {}: a multiple of {}", packing.name, packing.block_len)
                }
                SizeError::Overflow => "a size that fits in memory".into(),
            };
            self.bad("shape", "impossible shape").expected_got(expected, format!("{shape:?}"))
        })?;
        let start = self.u64("offset")?;
        Ok(RawTensor { name, type_id, packing, shape, start, bytes })
    }
}

/// Turns relative offsets into absolute ones and checks that every tensor lies, aligned and alone, within
/// the file. `front` is where the tensor table ends.
fn place_tensors(tensors: &mut [RawTensor], front: u64, alignment: u64, len: u64) -> Result<()> {
    let bad =
        |t: &RawTensor, message: &str| Error::bad_file(message).at(format!("tensor {}", shown(&t.name)));
    let wrapped = |t: &RawTensor| {
        bad(t, "the tensor lies outside the file").expected_got(format!("an end within {len} bytes"), t.start)
    };
    for t in &mut *tensors {
        if !t.start.is_multiple_of(alignment) {
            return Err(bad(t, "the tensor is not aligned")
                .expected_got(format!("an offset that is a multiple of {alignment}"), t.start));
        }
        let data = align_up(front, alignment).ok_or_else(|| wrapped(t))?;
        let start = data.checked_add(t.start).ok_or_else(|| wrapped(t))?;
        let end = start.checked_add(t.bytes).ok_or_else(|| wrapped(t))?;
        if end > len {
            return Err(bad(t, "the tensor lies outside the file")
                .expected_got(format!("at least {end} bytes of file for offset {}", t.start), len)
                .advice("the file is truncated or damaged: fetch it again"));
        }
        t.start = start;
    }
    let mut order: Vec<&RawTensor> = tensors.iter().collect();
    order.sort_by_key(|t| t.start);
    for pair in order.windows(2) {
        // Both sums were checked above.
        if pair[0].start + pair[0].bytes > pair[1].start {
            return Err(bad(pair[1], "two tensors overlap").expected_got(
                format!(
                    "a start after tensor {} ends at byte {}",
                    shown(&pair[0].name),
                    pair[0].start + pair[0].bytes
                ),
                pair[1].start,
            ));
        }
    }
    Ok(())
}

/// A name that occurs more than once.
pub(super) fn first_duplicate<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}
