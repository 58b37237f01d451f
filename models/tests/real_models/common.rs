//! Where tests find models and golden data that are too large for this repository.
use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A model by its file name, looked for in `LAPWING_TEST_MODELS`, which makes a missing one a failure, else in
/// the user's data folder.
pub fn model(name: &str) -> Option<PathBuf> {
    let data = || match std::env::var_os("XDG_DATA_HOME") {
        Some(data) => Some(PathBuf::from(data)),
        None => Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")),
    };
    match std::env::var_os("LAPWING_TEST_MODELS") {
        Some(folder) => found(PathBuf::from(folder).join(name), "LAPWING_TEST_MODELS"),
        None => found(data()?.join("lapwing/models").join(name), "LAPWING_TEST_MODELS"),
    }
}

/// A file of the shared golden data, which lies beside the repository or where `LAPWING_SHARED` says.
pub fn shared(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("LAPWING_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    found(folder.join("golden").join(name), "LAPWING_REQUIRE_SHARED")
}

/// What of llama.cpp tests read: the folder of `LAPWING_LLAMA_CPP`, else that of scripts/fetch-llama-cpp.
pub fn llama_cpp() -> Option<PathBuf> {
    let folder = std::env::var_os("LAPWING_LLAMA_CPP").map(PathBuf::from);
    let data = || match std::env::var_os("XDG_DATA_HOME") {
        Some(data) => Some(PathBuf::from(data)),
        None => Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")),
    };
    found(folder.or_else(|| Some(data()?.join("lapwing/llama.cpp")))?, "LAPWING_REQUIRE_SHARED")
}

/// `path` if it is there; else says so, and fails when the variable `required` is set.
fn found(path: PathBuf, required: &str) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os(required).is_none(), "{required} is set and {} is missing", path.display());
    println!("SKIPPED: {} is missing", path.display());
    None
}
