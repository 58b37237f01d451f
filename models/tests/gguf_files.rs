//! GGUF files as other programs use them: written and read again, split, changed while in use.
use std::path::{Path, PathBuf};

use lapwing_kernels::TensorType;
use lapwing_models::Class;
use lapwing_models::gguf::{Array, Gguf, OpenOptions, Split, Strings, Value, Writer};
use lapwing_models::os::Bytes;
use tempfile::{TempDir, tempdir};

/// Names of what is in a folder, in order.
fn names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn open(path: &Path) -> lapwing_models::Result<Gguf> {
    Gguf::open(path, &OpenOptions::default())
}

/// One value of every kind.
fn values() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", "llama".into()),
        ("u8", 200u8.into()),
        ("i8", (-100i8).into()),
        ("u16", 60_000u16.into()),
        ("i16", (-30_000i16).into()),
        ("u32", u32::MAX.into()),
        ("i32", i32::MIN.into()),
        ("u64", u64::MAX.into()),
        ("i64", i64::MIN.into()),
        ("f32", 1e-5f32.into()),
        ("f64", 1e-300f64.into()),
        ("bool", true.into()),
        ("string", "grün ✓".into()),
        ("a.u8", Array::U8(vec![1, 255]).into()),
        ("a.i8", Array::I8(vec![-1, 1]).into()),
        ("a.u16", Array::U16(vec![1, 60_000]).into()),
        ("a.i16", Array::I16(vec![-1]).into()),
        ("a.u32", vec![3u32, 4].into()),
        ("a.i32", vec![-3i32, 4].into()),
        ("a.u64", Array::U64(vec![u64::MAX]).into()),
        ("a.i64", Array::I64(vec![i64::MIN, 5]).into()),
        ("a.f32", vec![0.5f32, f32::INFINITY].into()),
        ("a.f64", Array::F64(vec![0.25]).into()),
        ("a.bool", vec![true, false].into()),
        ("a.string", Strings::from_iter(["", "one", "zwölf", ""]).into()),
        ("a.none", Strings::new().into()),
    ]
}

/// Ten tensors of odd sizes; each byte of one is its number.
fn write(path: &Path, split: Split) -> Vec<PathBuf> {
    let mut writer = Writer::new(path);
    for (key, value) in values() {
        writer.set(key, value);
    }
    for i in 0..10 {
        writer.tensor(&format!("t.{i}"), TensorType::Q4_0, &[32, 1 + i, 2]).unwrap();
    }
    writer.split(split);
    let mut stream = writer.start().unwrap();
    // In pieces that respect no border.
    let data: Vec<u8> = (0..10u8).flat_map(|i| vec![i; 18 * (1 + usize::from(i)) * 2]).collect();
    for piece in data.chunks(29) {
        stream.write(piece).unwrap();
    }
    stream.finish().unwrap()
}

fn check(gguf: &Gguf) {
    for (key, value) in values() {
        assert_eq!(gguf.get(key), Some(&value), "{key}");
    }
    assert_eq!(gguf.n_tensors(), 10);
    for (i, tensor) in gguf.tensors().enumerate() {
        assert_eq!((tensor.name, tensor.shape), (format!("t.{i}").as_str(), &[32, 1 + i, 2][..]));
        assert_eq!(tensor.data, vec![i as u8; 18 * (1 + i) * 2]);
        assert_eq!(tensor.data.as_ptr() as usize % 32, 0);
    }
}

