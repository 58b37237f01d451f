//! What the commands that write a model share: the options of the target, rows made on several threads, progress.
use std::path::PathBuf;

use lapwing_models::cancel::Cancel;
use lapwing_models::gguf::{Split, Stream, Writer};
use lapwing_models::{Class, Error, Result};

use super::Ui;
use super::progress::Progress;

/// Where a model is written to, and how.
#[derive(clap::Args, Clone, Debug)]
pub struct Target {
    /// File to write; it appears when it is complete
    pub out: PathBuf,
    /// Divide the model among N files
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), conflicts_with = "split_max_size")]
    split: Option<u16>,
    /// Divide the model among files of at most SIZE, such as 500M or 2G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    split_max_size: Option<u64>,
    /// Threads to work with (default: what this process may really use)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// A number of bytes with K, M or G behind it (powers of 1000, as other programs count here).
fn size(text: &str) -> std::result::Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let n: Option<u64> = digits.parse().ok().and_then(|n: u64| n.checked_mul(unit)).filter(|&n| n > 0);
    n.ok_or_else(|| "expected a size such as 500M or 2G".into())
}

impl Target {
    /// A writer to the target, without metadata or tensors.
    pub fn writer(&self) -> Writer {
        let mut writer = Writer::new(&self.out);
        writer.split(match (self.split, self.split_max_size) {
            (Some(n), _) => Split::Parts(n.into()),
            (_, Some(bytes)) => Split::MaxBytes(bytes),
            _ => Split::None,
        });
        writer
    }

    /// Threads to work with.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(lapwing_models::os::default_threads, usize::from)
    }

    /// Begins to write rows, until `cancel` says to stop: the unfinished file then disappears.
    pub fn rows(&self, writer: Writer, ui: &Ui, cancel: &Cancel) -> Result<Rows> {
        let threads = self.threads();
        let (made, next) = (Vec::new(), Vec::new());
        let (progress, all) = (Progress::bytes(ui, "writing"), writer.data_bytes());
        let stream = writer.start()?;
        Ok(Rows { stream, threads, made, next, progress, all, bytes: 0, cancel: cancel.clone() })
    }
}

/// Bytes that one thread makes before they are written.
const CHUNK: usize = 4 << 20;

/// A model being written: rows are made on all threads while the rows before them go to the disk.
pub struct Rows {
    stream: Stream,
    threads: usize,
    /// Made, not written yet.
    made: Vec<u8>,
    /// Memory for the next ones.
    next: Vec<u8>,
    progress: Progress,
    /// Bytes to be written.
    all: u64,
    bytes: u64,
    cancel: Cancel,
}

impl Rows {
    /// Writes `rows` rows of `row_bytes` bytes; `make(first, out)` fills whole rows from number `first` on, and
    /// is called from several threads.
    pub fn tensor(
        &mut self,
        rows: usize,
        row_bytes: usize,
        make: impl Fn(usize, &mut [u8]) -> Result<()> + Sync,
    ) -> Result<()> {
        let share = (CHUNK / row_bytes).max(1);
        let mut first = 0;
        while first < rows {
            self.cancel.check()?;
            let now = (rows - first).min(share * self.threads);
            self.next.resize(now * row_bytes, 0);
            // Even shares, so that no thread of the last round waits for a larger one.
            let share = now.div_ceil(self.threads);
            std::thread::scope(|scope| {
                let makers: Vec<_> = self
                    .next
                    .chunks_mut(share * row_bytes)
                    .enumerate()
                    .map(|(i, out)| {
                        let make = &make;
                        scope.spawn(move || make(first + i * share, out))
                    })
                    .collect();
                let written = self.stream.write(&self.made);
                let panicked = |_| Err(Error::new(Class::Other, "a thread that made rows panicked"));
                makers.into_iter().try_for_each(|maker| maker.join().unwrap_or_else(panicked))?;
                written
            })?;
            self.progress.set(self.bytes, self.all);
            self.bytes += self.next.len() as u64;
            std::mem::swap(&mut self.made, &mut self.next);
            first += now;
        }
        Ok(())
    }

    /// Writes what is left and puts the files in their places; gives them, and the bytes of all tensors.
    pub fn finish(mut self) -> Result<(Vec<PathBuf>, u64)> {
        self.stream.write(&self.made)?;
        drop(self.progress);
        Ok((self.stream.finish()?, self.bytes))
    }
}

/// Says what was written: on a terminal to people, or as JSON.
pub fn report(paths: &[PathBuf], bytes: u64, type_name: &str, ui: &Ui) {
    if ui.json() {
        let value = serde_json::json!({ "files": names(paths), "type": type_name, "tensor_bytes": bytes });
        println!("{value}");
    } else {
        say_written(paths, ui);
    }
}

/// Tells people which files were written.
pub fn say_written(paths: &[PathBuf], ui: &Ui) {
    for path in paths {
        ui.notice(&format!("wrote {}", lapwing::text::safe(&path.to_string_lossy())));
    }
}

/// Paths as JSON has them.
pub fn names(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        assert_eq!(size("500M"), Ok(500_000_000));
        assert_eq!(size("2g"), Ok(2_000_000_000));
        assert_eq!(size("7"), Ok(7));
        for bad in ["", "G", "-1", "0", "1.5G", "99999999999999G", "1Gé"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
