//! Writing a file so that a reader finds the old or the new one, never half of it.
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Class, Error, Result};

/// How the names of temporary files begin.
const TEMPORARY: &str = ".lapwing-";

/// A file in the making: a temporary one beside its target, which takes the target's place when it is
/// [committed](Self::commit) and disappears when it is dropped before.
#[derive(Debug)]
pub struct NewFile {
    out: BufWriter<File>,
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl NewFile {
    /// Begins a file that is to be at `target`.
    ///
    /// # Errors
    /// [`Class::Usage`] when something other than a file is there, else as [`Self::write`].
    pub fn create(target: &Path) -> Result<Self> {
        Self::begin(target, OpenOptions::new())
    }

    /// As [`Self::create`], for a file that nobody else may read, where the system knows such files.
    ///
    /// # Errors
    /// As there.
    pub fn create_private(target: &Path) -> Result<Self> {
        #[cfg_attr(not(unix), expect(unused_mut))]
        let mut options = OpenOptions::new();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Self::begin(target, options)
    }

    fn begin(target: &Path, mut options: OpenOptions) -> Result<Self> {
        let target = match std::fs::metadata(target) {
            Ok(meta) if !meta.is_file() => {
                let got = if meta.is_dir() { "a folder" } else { "a device, pipe or socket" };
                return Err(Error::new(Class::Usage, "cannot write there")
                    .in_file(target)
                    .expected_got("a new or an existing file", got));
            }
            // Through a link to the file it names, as a plain write would go.
            Ok(_) => std::fs::canonicalize(target).map_err(|e| Error::io("find", target, &e))?,
            Err(_) => target.to_path_buf(),
        };
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        // In the same folder, for a file can only be renamed within its file system. The name does not grow
        // with the target's, which may be as long as names can be.
        let temporary = target.with_file_name(format!("{TEMPORARY}{}-{n}.tmp", std::process::id()));
        let file = options
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|e| failed("create", &target, &e))?;
        // As long as it is locked, `sweep` leaves it alone. Where files cannot be locked it sweeps nothing either.
        let _ = file.try_lock();
        Ok(Self { out: BufWriter::with_capacity(1 << 20, file), temporary, target, committed: false })
    }

    /// Removes the temporary files in `folder` of programs that ended before they could.
    pub fn sweep(folder: &Path) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
        for path in entries.flatten().map(|entry| entry.path()) {
            let ours = name(&path).is_some_and(|name| name.starts_with(TEMPORARY) && name.ends_with(".tmp"));
            if ours && OpenOptions::new().write(true).open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                // Another one that sweeps may have been faster.
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    /// The file this is to become.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`Class::Memory`] when the disk is full, [`Class::Other`] for any other refusal.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| failed("write", &self.target, &e))
    }

    /// Flushes everything to the disk and puts the file in its place.
    ///
    /// # Errors
    /// As [`Self::write`]; the target is then as it was before.
    pub fn commit(mut self) -> Result<()> {
        let target = self.target.clone();
        let failed = |e: io::Error| failed("write", &target, &e);
        self.out.flush().map_err(failed)?;
        self.out.get_ref().sync_all().map_err(failed)?;
        std::fs::rename(&self.temporary, &self.target).map_err(failed)?;
        self.committed = true;
        // The new name is only safe once its folder is on the disk.
        #[cfg(unix)]
        {
            let folder = self.target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing is left to do when it cannot be removed.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn failed(what: &str, file: &Path, error: &io::Error) -> Error {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
        return Error::new(Class::Memory, format!("no room on the disk: {error}"))
            .in_file(file)
            .advice("nothing was changed; free some space or write elsewhere");
    }
    Error::io(what, file, error)
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn old_or_new_and_nothing_beside() {
        let folder = tempdir().unwrap();
        let target = folder.path().join("f");
        std::fs::write(&target, "old").unwrap();
        let mut file = NewFile::create(&target).unwrap();
        file.write(b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(names(folder.path()).len(), 2);
        drop(file);
        assert_eq!(names(folder.path()), ["f"]);
        let mut file = NewFile::create(&target).unwrap();
        file.write(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["f"]);
    }

    #[test]
    #[cfg(unix)]
    fn private_files_are_private_and_leftovers_are_swept() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempdir().unwrap();
        let mut file = NewFile::create_private(&folder.path().join("f")).unwrap();
        file.write(b"secret").unwrap();
        std::fs::write(folder.path().join(".lapwing-1-0.tmp"), b"left over").unwrap();
        std::fs::write(folder.path().join(".other.tmp"), b"not ours").unwrap();
        NewFile::sweep(folder.path());
        file.commit().unwrap();
        let mut names = names(folder.path());
        names.sort();
        assert_eq!(names, [".other.tmp", "f"]);
        let mode = std::fs::metadata(folder.path().join("f")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    #[cfg(unix)]
    fn links_are_followed_and_devices_refused() {
        let folder = tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "old").unwrap();
        std::os::unix::fs::symlink("f", folder.path().join("link")).unwrap();
        let mut file = NewFile::create(&folder.path().join("link")).unwrap();
        file.write(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"new");
        assert!(folder.path().join("link").is_symlink());
        assert_eq!(NewFile::create(folder.path()).unwrap_err().class, Class::Usage);
        assert_eq!(NewFile::create(Path::new("/dev/null")).unwrap_err().class, Class::Usage);
        assert_eq!(NewFile::create(Path::new("/nonexistent/f")).unwrap_err().class, Class::Other);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_apart() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = (&full).write_all(b"x").unwrap_err();
        assert_eq!(failed("write", Path::new("f"), &error).class, Class::Memory);
    }
}
