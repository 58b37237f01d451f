//! Names of the parts of a split model: `NAME-00001-of-00003.gguf`.
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Key: number of this part, from 0.
pub(super) const KEY_NO: &str = "split.no";
/// Key: number of parts.
pub(super) const KEY_COUNT: &str = "split.count";
/// Key: number of tensors in all parts.
pub(super) const KEY_TENSORS: &str = "split.tensors.count";
/// Most parts of one model.
pub(super) const MAX_PARTS: u64 = 1024;

/// Path of part `no` (from 0) of `count`, where `stem` is the path without the numbering and the extension.
pub fn part_path(stem: &Path, no: u64, count: u64) -> PathBuf {
    let mut name = stem.file_name().unwrap_or(OsStr::new("model")).to_os_string();
    name.push(format!("-{:05}-of-{count:05}.gguf", no + 1));
    stem.with_file_name(name)
}

/// The stem, the number (from 0) and the count in the name of a part; `None` for any other name.
pub(super) fn parse_part(path: &Path) -> Option<(PathBuf, u64, u64)> {
    // Cut from the end, byte by byte, so that the rest may be any text the system allows.
    let name = path.file_name()?;
    let text = name.to_str()?;
    let rest = text.strip_suffix(".gguf")?;
    let (rest, count) = cut_number(rest)?;
    let rest = rest.strip_suffix("-of-")?;
    let (rest, no) = cut_number(rest)?;
    let stem = rest.strip_suffix('-')?;
    if no < 1 || no > count || stem.is_empty() {
        return None;
    }
    Some((path.with_file_name(stem), no - 1, count))
}

/// Cuts five digits off the end.
fn cut_number(text: &str) -> Option<(&str, u64)> {
    let (rest, digits) = text.split_at_checked(text.len().checked_sub(5)?)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((rest, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let path = part_path(Path::new("/m/ä.model"), 1, 12);
        assert_eq!(path, Path::new("/m/ä.model-00002-of-00012.gguf"));
        assert_eq!(parse_part(&path), Some(("/m/ä.model".into(), 1, 12)));
        for other in [
            "m.gguf",
            "m-00003-of-00002.gguf",
            "m-00000-of-00002.gguf",
            "-00001-of-00002.gguf",
            "m-0001-of-00002.gguf",
            "m-+0001-of-00002.gguf",
            "é001-of-00002.gguf",
        ] {
            assert_eq!(parse_part(Path::new(other)), None, "{other}");
        }
    }
}
