//! The recipes of bad files against the real program, each in its own process with little memory and time.
#![forbid(unsafe_code)]
#![cfg(unix)]

#[path = "../models/tests/hostile/mod.rs"]
mod hostile;

use std::path::Path;
use std::process::Command;

/// Runs `inspect` within 300 MB of address space and 2 s of processor time; gives exit code and stderr.
fn inspect(path: &Path) -> (Option<i32>, String) {
    let out = Command::new("sh")
        .args(["-c", "ulimit -v 300000; ulimit -t 2; ulimit -c 0; exec \"$0\" inspect \"$1\" -o json"])
        .arg(env!("CARGO_BIN_EXE_lapwing"))
        .arg(path)
        .output()
        .unwrap();
    (out.status.code(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn the_program_refuses_bad_files_by_name_within_limits() {
    let folder = std::env::temp_dir().join(format!("lapwing-hostile-files-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("bad.gguf");
    let mut refused = 0;
    for case in hostile::rejects() {
        // `inspect` lists what cannot be computed instead of refusing it.
        if case.name.ends_with("which is not computed") {
            continue;
        }
        std::fs::write(&path, &case.bytes).unwrap();
        let (code, stderr) = inspect(&path);
        assert_eq!(code, Some(3), "{}: {stderr}", case.name);
        let json: serde_json::Value =
            serde_json::from_str(&stderr).unwrap_or_else(|e| panic!("{}: {e}: {stderr}", case.name));
        let error = &json["error"];
        assert_eq!(error["class"], "bad-file", "{}: {stderr}", case.name);
        assert_eq!(error["file"].as_str(), path.to_str(), "{}: {stderr}", case.name);
        let message = error["message"].as_str().unwrap();
        case.says
            .iter()
            .for_each(|word| assert!(message.contains(word.as_str()), "{}: {message}", case.name));
        refused += 1;
    }
    assert!(refused >= 180, "{refused}");
    let mut opened = 0;
    for (name, bytes) in hostile::accepts() {
        std::fs::write(&path, &bytes).unwrap();
        let (code, stderr) = inspect(&path);
        // Two have no architecture to name; that, too, is said in order.
        let unnamed = code == Some(3) && stderr.contains("general.architecture");
        assert!(code == Some(0) || unnamed, "{name}: {stderr}");
        opened += 1;
    }
    assert!(opened >= 24, "{opened}");
    std::fs::remove_dir_all(folder).unwrap();
}
