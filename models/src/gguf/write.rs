//! Writing GGUF files, version 3, whole or split.
use std::path::{Path, PathBuf};

use lapwing_kernels::TensorType;

use super::layout::{DEFAULT_ALIGNMENT, MAX_DIMS, align_up, packing, tensor_bytes};
use super::open::{Gguf, OpenOptions};
use super::read::{first_duplicate, shown};
use super::split;
use super::value::{Array, Value};
use crate::error::{Class, Error, Result};
use crate::os::{Bytes, NewFile};

/// Longest tensor name that is written, in bytes: the specification allows 64, other programs read 63.
const MAX_NAME: usize = 63;

/// How to divide a model among files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Split {
    /// One file.
    #[default]
    None,
    /// This many files of about equal size.
    Parts(usize),
    /// As many files as needed with at most this many bytes of tensors each, or one tensor.
    MaxBytes(u64),
}

/// A GGUF file to be written: first metadata and the table of tensors, then, through
/// [`start`](Self::start), the data.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    entries: Vec<(String, Value)>,
    tensors: Vec<Entry>,
    split: Split,
}

#[derive(Debug)]
struct Entry {
    name: String,
    ty: TensorType,
    /// Row length first.
    shape: Vec<u64>,
    bytes: u64,
}

impl Writer {
    /// A file that is to be at `path`. Split files get `-00001-of-0000N` before the extension.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), entries: Vec::new(), tensors: Vec::new(), split: Split::None }
    }

    /// Sets a key, replacing its value if there is one. `general.alignment` and the `split.` keys are the
    /// writer's own and ignored.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        if key == "general.alignment" || key.starts_with("split.") {
            return self;
        }
        match self.entries.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key, value)),
        }
        self
    }

    /// Divides the tensors among several files.
    pub fn split(&mut self, split: Split) -> &mut Self {
        self.split = split;
        self
    }

    /// Announces the next tensor, of `shape` with the row length first.
    ///
    /// # Errors
    /// An impossible shape or a name that other programs could not read.
    pub fn tensor(&mut self, name: &str, ty: TensorType, shape: &[usize]) -> Result<()> {
        let bad = |message: &str, expected: String, got: String| {
            Error::new(Class::Other, message)
                .in_file(&self.path)
                .at(format!("tensor {}", shown(name)))
                .expected_got(expected, got)
        };
        if name.is_empty() || name.len() > MAX_NAME {
            let got = format!("{} bytes", name.len());
            return Err(bad("impossible name of a tensor", format!("1 to {MAX_NAME} bytes"), got));
        }
        let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        let fits = (1..=MAX_DIMS).contains(&shape.len());
        let bytes = packing(ty.id()).filter(|_| fits).and_then(|p| tensor_bytes(p, &shape).ok());
        let Some(bytes) = bytes else {
            return Err(bad("impossible shape", format!("rows of whole {ty} blocks"), format!("{shape:?}")));
        };
        self.tensors.push(Entry { name: name.to_owned(), ty, shape, bytes });
        Ok(())
    }

    /// Bytes of all tensors announced so far.
    pub fn data_bytes(&self) -> u64 {
        // A sum of sizes that each fit in memory; saturating is enough for a display.
        self.tensors.iter().fold(0, |sum, t| sum.saturating_add(t.bytes))
    }

    /// Writes the front part; the data follow through [`Stream::write`].
    ///
    /// # Errors
    /// Names that occur twice, more parts than tensors, and what [`NewFile`] gives.
    pub fn start(self) -> Result<Stream> {
        if let Some(twice) = first_duplicate(self.tensors.iter().map(|t| t.name.as_str())) {
            return Err(Error::new(Class::Other, "a tensor name occurs twice")
                .in_file(&self.path)
                .at(format!("tensor {}", shown(twice))));
        }
        let groups = self.groups()?;
        let n_tensors = self.tensors.len();
        let mut tensors = self.tensors.into_iter();
        let count = groups.len();
        let mut parts = Vec::with_capacity(count);
        for (no, n) in groups.into_iter().enumerate() {
            let tensors: Vec<Entry> = tensors.by_ref().take(n).collect();
            let mut entries = if no == 0 { self.entries.clone() } else { Vec::new() };
            let path = if self.split == Split::None {
                self.path.clone()
            } else {
                // Fits: there are at most MAX_PARTS.
                entries.push((split::KEY_NO.into(), Value::U16(no as u16)));
                entries.push((split::KEY_COUNT.into(), Value::U16(count as u16)));
                entries.push((split::KEY_TENSORS.into(), Value::I32(n_tensors as i32)));
                split::part_path(&stem(&self.path), no as u64, count as u64)
            };
            parts.push(Part {
                path,
                front: front(&entries, &tensors),
                tensors: tensors.iter().map(|t| t.bytes).collect(),
            });
        }
        let mut stream = Stream {
            done: Vec::new(),
            file: None,
            padding: 0,
            todo: parts.into_iter(),
            tensors: Vec::new().into_iter(),
            left: 0,
        };
        stream.next_part()?;
        stream.next_tensor()?;
        Ok(stream)
    }

    /// Makes the model in memory, as one file, instead of writing it. `fill` gets the data of all tensors, zeros,
    /// in the order in which they were announced.
    ///
    /// # Errors
    /// [`Class::Memory`] when there is not enough, and what `fill` and [`Gguf::from_bytes`] give.
    pub fn in_memory(self, fill: impl FnOnce(Vec<&mut [u8]>) -> Result<()>) -> Result<Gguf> {
        let front = front(&self.entries, &self.tensors);
        let padded = |t: &Entry| align_up(t.bytes, DEFAULT_ALIGNMENT);
        let len = self.tensors.iter().try_fold(front.len() as u64, |sum, t| sum.checked_add(padded(t)?));
        let len =
            len.ok_or_else(|| Error::new(Class::Memory, "the model is too large").in_file(&self.path))?;
        let bytes = Bytes::make(len, &self.path, |bytes| {
            let (head, mut rest) = bytes.split_at_mut(front.len());
            head.copy_from_slice(&front);
            let mut data = Vec::with_capacity(self.tensors.len());
            for t in &self.tensors {
                // The whole length was made of these sizes.
                let (this, after) = rest.split_at_mut(t.bytes.next_multiple_of(DEFAULT_ALIGNMENT) as usize);
                data.push(&mut this[..t.bytes as usize]);
                rest = after;
            }
            fill(data)
        })?;
        Gguf::from_bytes(bytes, &self.path, &OpenOptions::default())
    }

    /// Number of tensors of each part.
    fn groups(&self) -> Result<Vec<usize>> {
        let total = self.data_bytes();
        let n = self.tensors.len();
        let groups = match self.split {
            Split::None => vec![n],
            Split::Parts(parts) => {
                if !(1..=n).contains(&parts) {
                    return Err(Error::new(Class::Usage, "cannot split the model like this")
                        .in_file(&self.path)
                        .expected_got(format!("1 to {n} parts (it has {n} tensors)"), parts));
                }
                let mut groups = vec![0; parts];
                let (mut no, mut bytes) = (0, 0u64);
                for (i, t) in self.tensors.iter().enumerate() {
                    // On to the next part when this one has its share, or when the rest is needed to leave
                    // none empty.
                    let share = u128::from(bytes) * parts as u128 >= u128::from(total) * (no as u128 + 1);
                    if no + 1 < parts && groups[no] > 0 && (share || n - i < parts - no) {
                        no += 1;
                    }
                    groups[no] += 1;
                    bytes = bytes.saturating_add(t.bytes);
                }
                groups
            }
            Split::MaxBytes(most) => {
                let (mut groups, mut bytes) = (vec![0], 0u64);
                for t in &self.tensors {
                    if bytes > 0 && bytes.saturating_add(t.bytes) > most {
                        groups.push(0);
                        bytes = 0;
                    }
                    if let Some(last) = groups.last_mut() {
                        *last += 1;
                    }
                    bytes = bytes.saturating_add(t.bytes);
                }
                groups
            }
        };
        if groups.len() as u64 > split::MAX_PARTS {
            return Err(Error::new(Class::Usage, "too many parts")
                .in_file(&self.path)
                .expected_got(format!("at most {}", split::MAX_PARTS), groups.len()));
        }
        Ok(groups)
    }
}

