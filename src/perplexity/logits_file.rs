//! The file of log-probabilities that llama.cpp's `llama-perplexity` writes and reads, little-endian:
//!
//! ```text
//! "_logits_"  i32 n_ctx  i32 n_vocab  i32 n_chunk  i32 tokens[n_chunk · n_ctx]
//! for each chunk, for each position n_ctx/2 ..= n_ctx−2, a row predicting the next position:
//!     f32 scale  f32 min_log_prob  u16 q[n_vocab rounded up to even]        log p = scale · q + min_log_prob
//! ```
//!
//! Source: `docs/formats.md`, checked against `tools/perplexity` of llama.cpp.
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use byteorder::{ByteOrder, LE, ReadBytesExt};
use lapwing_models::os::NewFile;
use lapwing_models::{Class, Error, Result};

const MAGIC: &[u8; 8] = b"_logits_";
/// Magic and three numbers.
const HEADER_BYTES: u64 = 20;
/// Logits more than this below the largest are written as if they were just this far below.
const FLOOR: f32 = 16.0;
/// Limit on each number of the header: the products of two stay far from overflow.
const MAX_COUNT: usize = 1 << 30;

/// What the file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Tokens in a chunk.
    pub n_ctx: usize,
    /// Log-probabilities in a row.
    pub n_vocab: usize,
    /// All tokens, chunk after chunk; a multiple of `n_ctx`.
    pub tokens: Vec<u32>,
}

impl Header {
    /// Number of chunks.
    pub fn n_chunk(&self) -> usize {
        self.tokens.len() / self.n_ctx
    }

    /// The first position of a chunk whose prediction is stored.
    pub fn first(&self) -> usize {
        self.n_ctx / 2
    }

    /// Rows stored for each chunk.
    pub fn rows_per_chunk(&self) -> usize {
        self.n_ctx - 1 - self.first()
    }

    /// Bytes of one row.
    fn row_bytes(&self) -> usize {
        8 + 2 * self.n_vocab.next_multiple_of(2)
    }

    /// Size of the whole file in bytes, `None` when that overflows.
    fn file_bytes(&self) -> Option<u64> {
        let rows = (self.rows_per_chunk() as u64).checked_mul(self.n_chunk() as u64)?;
        let tokens = (self.tokens.len() as u64).checked_mul(4)?;
        rows.checked_mul(self.row_bytes() as u64)?.checked_add(tokens)?.checked_add(HEADER_BYTES)
    }
}

/// Writes a logits file: the header, then rows in order. The file appears under its name only when finished.
pub struct LogitsWriter {
    file: NewFile,
    header: Header,
    rows_left: usize,
    row: Vec<u8>,
}

impl LogitsWriter {
    /// Starts a file for `header`.
    ///
    /// # Errors
    /// The file cannot be written, or the format cannot hold a number of the header.
    pub fn create(path: &Path, header: Header) -> Result<Self> {
        let mut front = MAGIC.to_vec();
        let counts = [header.n_ctx, header.n_vocab, header.n_chunk()].map(i32::try_from);
        let tokens = header.tokens.iter().map(|&token| i32::try_from(token));
        for number in counts.into_iter().chain(tokens) {
            let number = number.map_err(|_| {
                Error::new(Class::Usage, "too much for a logits file")
                    .in_file(path)
                    .expected_got("numbers below 2147483648", "a larger one")
            })?;
            front.extend(number.to_le_bytes());
        }
        let mut file = NewFile::create(path)?;
        file.write(&front)?;
        let rows_left = header.rows_per_chunk() * header.n_chunk();
        Ok(Self { file, rows_left, row: vec![0; header.row_bytes()], header })
    }

