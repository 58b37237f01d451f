//! Opening a model: all of its parts, their maps and the table of tensors.
use std::fs::File;
use std::path::{Path, PathBuf};

use lapwing_kernels::TensorType;

use super::read::{Front, first_duplicate, read_front, shown};
use super::split::{self, MAX_PARTS};
use super::value::Value;
use crate::error::{Error, Result};
use crate::os::{Bytes, Fingerprint};

/// How to open a file.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Use the weights where they lie in the mapped file (otherwise they are read into memory).
    pub mmap: bool,
    /// Accept tensors of types that lapwing cannot compute with; they are listed by
    /// [`Gguf::unsupported`] and not found by name. Otherwise the first one is an error.
    pub any_type: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { mmap: true, any_type: false }
    }
}

/// An open GGUF file, or all parts of a split one.
#[derive(Debug)]
pub struct Gguf {
    pub(super) path: PathBuf,
    version: u32,
    alignment: u64,
    pub(super) entries: Vec<(String, Value)>,
    /// Indices of `entries`, sorted by key.
    pub(super) by_key: Vec<u32>,
    parts: Vec<Part>,
    tensors: Vec<Info>,
    /// Indices of `tensors`, sorted by name.
    by_name: Vec<u32>,
    unsupported: Vec<Unsupported>,
}

#[derive(Debug)]
struct Part {
    bytes: Bytes,
    /// Of a mapped file.
    fingerprint: Option<Fingerprint>,
    len: u64,
}

/// What is known of a tensor; its place was checked against the file when it was opened.
#[derive(Debug)]
struct Info {
    name: String,
    ty: TensorType,
    shape: Vec<usize>,
    part: u32,
    start: usize,
    bytes: usize,
}

/// Names a tensor of one [`Gguf`] for quick access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(u32);

impl TensorId {
    /// Its place among the tensors of its file.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A tensor where it lies in the file.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Its name, at most 64 bytes.
    pub name: &'a str,
    /// Type of the values.
    pub ty: TensorType,
    /// 1 to 4 dimensions, none of them 0, in the order of the file: the length of a row (`cols`) first.
    pub shape: &'a [usize],
    /// All rows, `ty.row_bytes(shape[0])` bytes each, without padding.
    pub data: &'a [u8],
}

impl Tensor<'_> {
    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.shape[0]
    }

    /// Number of rows: the product of all other dimensions.
    pub fn rows(&self) -> usize {
        // The whole product fitted in isize when the file was opened.
        self.shape[1..].iter().product()
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.cols() * self.rows()
    }

    /// Whether there are no values; never so, for zero dimensions are refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tensor that lapwing cannot compute with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Its name.
    pub name: String,
    /// Name of its type.
    pub type_name: &'static str,
    /// Dimensions, row length first.
    pub shape: Vec<u64>,
    /// Size in bytes.
    pub bytes: u64,
}