#[test]
fn what_was_written_is_read() {
    let folder = tempdir().unwrap();
    let paths = write(&folder.path().join("m.gguf"), Split::None);
    assert_eq!(paths, [folder.path().join("m.gguf")]);
    let gguf = open(&paths[0]).unwrap();
    check(&gguf);
    assert_eq!(names(&folder), ["m.gguf"]);
    assert_eq!(gguf.get_u32("u8").unwrap(), 200);
    assert_eq!(gguf.get_u64("u64").unwrap(), u64::MAX);
    assert_eq!(gguf.opt_u32("absent").unwrap(), None);
    assert_eq!(gguf.opt_u32_per_layer("a.u32", 2).unwrap(), Some(vec![3, 4]));
    assert_eq!(gguf.opt_u32_per_layer("u8", 2).unwrap(), Some(vec![200, 200]));
    for (error, key, expected) in [
        (gguf.get_u32("i8").unwrap_err(), "i8", "-100"),
        (gguf.get_u32("u64").unwrap_err(), "u64", "18446744073709551615"),
        (gguf.get_u32("string").unwrap_err(), "string", "string \"grün ✓\""),
        (gguf.get_str("f32").unwrap_err(), "f32", "f32 0.00001"),
        (gguf.get_f32("u8").unwrap_err(), "u8", "a finite f32"),
        (gguf.get_bool("u8").unwrap_err(), "u8", "a bool"),
        (gguf.get_strings("a.u8").unwrap_err(), "a.u8", "array of u8, 2 elements"),
        (gguf.get_ints("a.f32").unwrap_err(), "a.f32", "array of integers"),
        (gguf.get_ints("a.u64").unwrap_err(), "a.u64", "array of u64"),
        (gguf.opt_u32_per_layer("a.u32", 3).unwrap_err(), "a.u32", "array of 3"),
        (gguf.get_f32("absent").unwrap_err(), "absent", "missing"),
        (gguf.tensor_of_shape("t.1", &[32, 4]).unwrap_err(), "t.1", "[32, 2, 2]"),
        (gguf.tensor_of_shape("t.x", &[32, 4]).unwrap_err(), "t.x", "missing"),
    ] {
        let text = error.to_string();
        assert_eq!((error.class, error.file.as_deref()), (Class::BadFile, Some(gguf.path())));
        assert!(error.at.ends_with(&format!(" {key}")) && text.contains(expected), "{text}");
    }
}

#[test]
fn a_model_in_memory_is_the_file_that_would_be_written() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::new(folder.path().join("m.gguf"));
    for (key, value) in values() {
        writer.set(key, value);
    }
    for i in 0..10 {
        writer.tensor(&format!("t.{i}"), TensorType::Q4_0, &[32, 1 + i, 2]).unwrap();
    }
    let gguf = writer
        .in_memory(|data| {
            data.into_iter().enumerate().for_each(|(i, data)| data.fill(i as u8));
            Ok(())
        })
        .unwrap();
    check(&gguf);
    gguf.check_unchanged().unwrap();
    assert_eq!(names(&folder), [""; 0]);
    let path = write(&folder.path().join("m.gguf"), Split::None).remove(0);
    assert_eq!(gguf.file_bytes(), std::fs::metadata(&path).unwrap().len());
    let part = write(&folder.path().join("m.gguf"), Split::Parts(2)).remove(0);
    let bytes = std::fs::read(&part).unwrap();
    let bytes = Bytes::make(bytes.len() as u64, &part, |b| {
        b.copy_from_slice(&bytes);
        Ok(())
    });
    let error = Gguf::from_bytes(bytes.unwrap(), &part, &OpenOptions::default()).unwrap_err();
    assert_eq!((error.class, error.at.as_str()), (Class::BadFile, "key split.count"));
}

#[test]
fn a_split_model_opens_by_any_of_its_parts() {
    let folder = tempdir().unwrap();
    for (split, n) in
        [(Split::Parts(3), 3), (Split::Parts(10), 10), (Split::MaxBytes(500), 6), (Split::Parts(1), 1)]
    {
        let paths = write(&folder.path().join("m.gguf"), split);
        assert_eq!(paths.len(), n, "{split:?}");
        assert_eq!(names(&folder).len(), n);
        for path in &paths {
            let gguf = open(path).unwrap();
            assert_eq!((gguf.n_parts(), gguf.path()), (n, paths[0].as_path()));
            check(&gguf);
        }
        paths.iter().for_each(|p| std::fs::remove_file(p).unwrap());
    }
}