    /// Adds the row of the next position, given its `n_vocab` finite logits.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Panics
    /// When `logits` has another length, or all rows are written already.
    pub fn write_row(&mut self, logits: &[f32]) -> Result<()> {
        assert_eq!(logits.len(), self.header.n_vocab, "one logit per token of the vocabulary");
        self.rows_left = self.rows_left.checked_sub(1).expect("no more rows than the header says");
        encode_row(logits, &mut self.row);
        self.file.write(&self.row)
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Panics
    /// When rows are missing.
    pub fn finish(self) -> Result<()> {
        assert_eq!(self.rows_left, 0, "all rows are written");
        self.file.commit()
    }
}

/// Writes one row: log-softmax on a linear scale of 16 bits from the largest logit to 16 below it.
fn encode_row(logits: &[f32], row: &mut [u8]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = logits.iter().copied().fold(f32::INFINITY, f32::min).max(max - FLOOR);
    let log_sum = log_sum_exp(logits, max);
    let scale = (max - min) / 65535.0;
    LE::write_f32(&mut row[..4], scale);
    // The rounding of each step is part of the format's accuracy: min − max is exact or nearly so.
    LE::write_f32(&mut row[4..8], (f64::from(min - max) - log_sum) as f32);
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (q, &logit) in row[8..].chunks_exact_mut(2).zip(logits) {
        // A cast saturates, so rounding just past the top stays at 65535.
        let value = (inverse * (logit.max(min) - min)).round_ties_even() as u16;
        LE::write_u16(q, value);
    }
}

/// ln Σ exp(logit − max), summed in f64.
pub(super) fn log_sum_exp(logits: &[f32], max: f32) -> f64 {
    logits.iter().map(|&logit| f64::from(logit - max).exp()).sum::<f64>().ln()
}

/// Reads a logits file row by row.
pub struct LogitsReader {
    path: PathBuf,
    input: BufReader<File>,
    header: Header,
    rows_left: usize,
    row: Vec<u8>,
}

/// One row of a logits file.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    scale: f32,
    min: f32,
    q: &'a [u8],
}

impl Row<'_> {
    /// The natural log-probability of each token, in order.
    pub fn log_probs(&self) -> impl ExactSizeIterator<Item = f32> + '_ {
        self.q.chunks_exact(2).map(|q| self.scale * f32::from(LE::read_u16(q)) + self.min)
    }

    /// The natural log-probability of one token.
    ///
    /// # Panics
    /// When there is no such token.
    pub fn log_prob(&self, token: u32) -> f32 {
        let at = token as usize * 2;
        self.scale * f32::from(LE::read_u16(&self.q[at..at + 2])) + self.min
    }
}