impl Gguf {
    /// Opens the model at `path`. When it is one part of a split model, whichever, all parts are opened.
    ///
    /// # Errors
    /// [`Class::BadFile`](crate::Class::BadFile) when it is no intact GGUF file of version 2 or 3, naming the place; [`Class::Memory`](crate::Class::Memory)
    /// and [`Class::Changed`](crate::Class::Changed) as [`Bytes`] does; [`Class::Other`](crate::Class::Other) when the system refuses to read.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let given = path.as_ref();
        let (front, part) = open_part(given, options)?;
        let header = SplitHeader::of(&front).map_err(|e| e.in_file(given))?;
        let mut all = Assembly::default();
        let mut path = given.to_path_buf();
        let (mut version, mut alignment) = (front.version, front.alignment);
        let mut entries = Vec::new();
        if header.count <= 1 {
            entries = all.add(front, part, given, options)?;
        } else {
            let (stem, _) = header.check_name(given)?;
            let mut opened = Some((front, part));
            for no in 0..header.count {
                let part_path = split::part_path(&stem, no, header.count);
                let (front, part) = match opened.take_if(|_| no == header.no) {
                    Some(this) => this,
                    None => open_part(&part_path, options).map_err(|e| {
                        if e.advice.is_empty() {
                            e.advice("all parts of a split model must be in one folder")
                        } else {
                            e
                        }
                    })?,
                };
                let other = SplitHeader::of(&front).map_err(|e| e.in_file(&part_path))?;
                other.check_same(&header, no).map_err(|e| e.in_file(&part_path))?;
                if no == 0 {
                    (version, alignment) = (front.version, front.alignment);
                }
                // All metadata is in the first part; the others repeat only what they are.
                let these = all.add(front, part, &part_path, options)?;
                if no == 0 {
                    entries = these;
                    path = part_path;
                }
            }
            header.check_total(&all).map_err(|e| e.in_file(given))?;
        }
        if all.parts.len() > 1
            && let Some(twice) = first_duplicate(all.tensors.iter().map(|t| t.name.as_str()))
        {
            return Err(Error::bad_file("a tensor is in two parts")
                .in_file(given)
                .at(format!("tensor {}", shown(twice))));
        }
        Ok(all.into_gguf(path, version, alignment, entries))
    }

    /// Opens a whole GGUF file that is in memory; `path` is the name for messages.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Class::BadFile`](crate::Class::BadFile) for a part of a split model.
    pub fn from_bytes(bytes: Bytes, path: &Path, options: &OpenOptions) -> Result<Self> {
        let len = bytes.len() as u64;
        let front = read_front(&bytes[..], len, path)?;
        if SplitHeader::of(&front).map_err(|e| e.in_file(path))?.count > 1 {
            return Err(Error::bad_file("this is only a part of a split model")
                .in_file(path)
                .at("key split.count"));
        }
        let (version, alignment) = (front.version, front.alignment);
        let mut all = Assembly::default();
        let entries = all.add(front, Part { bytes, fingerprint: None, len }, path, options)?;
        Ok(all.into_gguf(path.to_path_buf(), version, alignment, entries))
    }

    /// The file, or the first part of a split model.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensors, in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Number of files: 1, or more of a split model.
    pub fn n_parts(&self) -> usize {
        self.parts.len()
    }

    /// Size of all files together, in bytes.
    pub fn file_bytes(&self) -> u64 {
        // Sizes of real files: their sum is far from wrapping.
        self.parts.iter().map(|p| p.len).sum()
    }

    /// All metadata in the order of the file.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of tensors.
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.tensors.iter().map(|info| self.view(info))
    }

    /// Tensors that lapwing cannot compute with; empty unless [`OpenOptions::any_type`] let them pass.
    pub fn unsupported(&self) -> &[Unsupported] {
        &self.unsupported
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensor_id(name).map(|id| self.by_id(id))
    }

    /// The id of the tensor of this name.
    pub fn tensor_id(&self, name: &str) -> Option<TensorId> {
        let at = self.by_name.binary_search_by(|&i| self.tensors[i as usize].name.as_str().cmp(name)).ok()?;
        Some(TensorId(self.by_name[at]))
    }

    /// The tensor of an id that [`tensor_id`](Self::tensor_id) of this same file gave.
    ///
    /// # Panics
    /// May panic for an id of another file.
    pub fn by_id(&self, id: TensorId) -> Tensor<'_> {
        self.view(&self.tensors[id.0 as usize])
    }

    /// Checks that no file was written to, resized, replaced or removed since it was opened. Cheap: one look
    /// at each file's directory entry. Files read into memory may change as they like.
    ///
    /// # Errors
    /// [`Class::Changed`](crate::Class::Changed), naming the file.
    pub fn check_unchanged(&self) -> Result<()> {
        self.parts.iter().filter_map(|part| part.fingerprint.as_ref()).try_for_each(Fingerprint::check)
    }

    fn view<'a>(&'a self, info: &'a Info) -> Tensor<'a> {
        let data = &self.parts[info.part as usize].bytes[info.start..][..info.bytes];
        Tensor { name: &info.name, ty: info.ty, shape: &info.shape, data }
    }
}

