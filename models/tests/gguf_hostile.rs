//! Bad GGUF files end in one typed error that names the place, quickly; odd ones open.
use std::path::{Path, PathBuf};
use std::time::Duration;

use lapwing_models::Class;
use lapwing_models::gguf::{Gguf, OpenOptions};
use tempfile::{TempDir, tempdir};

mod hostile;

/// Writes a file in a folder.
fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Time that a processor worked for this thread: what other programs do meanwhile does not count.
#[cfg(unix)]
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the `timespec` given, which outlives it.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the clock is read");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Without such a clock: time on the wall.
#[cfg(not(unix))]
fn cpu_time() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

fn open(path: &Path, mmap: bool) -> lapwing_models::Result<Gguf> {
    Gguf::open(path, &OpenOptions { mmap, ..OpenOptions::default() })
}

#[test]
fn bad_files_are_refused_by_name_and_place() {
    let folder = tempdir().unwrap();
    let all = hostile::rejects();
    assert!(all.len() >= 200, "{} recipes", all.len());
    for case in &all {
        let path = write(&folder, "bad.gguf", &case.bytes);
        for mmap in [true, false] {
            let start = cpu_time();
            let error = match open(&path, mmap) {
                Ok(_) => panic!("{}: accepted", case.name),
                Err(error) => error,
            };
            let took = cpu_time() - start;
            assert_eq!(error.class, Class::BadFile, "{}: {error}", case.name);
            assert_eq!(error.file.as_deref(), Some(path.as_path()), "{}: {error}", case.name);
            let text = error.to_string();
            assert!(!error.at.is_empty() || text.contains("empty"), "{}: names no place: {text}", case.name);
            for word in &case.says {
                assert!(text.contains(word), "{}: {word:?} is not in: {text}", case.name);
            }
            assert!(!text.chars().any(char::is_control), "{}: {text:?}", case.name);
            assert!(text.len() < 1000, "{}: {} bytes of message", case.name, text.len());
            assert!(took < Duration::from_millis(100), "{}: {took:?}", case.name);
        }
    }
    println!("{} files refused", all.len());
}

#[test]
fn odd_but_valid_files_open() {
    let folder = tempdir().unwrap();
    let all = hostile::accepts();
    assert!(all.len() >= 24, "{} recipes", all.len());
    for (name, bytes) in &all {
        let path = write(&folder, "odd.gguf", bytes);
        for mmap in [true, false] {
            let gguf = open(&path, mmap).unwrap_or_else(|e| panic!("{name}: {e}"));
            gguf.check_unchanged().unwrap();
            for tensor in gguf.tensors() {
                assert_eq!(tensor.data.len(), tensor.ty.row_bytes(tensor.cols()).unwrap() * tensor.rows());
                assert_eq!(gguf.tensor(tensor.name).unwrap().data, tensor.data);
            }
            for (key, value) in gguf.entries() {
                // As text, because NaN does not equal itself.
                assert_eq!(format!("{:?}", gguf.get(key)), format!("{:?}", Some(value)));
            }
        }
    }
    println!("{} files opened", all.len());
}

/// `inspect` lists what cannot be computed.
#[test]
fn types_that_are_not_computed_are_listed_when_asked_for() {
    let folder = tempdir().unwrap();
    let file = hostile::File::with(|f| {
        f.tensors[1] =
            hostile::Tensor { name: b"b".to_vec(), n_dims: None, dims: vec![512], ty: 16, offset: 64 };
        f.data = vec![0; 64 + 132];
    });
    let path = write(&folder, "types.gguf", &file.bytes());
    let gguf = Gguf::open(&path, &OpenOptions { any_type: true, ..OpenOptions::default() }).unwrap();
    assert_eq!((gguf.n_tensors(), gguf.unsupported().len()), (1, 1));
    let other = &gguf.unsupported()[0];
    assert_eq!((other.name.as_str(), other.type_name, other.bytes), ("b", "iq2_xxs", 132));
    assert!(gguf.tensor("b").is_none());
}

#[test]
fn long_names_are_cut_in_messages() {
    let folder = tempdir().unwrap();
    let file = hostile::File::with(|f| {
        f.keys[2] = hostile::Key { name: vec![b'k'; 5000], len: None, value: hostile::V::Bool(9) };
    });
    let text = open(&write(&folder, "long.gguf", &file.bytes()), true).unwrap_err().to_string();
    assert!(text.len() < 400 && text.contains("kkk…"), "{text}");
}

#[test]
fn things_that_are_no_files() {
    let folder = tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    // Where there is no mkfifo the name stays absent, which is refused as well.
    let _ = std::process::Command::new("mkfifo").arg(&pipe).status();
    let devices = ["/dev/null", "/dev/zero"].map(PathBuf::from);
    for path in [folder.path().to_path_buf(), pipe, folder.path().join("absent")].into_iter().chain(devices) {
        let error = open(&path, true).unwrap_err();
        assert_eq!(error.class, Class::BadFile, "{error}");
        assert_eq!(error.file.as_deref(), Some(path.as_path()));
    }
}

/// Huge files cost nothing on disk: only their length is set.
#[test]
fn huge_sparse_files_are_refused_quickly_in_little_memory() {
    let folder = tempdir().unwrap();
    let words = hostile::File::with(|f| {
        f.keys = vec![hostile::Key {
            name: b"many".to_vec(),
            len: None,
            value: hostile::V::Array(8, 1 << 30, Vec::new()),
        }];
        f.tensors.clear();
        f.data.clear();
    });
    let numbers = hostile::File::with(|f| {
        f.keys = vec![hostile::Key {
            name: b"many".to_vec(),
            len: None,
            value: hostile::V::Array(10, 1 << 29, Vec::new()),
        }];
    });
    let text = hostile::File::with(|f| f.keys[0].value = hostile::V::LongStr(1 << 32, Vec::new()));
    for (name, file) in [("words", words), ("numbers", numbers), ("text", text)] {
        let path = write(&folder, name, &file.bytes());
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 34).unwrap();
        let error = open(&path, true).unwrap_err();
        assert_eq!(error.class, Class::BadFile, "{error}");
        assert!(error.to_string().contains("too large"), "{error}");
        #[cfg(target_os = "linux")]
        {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
            let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
            assert!(kib < 400 << 10, "{name}: a peak of {kib} KiB");
        }
    }
}