#[test]
fn parts_that_do_not_belong_together() {
    let folder = tempdir().unwrap();
    let refused = |path: &Path, words: &[&str]| {
        let error = open(path).unwrap_err();
        assert_eq!(error.class, Class::BadFile, "{error}");
        words.iter().for_each(|w| assert!(error.to_string().contains(w), "{w:?} is not in: {error}"));
    };
    let fresh = || write(&folder.path().join("m.gguf"), Split::Parts(3));
    // A model of ten small tensors in three parts.
    let another = |name: &str, tensors: [&str; 10]| {
        let mut writer = Writer::new(folder.path().join(name));
        tensors.iter().for_each(|n| writer.tensor(n, TensorType::F32, &[4]).unwrap());
        writer.split(Split::Parts(3));
        let mut stream = writer.start().unwrap();
        stream.write(&[0; 160]).unwrap();
        stream.finish().unwrap()
    };

    let p = fresh();
    std::fs::remove_file(&p[1]).unwrap();
    refused(&p[0], &["m-00002-of-00003.gguf", "no such file", "one folder"]);

    // One part twice, one missing.
    let p = fresh();
    std::fs::copy(&p[2], &p[1]).unwrap();
    refused(&p[0], &["m-00002-of-00003.gguf", "split.no", "expected 1, got 2"]);

    // Names that say something else.
    let p = fresh();
    std::fs::rename(&p[0], folder.path().join("other.gguf")).unwrap();
    refused(&folder.path().join("other.gguf"), &["split.no", "-00001-of-00003.gguf", "other.gguf"]);
    std::fs::rename(folder.path().join("other.gguf"), folder.path().join("m-00001-of-00004.gguf")).unwrap();
    refused(&folder.path().join("m-00001-of-00004.gguf"), &["-00001-of-00003.gguf"]);
    std::fs::remove_file(folder.path().join("m-00001-of-00004.gguf")).unwrap();

    // A part of a model with another number of parts, under the right name.
    let p = fresh();
    let other = write(&folder.path().join("o.gguf"), Split::Parts(2));
    std::fs::copy(&other[1], &p[1]).unwrap();
    refused(&p[0], &["m-00002-of-00003.gguf", "split.count", "expected 3, got 2"]);

    // A part of another model: its tensors are there twice.
    let p = fresh();
    let other = another("n.gguf", ["t.0", "t.1", "t.2", "x", "y", "z", "u", "v", "w", "a"]);
    std::fs::copy(&other[0], &p[1]).unwrap();
    refused(&p[0], &["split.no"]);
    std::fs::copy(&p[0], &other[0]).unwrap();
    refused(&other[1], &["split.tensors.count", "10"]);

    // The second part of another model whose number of parts and tensors happens to be the same.
    let p = fresh();
    let other = another("q.gguf", ["q.0", "q.1", "q.2", "t.0", "t.1", "t.2", "t.3", "t.4", "t.5", "t.6"]);
    // As many tensors as the part it replaces, so that only their names tell.
    let count = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        u64::from_le_bytes(bytes[8..16].try_into().unwrap())
    };
    assert_eq!(count(&p[1]), count(&other[1]), "choose another split");
    std::fs::copy(&other[1], &p[1]).unwrap();
    refused(&p[0], &["tensor t.1", "two parts"]);

    // Cut within its data, and not a GGUF file.
    let p = fresh();
    let bytes = std::fs::read(&p[1]).unwrap();
    std::fs::write(&p[1], &bytes[..bytes.len() - 40]).unwrap();
    refused(&p[2], &["m-00002-of-00003.gguf", "outside"]);
    std::fs::write(&p[1], "text").unwrap();
    refused(&p[2], &["m-00002-of-00003.gguf", "not a GGUF"]);
}