impl LogitsReader {
    /// Opens a logits file and checks its header and size.
    ///
    /// # Errors
    /// It cannot be read, is no logits file, or is shorter or longer than its header says.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e: std::io::Error| match e.kind() {
            ErrorKind::NotFound => Error::bad_file("there is no such logits file").in_file(path),
            ErrorKind::UnexpectedEof => Error::bad_file("the logits file is truncated").in_file(path),
            _ => Error::io("read the logits file", path, &e),
        };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut input = BufReader::with_capacity(1 << 20, file);
        let mut magic = [0; 8];
        input.read_exact(&mut magic).map_err(io)?;
        if &magic != MAGIC {
            return Err(Error::bad_file("this is not a logits file")
                .in_file(path)
                .at("byte 0")
                .expected_got("_logits_", magic.escape_ascii()));
        }
        let mut count = |what: &str, least: usize| -> Result<usize> {
            let value = input.read_i32::<LE>().map_err(io)?;
            match usize::try_from(value) {
                Ok(n) if (least..=MAX_COUNT).contains(&n) => Ok(n),
                _ => Err(Error::bad_file("a number of the logits file is out of range")
                    .in_file(path)
                    .at(what)
                    .expected_got(format!("{least} to {MAX_COUNT}"), value)),
            }
        };
        let (n_ctx, n_vocab, n_chunk) = (count("n_ctx", 2)?, count("n_vocab", 1)?, count("n_chunk", 1)?);
        let too_short = |expected: u64| {
            Error::bad_file("the logits file has the wrong size")
                .in_file(path)
                .expected_got(format!("{expected} bytes"), size)
        };
        // Before memory is taken for the tokens, they must fit what is there.
        let n_tokens = n_ctx as u64 * n_chunk as u64;
        if n_tokens.saturating_mul(4) > size {
            return Err(too_short(n_tokens.saturating_mul(4).saturating_add(HEADER_BYTES)));
        }
        let mut tokens = Vec::with_capacity(n_tokens as usize);
        for i in 0..n_tokens {
            let token = input.read_i32::<LE>().map_err(io)?;
            match u32::try_from(token) {
                Ok(id) if (id as usize) < n_vocab => tokens.push(id),
                _ => {
                    return Err(Error::bad_file("a token of the logits file is not in its vocabulary")
                        .in_file(path)
                        .at(format!("token {i}"))
                        .expected_got(format!("0 to {}", n_vocab - 1), token));
                }
            }
        }
        let header = Header { n_ctx, n_vocab, tokens };
        let expected = header.file_bytes().unwrap_or(u64::MAX);
        if size != expected {
            return Err(too_short(expected));
        }
        let rows_left = header.rows_per_chunk() * n_chunk;
        let row = vec![0; header.row_bytes()];
        Ok(Self { path: path.to_path_buf(), input, header, rows_left, row })
    }

    /// What the file says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next row.
    ///
    /// # Errors
    /// It cannot be read, or its scale is not a number.
    pub fn next_row(&mut self) -> Result<Row<'_>> {
        if self.rows_left == 0 {
            return Err(Error::bad_file("the logits file has no more rows").in_file(&self.path));
        }
        self.rows_left -= 1;
        self.input
            .read_exact(&mut self.row)
            .map_err(|e| Error::io("read the logits file", &self.path, &e))?;
        let (scale, min) = (LE::read_f32(&self.row[..4]), LE::read_f32(&self.row[4..8]));
        if !(scale.is_finite() && scale >= 0.0 && min.is_finite()) {
            return Err(Error::bad_file("a row of the logits file is damaged")
                .in_file(&self.path)
                .at(format!("{} rows before the end", self.rows_left + 1))
                .expected_got("a finite scale and minimum", format!("{scale} and {min}")));
        }
        Ok(Row { scale, min, q: &self.row[8..8 + 2 * self.header.n_vocab] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 * 30.0 - 15.0
            })
            .collect()
    }

    /// A file of two chunks of four tokens: rows for position 2 of each.
    fn write(path: &Path, n_vocab: usize) -> Header {
        let header = Header { n_ctx: 4, n_vocab, tokens: vec![0, 1, 2, 3, 3, 2, 1, 0] };
        let mut writer = LogitsWriter::create(path, header.clone()).unwrap();
        writer.write_row(&logits(n_vocab, 1)).unwrap();
        writer.write_row(&vec![0.5; n_vocab]).unwrap();
        writer.finish().unwrap();
        header
    }

    #[test]
    fn rows_come_back_to_half_a_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logits");
        for n_vocab in [50, 51] {
            let header = write(&path, n_vocab);
            // Header, tokens, and two rows of an even number of values.
            assert_eq!(
                std::fs::metadata(&path).unwrap().len(),
                20 + 32 + 2 * (8 + 2 * (n_vocab as u64 + n_vocab as u64 % 2))
            );
            let mut reader = LogitsReader::open(&path).unwrap();
            assert_eq!(reader.header(), &header);
            let logits = logits(n_vocab, 1);
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            let log_sum = log_sum_exp(&logits, max);
            let row = reader.next_row().unwrap();
            for (i, (got, &logit)) in row.log_probs().zip(&logits).enumerate() {
                let expected = f64::from(logit.max(max - 16.0) - max) - log_sum;
                assert!((f64::from(got) - expected).abs() < 16.0 / 65535.0 * 0.51, "{i}: {got} {expected}");
                assert_eq!(row.log_prob(i as u32), got);
            }
            // Equal logits: scale 0.
            let row = reader.next_row().unwrap();
            assert!(row.log_probs().all(|p| (p + (n_vocab as f32).ln()).abs() < 1e-6));
            assert!(reader.next_row().is_err());
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logits");
        write(&path, 50);
        let good = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let error = LogitsReader::open(&path).err().expect("an error");
            assert_eq!(error.class, Class::BadFile);
            error
        };
        for len in [0, 7, 8, 12, 19, 20, 30, 51, 60, good.len() - 1] {
            refused(&good[..len]);
        }
        refused(&[good.as_slice(), &[0]].concat());
        let changed = |at: usize, bytes: &[u8]| {
            let mut copy = good.clone();
            copy[at..at + bytes.len()].copy_from_slice(bytes);
            copy
        };
        assert!(refused(&changed(0, b"x")).message.contains("not a logits file"));
        for (at, what) in [(8, "n_ctx"), (12, "n_vocab"), (16, "n_chunk")] {
            for value in [0, -1, i32::MIN, i32::MAX] {
                assert_eq!(refused(&changed(at, &value.to_le_bytes())).at, what);
            }
            refused(&changed(at, &(1i32 << 30).to_le_bytes()));
        }
        assert_eq!(refused(&changed(24, &50i32.to_le_bytes())).at, "token 1");
        std::fs::write(&path, changed(52, &f32::NAN.to_le_bytes())).unwrap();
        assert!(LogitsReader::open(&path).unwrap().next_row().is_err());
    }
}
