//! The folders that this user's own files are in, by the XDG scheme.
use std::path::{Path, PathBuf};

use lapwing_models::{Class, Error, Result};

/// `lapwing` in a folder of the XDG scheme: the one that the variable names, else the usual one below home.
fn xdg(variable: &str, usual: &str) -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute(variable).or_else(|| Some(absolute("HOME")?.join(usual)));
    folder.map(|folder| folder.join("lapwing"))
}

/// `lapwing` in the XDG configuration folder, if this user has a home.
pub fn config_folder() -> Option<PathBuf> {
    xdg("XDG_CONFIG_HOME", ".config")
}

/// `lapwing` in the XDG state folder, if this user has a home.
pub fn state_folder() -> Option<PathBuf> {
    xdg("XDG_STATE_HOME", ".local/state")
}

/// `lapwing` in the XDG data folder, if this user has a home.
pub fn data_folder() -> Option<PathBuf> {
    xdg("XDG_DATA_HOME", ".local/share")
}

/// The folder of saved sessions.
///
/// # Errors
/// When this user has no home.
pub fn session_folder() -> Result<PathBuf> {
    data_folder().map(|folder| folder.join("sessions")).ok_or_else(|| {
        Error::new(Class::Other, "there is no place for sessions").advice("set XDG_DATA_HOME to a folder")
    })
}

/// `path` as it is named from anywhere, for what is saved.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