/// Split keys of one file under the name of a part; the writer would not write these.
#[test]
fn impossible_split_keys() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("m-00001-of-00002.gguf");
    for (key, value, word) in [
        ("split.count", Value::I32(-1), "-1"),
        ("split.count", Value::U32(1025), "1025"),
        ("split.count", Value::U32(70_000), "70000"),
        ("split.count", "two".into(), "string"),
        ("split.no", Value::U16(5), "below 2"),
        ("split.tensors.count", Value::F32(1.0), "f32"),
    ] {
        let mut bytes = Vec::from(*b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
        let mut put = |key: &str, value: &Value| {
            bytes.extend((key.len() as u64).to_le_bytes());
            bytes.extend(key.as_bytes());
            match value {
                Value::I32(v) => (bytes.extend(5u32.to_le_bytes()), bytes.extend(v.to_le_bytes())).1,
                Value::U32(v) => (bytes.extend(4u32.to_le_bytes()), bytes.extend(v.to_le_bytes())).1,
                Value::U16(v) => (bytes.extend(2u32.to_le_bytes()), bytes.extend(v.to_le_bytes())).1,
                Value::F32(v) => (bytes.extend(6u32.to_le_bytes()), bytes.extend(v.to_le_bytes())).1,
                Value::String(v) => {
                    bytes.extend(8u32.to_le_bytes());
                    bytes.extend((v.len() as u64).to_le_bytes());
                    bytes.extend(v.as_bytes());
                }
                _ => unreachable!(),
            }
        };
        put(key, &value);
        put(if key == "split.count" { "split.no" } else { "split.count" }, &Value::U16(2));
        std::fs::write(&path, &bytes).unwrap();
        let error = open(&path).unwrap_err();
        assert_eq!(error.class, Class::BadFile);
        assert!(error.at.contains(key) && error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_writer_refuses_what_readers_would() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::new(folder.path().join("m.gguf"));
    assert!(writer.tensor("", TensorType::F32, &[1]).is_err());
    assert!(writer.tensor(&"n".repeat(64), TensorType::F32, &[1]).is_err());
    assert!(writer.tensor("t", TensorType::Q4_0, &[33]).is_err());
    assert!(writer.tensor("t", TensorType::F32, &[]).is_err());
    assert!(writer.tensor("t", TensorType::F32, &[1, 1, 1, 1, 1]).is_err());
    assert!(writer.tensor("t", TensorType::F32, &[usize::MAX, 2]).is_err());
    writer.tensor("t", TensorType::F32, &[4]).unwrap();
    writer.tensor("u", TensorType::F32, &[4]).unwrap();
    writer.split(Split::Parts(3));
    let error = writer.start().unwrap_err();
    assert_eq!(error.class, Class::Usage, "{error}");

    let mut writer = Writer::new(folder.path().join("m.gguf"));
    writer.tensor("t", TensorType::F32, &[4]).unwrap();
    let mut stream = writer.start().unwrap();
    stream.write(&[0; 15]).unwrap();
    assert!(stream.finish().is_err());
    let mut writer = Writer::new(folder.path().join("m.gguf"));
    writer.tensor("t", TensorType::F32, &[4]).unwrap();
    let mut stream = writer.start().unwrap();
    assert!(stream.write(&[0; 17]).is_err());
    drop(stream);
    let mut writer = Writer::new(folder.path().join("m.gguf"));
    writer.tensor("t", TensorType::F32, &[4]).unwrap();
    writer.tensor("t", TensorType::F32, &[4]).unwrap();
    assert!(writer.start().is_err());
    assert_eq!(names(&folder), [""; 0], "a failure leaves nothing behind");
}

#[test]
fn changes_while_in_use_are_found() {
    let folder = tempdir().unwrap();
    let path = write(&folder.path().join("m.gguf"), Split::Parts(2)).remove(1);
    let opened = || open(&path).unwrap();
    let changed = |gguf: &Gguf, word: &str| {
        let error = gguf.check_unchanged().unwrap_err();
        assert_eq!((error.class, error.file.as_deref()), (Class::Changed, Some(path.as_path())));
        assert!(error.to_string().contains(word), "{error}");
    };
    let bytes = std::fs::read(&path).unwrap();

    let gguf = opened();
    gguf.check_unchanged().unwrap();
    // The clock of the file system may be coarse: wait until it has ticked.
    std::thread::sleep(std::time::Duration::from_millis(50));
    std::fs::write(&path, &bytes).unwrap();
    changed(&gguf, "written to");

    let gguf = opened();
    std::fs::write(&path, [&bytes[..], b"more"].concat()).unwrap();
    changed(&gguf, "size");

    let gguf = opened();
    std::fs::write(folder.path().join("new"), &bytes).unwrap();
    std::fs::rename(folder.path().join("new"), &path).unwrap();
    changed(&gguf, "replaced");
    // Replacing leaves the mapped file whole.
    check(&gguf);

    let gguf = opened();
    let read = Gguf::open(&path, &OpenOptions { mmap: false, ..OpenOptions::default() }).unwrap();
    std::fs::remove_file(&path).unwrap();
    changed(&gguf, "removed");
    read.check_unchanged().unwrap();
    check(&read);
}

/// The child of the next test: opens a file, cuts it, and reads on from several threads.
#[test]
#[cfg(unix)]
fn child_reads_a_file_that_is_cut() {
    let Some(path) = std::env::var_os("LAPWING_TEST_CUT") else { return };
    lapwing_models::os::faults_as_json(std::env::var_os("LAPWING_TEST_JSON").is_some());
    let gguf = open(Path::new(&path)).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let read = || gguf.tensors().flat_map(|t| t.data).map(|&b| u64::from(b)).sum::<u64>();
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(read))));
    println!("read on without a fault");
}