fn sorted_by<T>(items: &[T], key: impl Fn(&T) -> &String) -> Vec<u32> {
    // The reader limits the number of items.
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| key(&items[a as usize]).cmp(key(&items[b as usize])));
    order
}

/// Opens one file and reads its front part.
fn open_part(path: &Path, options: &OpenOptions) -> Result<(Front, Part)> {
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let regular = |meta: &std::fs::Metadata| {
        if meta.is_file() {
            return Ok(());
        }
        let got = if meta.is_dir() { "a folder" } else { "a device, pipe or socket" };
        Err(Error::bad_file("this is not a file").in_file(path).expected_got("a GGUF file", got))
    };
    let io = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::bad_file("no such file").in_file(path),
        _ => Error::io("open", path, &e),
    };
    regular(&std::fs::metadata(path).map_err(io)?)?;
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    regular(&meta)?;
    let len = meta.len();
    let front = read_front(&file, len, path)?;
    let bytes = if options.mmap { Bytes::map(&file, len, path) } else { Bytes::read(&file, len, path) }?;
    let fingerprint = Fingerprint::new(path, &meta);
    // What was parsed must be what is mapped or was read.
    fingerprint.check()?;
    Ok((front, Part { bytes, fingerprint: options.mmap.then_some(fingerprint), len }))
}

/// The parts opened so far.
#[derive(Default)]
struct Assembly {
    parts: Vec<Part>,
    tensors: Vec<Info>,
    unsupported: Vec<Unsupported>,
}

impl Assembly {
    /// Takes a part over and gives its metadata back.
    fn add(
        &mut self,
        front: Front,
        part: Part,
        path: &Path,
        options: &OpenOptions,
    ) -> Result<Vec<(String, Value)>> {
        let no = self.parts.len() as u32;
        for t in front.tensors {
            if let Some(ty) = TensorType::from_id(t.type_id) {
                // The reader held offsets within the file and sizes within isize.
                self.tensors.push(Info {
                    name: t.name,
                    ty,
                    shape: t.shape.iter().map(|&n| n as usize).collect(),
                    part: no,
                    start: t.start as usize,
                    bytes: t.bytes as usize,
                });
            } else if options.any_type {
                let type_name = t.packing.name;
                self.unsupported.push(Unsupported {
                    name: t.name,
                    type_name,
                    shape: t.shape,
                    bytes: t.bytes,
                });
            } else {
                return Err(Error::bad_file("this type of tensor is not supported")
                    .in_file(path)
                    .at(format!("tensor {}", shown(&t.name)))
                    .expected_got(format!("one of {}", super::supported_types()), t.packing.name)
                    .advice("use another quantisation of this model"));
            }
        }
        self.parts.push(part);
        Ok(front.entries)
    }

    fn into_gguf(self, path: PathBuf, version: u32, alignment: u64, entries: Vec<(String, Value)>) -> Gguf {
        let by_key = sorted_by(&entries, |(key, _)| key);
        let by_name = sorted_by(&self.tensors, |t| &t.name);
        let Self { parts, tensors, unsupported } = self;
        Gguf { path, version, alignment, entries, by_key, parts, tensors, by_name, unsupported }
    }
}

/// What the metadata of a part says about the split.
struct SplitHeader {
    no: u64,
    /// 0 or 1: not split.
    count: u64,
    tensors: Option<u64>,
}

