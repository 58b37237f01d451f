//! Where models are: `$LAPWING_MODELS` (folders, as in `PATH`), then the folders that the settings name, then
//! `lapwing/models` of the XDG data folder.
use std::path::{Path, PathBuf};

use lapwing_models::{Class, Error, Result};

use super::config::Config;
use super::folders::data_folder;

/// File-name start of the model that `quickstart` fetches and `lapwing chat` takes when given none.
pub const DEFAULT_MODEL: &str = "smollm2-135m-instruct-q4_1";

/// The folders searched for models, best first; they need not exist.
///
/// # Errors
/// What is wrong with the settings file.
pub fn model_folders() -> Result<Vec<PathBuf>> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("LAPWING_MODELS").iter().flat_map(std::env::split_paths).collect();
    folders.extend(Config::get()?.model_folders.iter().cloned());
    folders.extend(data_folder().map(|folder| folder.join("models")));
    folders.retain(|folder| !folder.as_os_str().is_empty());
    Ok(folders)
}

/// The file that `name` means: itself when it is a path, else a file of the model folders whose name (with or
/// without `.gguf`) equals it, else the only one that starts with it; letters compare without case.
///
/// # Errors
/// An error that lists what there is when nothing fits; a usage error when more than one file does.
pub fn model(name: &Path) -> Result<PathBuf> {
    if let Some(file) = Config::get()?.named(name).and_then(|named| named.file.as_deref())
        && file != name
    {
        return model(file);
    }
    if name.components().count() > 1 || name.is_absolute() || name.exists() {
        return Ok(name.to_path_buf());
    }
    let text = name.to_string_lossy().to_lowercase();
    let known = known_models()?;
    let stem = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let wanted = text.strip_suffix(".gguf").unwrap_or(&text);
    if let Some(path) = known.iter().find(|path| stem(path) == wanted) {
        return Ok(path.clone());
    }
    let starting: Vec<_> = known.iter().filter(|path| stem(path).starts_with(wanted)).collect();
    match starting.as_slice() {
        [path] => Ok((*path).clone()),
        [] => Err(Error::bad_file(format!("no model named {}", name.display()))
            .advice(format!("give a path, or one of: {}", names(&known)))),
        several => Err(Error::new(Class::Usage, format!("several models start with {}", name.display()))
            .advice(format!("say which: {}", names(several.iter().copied())))),
    }
}

/// The default model's file.
///
/// # Errors
/// An error that says how to get it when it is not there.
pub fn default_model() -> Result<PathBuf> {
    known_models()?
        .into_iter()
        .find(|path| path.file_stem().is_some_and(|stem| stem.eq_ignore_ascii_case(DEFAULT_MODEL)))
        .ok_or_else(|| {
            Error::bad_file("no model given, and the default model is not here")
                .advice("run ./quickstart to fetch it, or give the path of a GGUF file: lapwing chat MODEL")
        })
}

/// The GGUF files in the model folders.
fn known_models() -> Result<Vec<PathBuf>> {
    Ok(models_in(&model_folders()?))
}

/// The GGUF files in these folders; of a name in several folders, the first. Sorted within a folder.
pub fn models_in(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let mut files: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")))
            .filter(|path| !found.iter().any(|f| f.file_name() == path.file_name()))
            .collect();
        files.sort();
        found.extend(files);
    }
    found
}

/// Names of model files for a message.
fn names<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> String {
    let names: Vec<_> =
        paths.into_iter().filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
    if names.is_empty() { "(none here; ./quickstart fetches one)".to_owned() } else { names.join(", ") }
}