/// The path without `.gguf`, and without the numbering of a part.
fn stem(path: &Path) -> PathBuf {
    match split::parse_part(path) {
        Some((stem, ..)) => stem,
        None if path.extension().is_some_and(|e| e == "gguf") => path.with_extension(""),
        None => path.to_path_buf(),
    }
}

/// One file to be written.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    front: Vec<u8>,
    /// Sizes in bytes.
    tensors: Vec<u64>,
}

/// The data of a model being written, tensor after tensor in the order in which they were announced.
#[derive(Debug)]
pub struct Stream {
    /// Files that are complete but not yet in their place.
    done: Vec<NewFile>,
    file: Option<NewFile>,
    /// Bytes owed before the next tensor or the end of the file.
    padding: u64,
    todo: std::vec::IntoIter<Part>,
    /// Sizes of the tensors of this file after the present one.
    tensors: std::vec::IntoIter<u64>,
    /// Bytes missing from the present tensor.
    left: u64,
}

impl Stream {
    /// Appends data, which may end within a tensor or reach over several; padding is added by itself.
    ///
    /// # Errors
    /// More bytes than were announced, and what [`NewFile::write`] gives.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(file) = self.file.as_mut().filter(|_| self.left > 0) else {
                return Err(Error::new(Class::Other, "more data than tensors were announced"));
            };
            let n = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            file.write(&bytes[..n])?;
            bytes = &bytes[n..];
            self.left -= n as u64;
            if self.left == 0 {
                self.next_tensor()?;
            }
        }
        Ok(())
    }

    /// Goes on to the next tensor, through the ends of files.
    fn next_tensor(&mut self) -> Result<()> {
        loop {
            if let Some(file) = &mut self.file {
                file.write(&vec![0; self.padding as usize])?;
                self.padding = 0;
            }
            if let Some(bytes) = self.tensors.next() {
                self.left = bytes;
                self.padding = bytes.next_multiple_of(DEFAULT_ALIGNMENT) - bytes;
                return Ok(());
            }
            if !self.next_part()? {
                return Ok(());
            }
        }
    }

    /// Puts the present file aside and begins the next; `false` when there is none.
    fn next_part(&mut self) -> Result<bool> {
        let Some(part) = self.todo.next() else { return Ok(false) };
        self.done.extend(self.file.take());
        let mut file = NewFile::create(&part.path)?;
        file.write(&part.front)?;
        self.file = Some(file);
        self.tensors = part.tensors.into_iter();
        Ok(true)
    }

    /// Flushes all files and puts them in their places; gives their paths.
    ///
    /// # Errors
    /// Data missing, and what [`NewFile::commit`] gives; no file is in its place unless all were complete.
    pub fn finish(mut self) -> Result<Vec<PathBuf>> {
        if self.left > 0 {
            return Err(Error::new(Class::Other, "less data than tensors were announced")
                .expected_got(format!("{} more bytes", self.left), "none"));
        }
        let mut files = std::mem::take(&mut self.done);
        files.extend(self.file.take());
        let paths = files.iter().map(|f| f.target().to_path_buf()).collect();
        files.into_iter().try_for_each(NewFile::commit)?;
        Ok(paths)
    }
}