impl SplitHeader {
    fn of(front: &Front) -> Result<Self> {
        let get = |key: &str, most: u64| -> Result<Option<u64>> {
            let Some((_, value)) = front.entries.iter().find(|(k, _)| k == key) else { return Ok(None) };
            let got = value.as_int().map_or_else(|| value.type_name().to_owned(), |n| n.to_string());
            value.as_int().and_then(|n| u64::try_from(n).ok()).filter(|&n| n <= most).map(Some).ok_or_else(
                || {
                    Error::bad_file("impossible description of a split model")
                        .at(format!("key {key}"))
                        .expected_got(format!("an integer from 0 to {most}"), got)
                },
            )
        };
        let count = get(split::KEY_COUNT, MAX_PARTS)?.unwrap_or(0);
        let no = get(split::KEY_NO, MAX_PARTS)?.unwrap_or(0);
        let tensors = get(split::KEY_TENSORS, u64::from(u32::MAX))?;
        if count > 1 && no >= count {
            return Err(Error::bad_file("impossible description of a split model")
                .at(format!("key {}", split::KEY_NO))
                .expected_got(format!("a number below {count}"), no));
        }
        Ok(Self { no, count, tensors })
    }

    /// Checks that the name of the file says the same, and gives the stem of all names.
    fn check_name(&self, path: &Path) -> Result<(PathBuf, u64)> {
        let error = |got: String| {
            Err(Error::bad_file("the name does not say which part of a split model this is")
                .in_file(path)
                .at(format!("keys {}, {}", split::KEY_NO, split::KEY_COUNT))
                .expected_got(
                    format!("a name that ends in -{:05}-of-{:05}.gguf", self.no + 1, self.count),
                    got,
                )
                .advice("give the parts their original names"))
        };
        match split::parse_part(path) {
            Some((stem, no, count)) if no == self.no && count == self.count => Ok((stem, no)),
            _ => error(shown(&path.file_name().unwrap_or_default().to_string_lossy())),
        }
    }

    /// Checks that a part found as number `no` belongs to the model of `first`.
    fn check_same(&self, first: &Self, no: u64) -> Result<()> {
        let differs = |key: &str, expected: u64, got: u64| {
            Err(Error::bad_file("this part belongs to another split model")
                .at(format!("key {key}"))
                .expected_got(expected, got))
        };
        if self.count != first.count {
            return differs(split::KEY_COUNT, first.count, self.count);
        }
        if self.no != no {
            return differs(split::KEY_NO, no, self.no);
        }
        match (self.tensors, first.tensors) {
            (Some(this), Some(all)) if this != all => differs(split::KEY_TENSORS, all, this),
            _ => Ok(()),
        }
    }

    fn check_total(&self, all: &Assembly) -> Result<()> {
        let got = (all.tensors.len() + all.unsupported.len()) as u64;
        match self.tensors {
            Some(expected) if expected != got => {
                Err(Error::bad_file("tensors are missing from a split model")
                    .at(format!("key {}", split::KEY_TENSORS))
                    .expected_got(format!("{expected} tensors in all parts"), got))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev_model(name: &str) -> Option<PathBuf> {
        let folder = std::env::var_os("LAPWING_TEST_MODELS")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share/lapwing/models")))?;
        Some(folder.join(name)).filter(|p| p.exists())
    }

    #[test]
    fn a_real_model_opens_mapped_and_read() {
        let Some(path) = dev_model("smollm2-135m-instruct-q4_1.gguf") else {
            println!("skipped: no SmolLM2 model found");
            return;
        };
        let mapped = Gguf::open(&path, &OpenOptions::default()).unwrap();
        let read = Gguf::open(&path, &OpenOptions { mmap: false, ..Default::default() }).unwrap();
        assert_eq!(mapped.architecture().unwrap(), "llama");
        assert_eq!(mapped.get_u32("llama.block_count").unwrap(), 30);
        assert_eq!(mapped.get_strings("tokenizer.ggml.tokens").unwrap().len(), 49152);
        let q = mapped.tensor_of_shape("blk.0.attn_q.weight", &[576, 576]).unwrap();
        assert_eq!((q.ty, q.rows(), q.data.len()), (TensorType::Q4_1, 576, 576 * 576 / 32 * 20));
        assert_eq!(q.data, read.tensor("blk.0.attn_q.weight").unwrap().data);
        mapped.check_unchanged().unwrap();
        assert!(
            mapped
                .get_str("llama.block_count")
                .unwrap_err()
                .to_string()
                .contains("expected a string, got u32 30")
        );
    }
}
