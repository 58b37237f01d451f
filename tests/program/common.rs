//! Running the binary and finding its model.
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The binary under test.
pub const LAPWING: &str = env!("CARGO_BIN_EXE_lapwing");

/// The small chat model, or `None`, said once, when it is not here. `LAPWING_TEST_MODELS` set means that it must be.
pub fn smollm2() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let demanded = std::env::var_os("LAPWING_TEST_MODELS").map(PathBuf::from);
            let usual = || {
                let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
                let data =
                    data.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
                data.map(|data| data.join("lapwing/models"))
            };
            let file = demanded.clone().or_else(usual)?.join("smollm2-135m-instruct-q4_1.gguf");
            if file.is_file() {
                return Some(file);
            }
            assert!(demanded.is_none(), "{} is missing: scripts/fetch-models smollm2", file.display());
            eprintln!("skipped: no {} (scripts/fetch-models smollm2)", file.display());
            None
        })
        .as_deref()
}

/// The folder of what llama.cpp ships (scripts/fetch-llama-cpp), or `None`, said, when it is not here.
/// `LAPWING_REQUIRE_SHARED` set means that it must be.
pub fn llama_cpp() -> Option<PathBuf> {
    let usual = || {
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
        let data = data.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
        data.map(|data| data.join("lapwing/llama.cpp"))
    };
    let folder = std::env::var_os("LAPWING_LLAMA_CPP").map(PathBuf::from).or_else(usual)?;
    if folder.is_dir() {
        return Some(folder);
    }
    let required = std::env::var_os("LAPWING_REQUIRE_SHARED").is_some();
    assert!(!required, "{} is missing: scripts/fetch-llama-cpp", folder.display());
    println!("SKIPPED: no {} (scripts/fetch-llama-cpp)", folder.display());
    None
}

/// A folder that is not there, in the place of this user's settings.
pub const NOWHERE: &str = "/nowhere/at/all";

/// What a run of the program gave.
pub struct Ran {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// The binary with `args`, in an environment where nothing of this user's own settings counts.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(LAPWING);
    command.args(args);
    for name in ["LAPWING_MODELS", "LAPWING_ISA", "LAPWING_CONFIG", "NO_COLOR"] {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", NOWHERE);
    command
}

/// Runs to the end with `input` on stdin.
pub fn run(command: &mut Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // A program that ends without reading all of it closes the pipe: no failure.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let Output { status, stdout, stderr } = child.wait_with_output().expect("the binary ends");
    writer.join().expect("the writer ends");
    Ran {
        code: status.code(),
        out: String::from_utf8(stdout).expect("UTF-8 on stdout"),
        err: String::from_utf8(stderr).expect("UTF-8 on stderr"),
    }
}

/// Runs the binary with `args` and nothing on stdin.
pub fn lapwing(args: &[&str]) -> Ran {
    run(&mut command(args), b"")
}

/// A folder for the files of one test; gone with the value.
pub struct Folder(TempDir);

impl Folder {
    /// A new folder whose name begins with `name`.
    pub fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix(name).tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        Self(folder.expect("a folder for the test"))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).expect("a file for the test");
        path
    }
}

/// Whether a tool is installed; without it the test is skipped with a word, and `LAPWING_REQUIRE=1` makes that fail.
pub fn has_tool(tool: &str) -> bool {
    let found =
        Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        assert!(std::env::var_os("LAPWING_REQUIRE").is_none_or(|v| v != "1"), "{tool} is not installed");
        eprintln!("skipped: {tool} is not installed");
    }
    found
}
