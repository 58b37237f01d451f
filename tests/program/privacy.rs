//! Nothing leaves the machine, and nothing is written but what was asked for: a chat watched from outside.
use std::path::Path;
use std::process::Command;

use super::common::{Folder, LAPWING, has_tool, run, smollm2};

/// Everything below a folder.
fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => files(&path),
            path => vec![path.display().to_string()],
        })
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
fn a_chat_opens_no_socket_and_writes_no_file() {
    let Some(model) = smollm2() else { return };
    if !has_tool("strace") {
        return;
    }
    let folder = Folder::new("watched");
    let home = folder.path().join("home");
    std::fs::create_dir(&home).expect("a home");
    let trace = folder.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=network,%file,openat,creat", "-o"]);
    command.arg(&trace).arg(LAPWING).args(["chat", "--temp", "0", "-n", "8"]).arg(model);
    command.env_clear().env("HOME", &home).env("PATH", "/usr/bin:/bin").current_dir(&home);
    let ran = run(&mut command, b"What is the capital of France?\n/stats\n/exit\n");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(!ran.out.is_empty());

    let trace = std::fs::read_to_string(&trace).expect("the trace");
    assert!(trace.contains("openat("), "strace saw the program: {trace}");
    for line in trace.lines() {
        let socket = ["socket(", "connect(", "sendto(", "bind("].iter().any(|call| line.contains(call));
        assert!(!socket || line.contains("AF_UNIX"), "a socket: {line}");
        let writes = ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag));
        let failed = line.contains("= -1");
        assert!(!writes || failed || line.contains("\"/dev/"), "a file to write: {line}");
        let changes =
            ["creat(", "mkdir", "rename", "unlink", "truncate("].iter().any(|call| line.contains(call));
        assert!(!changes, "a change of files: {line}");
    }
    assert_eq!(files(&home), Vec::<String>::new());
}
