//! Ctrl-C while a file is made: nothing half-done is left.
#![cfg(unix)]
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::common::{Folder, command, smollm2};

/// Starts the program, which makes a file in `folder`; interrupts it once there is a beginning of one.
fn interrupted(args: &[&str], folder: &Path) {
    let files = || std::fs::read_dir(folder).expect("the folder").count();
    let mut child =
        command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    let start = Instant::now();
    while files() == 0 {
        assert_eq!(child.try_wait().expect("a child"), None, "ended too soon: {args:?}");
        assert!(start.elapsed() < Duration::from_secs(60), "begins no file: {args:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    let status = child.wait().expect("the binary ends");
    assert_eq!(status.code(), Some(130), "{args:?}");
    assert_eq!(files(), 0, "{args:?} leaves a file");
}

#[test]
fn an_interrupted_command_leaves_no_file() {
    let text = Folder::new("interrupted-text");
    let text = text.file("text", "All work and no play makes Jack a dull boy.\n".repeat(2000).as_bytes());
    let out = Folder::new("interrupted");
    let file = out.path().join("out");
    let file = file.to_str().expect("a test path");
    interrupted(&["synth", "llama-1b:f16", file], out.path());
    let Some(model) = smollm2() else { return };
    let model = model.to_str().expect("a test path");
    interrupted(
        &["perplexity", model, "-f", text.to_str().unwrap(), "--kl-divergence-base", file],
        out.path(),
    );
    interrupted(&["quantize", model, file, "f32"], out.path());
}
