//! `lapwing models`: the models that can be named.
use std::path::{Path, PathBuf};

use lapwing::text::safe;
use lapwing_models::gguf::OpenOptions;
use lapwing_models::model::Model;
use serde_json::{Value, json};

use super::config::Config;
use super::{Ui, find, load, ui};

/// Arguments of `lapwing models`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folders to look in (default: where models are looked for by name)
    folders: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let folders = if args.folders.is_empty() { find::model_folders()? } else { args.folders };
    let found = find::models_in(&folders);
    let mut rows: Vec<Row> = found.iter().map(|path| Row::of(stem(path), path)).collect();
    for (name, named) in &Config::get()?.models {
        match named.file.as_deref().map(find::model).transpose() {
            Ok(Some(path)) => rows.push(Row::of(name.clone(), &path)),
            Ok(None) => {}
            Err(error) => rows.push(Row {
                name: name.clone(),
                path: named.file.clone().unwrap_or_default(),
                bytes: 0,
                what: Err(error.to_string()),
            }),
        }
    }
    if ui.json() {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        println!("{}", ui::json_text(&Value::from(rows)));
        return Ok(());
    }
    if rows.is_empty() {
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        ui.notice(&format!(
            "no GGUF files in {}; ./quickstart fetches a small model",
            safe(&folders.join(", "))
        ));
    }
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default();
    for row in &rows {
        println!("{}", safe(&row.line(width)));
    }
    Ok(())
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// One model.
struct Row {
    name: String,
    path: PathBuf,
    bytes: u64,
    /// Type and context, or why it cannot be used.
    what: Result<(String, usize), String>,
}

impl Row {
    fn of(name: String, path: &Path) -> Self {
        let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
        let what = Model::open(path, &OpenOptions::default());
        let what = what.map(|model| (load::model_type(&model), model.spec().context)).map_err(|e| e.message);
        Self { name, path: path.to_path_buf(), bytes, what }
    }

    fn line(&self, width: usize) -> String {
        let what = match &self.what {
            Ok((ty, context)) => format!("{ty}, context {context}"),
            Err(why) => why.clone(),
        };
        format!("{:width$}  {:>8}  {what}  {}", self.name, ui::size(self.bytes), self.path.display())
    }

    fn json(&self) -> Value {
        let (ty, context, error) = match &self.what {
            Ok((ty, context)) => (Some(ty), Some(context), None),
            Err(why) => (None, None, Some(why)),
        };
        json!({
            "name": self.name, "file": self.path.to_string_lossy(), "bytes": self.bytes, "type": ty,
            "context": context, "error": error,
        })
    }
}