#[test]
#[cfg(unix)]
fn a_file_cut_while_mapped_ends_in_one_line_and_exit_5() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("m\n.gguf");
    for json in [false, true] {
        let mut writer = Writer::new(&path);
        writer.tensor("t", TensorType::F32, &[1 << 20]).unwrap();
        let mut stream = writer.start().unwrap();
        stream.write(&vec![1; 4 << 20]).unwrap();
        stream.finish().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child
            .args(["child_reads_a_file_that_is_cut", "--exact", "--nocapture"])
            .env("LAPWING_TEST_CUT", &path);
        if json {
            child.env("LAPWING_TEST_JSON", "1");
        }
        let child = child.output().unwrap();
        let stderr = String::from_utf8(child.stderr).unwrap();
        assert_eq!(child.status.code(), Some(5), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let what = "the file became shorter while it was in use; restore it and start again";
        if json {
            let value: serde_json::Value = serde_json::from_str(&stderr).unwrap();
            assert_eq!(value["error"]["class"], "changed");
            assert_eq!(value["error"]["file"].as_str(), path.to_str());
            assert!(value["error"]["message"].as_str().unwrap().contains(what));
        } else {
            let name = path.display().to_string().replace('\n', " ");
            assert_eq!(stderr, format!("lapwing: {name}: {what}\n"));
        }
    }
}

/// The child of the next test: a fault outside every map, with one present.
#[test]
#[cfg(unix)]
fn child_faults_elsewhere() {
    let Some(path) = std::env::var_os("LAPWING_TEST_FAULT") else { return };
    let _gguf = open(Path::new(&path)).unwrap();
    // The first goes through to Rust's own handler, which puts the default back and returns; the second then
    // meets the default.
    let pid = std::process::id().to_string();
    for _ in 0..2 {
        std::process::Command::new("kill").args(["-BUS", &pid]).status().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[test]
#[cfg(unix)]
fn other_faults_go_to_whoever_had_them_before() {
    use std::os::unix::process::ExitStatusExt;
    let folder = tempdir().unwrap();
    let path = write(&folder.path().join("m.gguf"), Split::None).remove(0);
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["child_faults_elsewhere", "--exact", "--nocapture"])
        .env("LAPWING_TEST_FAULT", &path)
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(number_of_sigbus()), "{:?}", child.status);
    assert!(!String::from_utf8_lossy(&child.stderr).contains("became shorter"));
}

/// The number of the signal on this system.
#[cfg(unix)]
fn number_of_sigbus() -> i32 {
    if cfg!(target_os = "linux") { 7 } else { 10 }
}

/// The name of the temporary file does not depend on the target's.
#[test]
fn the_longest_name_a_file_can_have() {
    let folder = tempdir().unwrap();
    let path = folder.path().join(format!("{}.gguf", "x".repeat(250)));
    assert_eq!(write(&path, Split::None), [path]);
}
