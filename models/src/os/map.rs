//! The bytes of a file: mapped, or read into memory.
use std::fs::{File, Metadata};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Mmap, MmapMut};

use super::fault;
use crate::error::{Class, Error, Result};

/// All bytes of a file, readable while this lives.
#[derive(Debug)]
pub struct Bytes {
    // Fields drop in this order: the handler forgets the map before it is unmapped.
    _guard: Option<fault::Guard>,
    map: Option<Mmap>,
}

impl Bytes {
    /// Maps the first `len` bytes of `file`, which is at `path`.
    ///
    /// Should the file become shorter while it is mapped, the process ends with one line and the exit code
    /// of [`Class::Changed`]; other changes are found by [`Fingerprint::check`].
    ///
    /// # Errors
    /// When the system refuses the map, or thousands of them exist.
    pub fn map(file: &File, len: u64, path: &Path) -> Result<Self> {
        if len == 0 {
            return Ok(Self { _guard: None, map: None });
        }
        let len = to_usize(len, path)?;
        // SAFETY: the map is only read, as bytes, for which every value is valid. Another process may change
        // the file: a shorter file raises a fault that the guard below turns into an exit; changed bytes are
        // read as garbage numbers, which all kernels stand (they are memory-safe for any block bytes), and
        // everything that decides sizes and offsets was copied out beforehand.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file) }
            .map_err(|e| Error::io("map", path, &e))?;
        // What is not in the page cache yet is then read in large pages where the file system has them (ext4 and XFS of
        // recent kernels), and stays so for later processes: fewer faults, and fewer misses of the address cache.
        super::large_pages(&map);
        let guard = fault::watch(&map, path).ok_or_else(|| {
            Error::new(Class::Memory, "too many files are mapped")
                .in_file(path)
                .advice("close other models first")
        })?;
        Ok(Self { _guard: Some(guard), map: Some(map) })
    }

    /// Reads the first `len` bytes of `file`, which is at `path`, into memory.
    ///
    /// # Errors
    /// [`Class::Memory`] when there is not enough, [`Class::Changed`] when the file has become shorter.
    pub fn read(mut file: &File, len: u64, path: &Path) -> Result<Self> {
        Self::make(len, path, |bytes| {
            file.rewind().and_then(|()| file.read_exact(bytes)).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    Error::new(Class::Changed, "the file became shorter while it was read").in_file(path)
                }
                _ => Error::io("read", path, &e),
            })
        })
        .map_err(|e| match e.class {
            Class::Memory => e.advice("map it instead (without --no-mmap)"),
            _ => e,
        })
    }

    /// `len` bytes of memory that `fill` writes, for what is to be used as if it were the file `path`. The bytes
    /// are zeros before.
    ///
    /// # Errors
    /// [`Class::Memory`] when there is not enough, and what `fill` gives.
    pub fn make(len: u64, path: &Path, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        if len == 0 {
            fill(&mut [])?;
            return Ok(Self { _guard: None, map: None });
        }
        let none = |free: String| {
            Error::new(Class::Memory, "not enough memory for all of the model")
                .in_file(path)
                .expected_got(format!("{len} bytes free"), free)
        };
        if let Some(free) = super::available_memory().filter(|&free| free < len) {
            return Err(none(free.to_string()));
        }
        let mut bytes = MmapMut::map_anon(to_usize(len, path)?).map_err(|e| none(e.to_string()))?;
        super::large_pages(&bytes);
        fill(&mut bytes)?;
        let map = bytes.make_read_only().map_err(|e| Error::io("protect the memory of", path, &e))?;
        Ok(Self { _guard: None, map: Some(map) })
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

fn to_usize(len: u64, path: &Path) -> Result<usize> {
    usize::try_from(len).map_err(|_| {
        Error::new(Class::Memory, "the file is larger than this machine can address").in_file(path)
    })
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    path: PathBuf,
    identity: Identity,
}

/// Device, inode, size and time of the last change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    device_and_inode: (u64, u64),
    size: u64,
    modified: Option<SystemTime>,
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        #[cfg(unix)]
        let device_and_inode = {
            use std::os::unix::fs::MetadataExt;
            (meta.dev(), meta.ino())
        };
        #[cfg(not(unix))]
        let device_and_inode = (0, 0);
        Self { device_and_inode, size: meta.len(), modified: meta.modified().ok() }
    }
}

impl Fingerprint {
    /// The present state of the file at `path`, whose open handle gave `meta`.
    pub fn new(path: &Path, meta: &Metadata) -> Self {
        // Absolute, so that a later change of the working folder does not matter.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        Self { path, identity: Identity::of(meta) }
    }

    /// Compares with the file as it is now.
    ///
    /// # Errors
    /// [`Class::Changed`] when it was replaced, removed, resized or written to.
    pub fn check(&self) -> Result<()> {
        let changed = |message: &str| {
            Err(Error::new(Class::Changed, message).in_file(&self.path).advice("restore it and start again"))
        };
        let now = match std::fs::metadata(&self.path) {
            Ok(meta) => Identity::of(&meta),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return changed("the file was removed while in use");
            }
            Err(e) => return Err(Error::io("look at", &self.path, &e)),
        };
        if now == self.identity {
            Ok(())
        } else if now.device_and_inode != self.identity.device_and_inode {
            changed("the file was replaced while in use")
        } else if now.size != self.identity.size {
            changed("the file changed its size while in use")
        } else {
            changed("the file was written to while in use")
        }
    }
}