/// Header, metadata and table of tensors, padded up to the data.
fn front(entries: &[(String, Value)], tensors: &[Entry]) -> Vec<u8> {
    let mut out = Vec::from(*b"GGUF");
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        put_string(&mut out, key);
        out.extend(value.id().to_le_bytes());
        put_value(&mut out, value);
    }
    let mut offset = 0u64;
    for t in tensors {
        put_string(&mut out, &t.name);
        out.extend((t.shape.len() as u32).to_le_bytes());
        t.shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(t.ty.id().to_le_bytes());
        out.extend(offset.to_le_bytes());
        // Sizes passed tensor_bytes; a wrapped offset would need more bytes than any disk holds.
        offset = align_up(t.bytes, DEFAULT_ALIGNMENT).and_then(|n| n.checked_add(offset)).unwrap_or(u64::MAX);
    }
    out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    out
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(s) => put_string(out, s),
        Value::Array(array) => {
            out.extend(array.element_id().to_le_bytes());
            out.extend((array.len() as u64).to_le_bytes());
            put_elements(out, array);
        }
    }
}

fn put_elements(out: &mut Vec<u8>, array: &Array) {
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::U16(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::I16(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::U32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::I32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::U64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::I64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::F32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::F64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::Bool(v) => v.iter().for_each(|&x| out.push(u8::from(x))),
        Array::String(v) => v.iter().for_each(|s| put_string(out, s)),
    }
}
