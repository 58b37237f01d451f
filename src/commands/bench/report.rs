//! The results of a bench as Markdown, CSV or JSON, with llama-bench's keys.
use std::io::Write;

use serde::Serialize;

use crate::commands::Output;

/// One measured row.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// File, or the synthetic shape.
    pub model_filename: String,
    /// Architecture, size and type in words.
    pub model_type: String,
    /// Bytes of all tensors.
    pub model_size: u64,
    /// Number of weights.
    pub model_n_params: u64,
    /// Name of the processor.
    pub cpu_info: String,
    /// Instruction set computed with.
    pub isa: String,
    /// Worker threads, the leader included.
    pub n_threads: usize,
    /// Tokens evaluated together at most.
    pub n_batch: usize,
    /// Type of the cache's keys.
    pub type_k: String,
    /// Type of the cache's values.
    pub type_v: String,
    /// Adapters applied, as given.
    pub lora: Vec<String>,
    /// Time that the adapters add, percent of the time without: the median over the runs.
    pub lora_cost_pct: Option<f64>,
    /// Whether the weights were used in the mapped file.
    pub use_mmap: bool,
    /// Tokens of the prompt (0 in a test of generation alone).
    pub n_prompt: usize,
    /// Tokens generated.
    pub n_gen: usize,
    /// Tokens in the cache before the test.
    pub n_depth: usize,
    /// When the test began: seconds since 1970.
    pub test_time: u64,
    /// Mean time of a run, nanoseconds.
    pub avg_ns: u64,
    /// Its standard deviation.
    pub stddev_ns: u64,
    /// Mean tokens per second.
    pub avg_ts: f64,
    /// Its standard deviation.
    pub stddev_ts: f64,
    /// Times of the runs, nanoseconds.
    pub samples_ns: Vec<u64>,
    /// Tokens per second of the runs.
    pub samples_ts: Vec<f64>,
    /// Weight bytes read for each generated token, cache not counted.
    pub bytes_per_token: u64,
    /// `bytes_per_token` and the cache's bytes over the time of a token, 10⁹ bytes/s; generation only.
    pub read_gb_s: Option<f64>,
    /// Read bandwidth measured in this process, 10⁹ bytes/s.
    pub peak_read_gb_s: Option<f64>,
    /// Peak of int8 products, or of f32 ones for float weights, measured in this process, 10⁹ operations/s (a multiply and
    /// an add are two).
    pub peak_gops: Option<f64>,
    /// Share of the limit that holds this test, percent: of the bandwidth in generation, of the peak in prefill.
    pub roofline_pct: Option<f64>,
    /// Weights that every token of a prompt is multiplied with.
    #[serde(skip)]
    pub used_params: u64,
}

impl Row {
    /// Fills in what follows from the times of the runs, of `tokens` tokens each.
    pub fn set_samples(&mut self, samples_ns: Vec<u64>, tokens: usize) {
        self.samples_ts = samples_ns.iter().map(|&ns| tokens as f64 * 1e9 / ns.max(1) as f64).collect();
        let ns: Vec<f64> = samples_ns.iter().map(|&ns| ns as f64).collect();
        (self.avg_ns, self.stddev_ns) = (mean(&ns).round() as u64, deviation(&ns).round() as u64);
        (self.avg_ts, self.stddev_ts) = (mean(&self.samples_ts), deviation(&self.samples_ts));
        self.samples_ns = samples_ns;
    }

    /// Fills in what the machine's limits say of a measured row; `cache_bytes` are read for each generated token.
    pub fn set_limits(&mut self, cache_bytes: u64) {
        let share = |reached: f64, peak: Option<f64>| peak.map(|peak| 100.0 * reached / peak);
        if self.n_prompt == 0 {
            let read = (self.bytes_per_token + cache_bytes) as f64 * self.avg_ts / 1e9;
            self.read_gb_s = Some(read);
            self.roofline_pct = share(read, self.peak_read_gb_s);
        } else if self.n_gen == 0 {
            self.roofline_pct = share(2.0 * self.used_params as f64 * self.avg_ts / 1e9, self.peak_gops);
        }
    }

    /// The test's name, as in llama-bench: `pp512`, `tg128`, `pp512+tg128`, with `@ d1024` at depth.
    pub fn test(&self) -> String {
        let mut name = match (self.n_prompt, self.n_gen) {
            (p, 0) => format!("pp{p}"),
            (0, g) => format!("tg{g}"),
            (p, g) => format!("pp{p}+tg{g}"),
        };
        if self.n_depth > 0 {
            name += &format!(" @ d{}", self.n_depth);
        }
        name
    }
}

/// By how many percent the runs `of_stack` took longer than the runs `of_base` beside them: the median.
pub fn cost_pct(of_base: &[u64], of_stack: &[u64]) -> f64 {
    let mut costs: Vec<f64> =
        of_base.iter().zip(of_stack).map(|(b, s)| (*s as f64 / (*b).max(1) as f64 - 1.0) * 100.0).collect();
    costs.sort_by(f64::total_cmp);
    let upper = costs.len() / 2;
    if costs.is_empty() { 0.0 } else { (costs[(costs.len() - 1) / 2] + costs[upper]) / 2.0 }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Standard deviation of a sample (n − 1), 0 for fewer than two values.
fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let m = mean(values);
    (values.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// Prints rows as they come.
pub struct Report<W: Write> {
    out: W,
    form: Output,
    /// Whether the table has a column for the cost of adapters.
    lora: bool,
    rows: usize,
}

impl<W: Write> Report<W> {
    /// A report in the given form; text is Markdown, as a table is easiest to read.
    pub fn new(out: W, form: Output, lora: bool) -> Self {
        Self { out, form, lora, rows: 0 }
    }

    /// Prints one row.
    pub fn row(&mut self, row: &Row) -> anyhow::Result<()> {
        let first = self.rows == 0;
        self.rows += 1;
        match self.form {
            Output::Text | Output::Md => self.markdown(row, first)?,
            Output::Csv => self.csv(row, first)?,
            Output::Jsonl => writeln!(self.out, "{}", serde_json::to_string(row)?)?,
            Output::Json => {
                let text = serde_json::to_string_pretty(row)?.replace('\n', "\n  ");
                write!(self.out, "{}{text}", if first { "[\n  " } else { ",\n  " })?;
            }
        }
        self.out.flush()?;
        Ok(())
    }

    /// Ends the report.
    pub fn finish(mut self) -> anyhow::Result<()> {
        if self.form == Output::Json {
            writeln!(self.out, "{}", if self.rows == 0 { "[]" } else { "\n]" })?;
        }
        self.out.flush()?;
        Ok(())
    }

    fn markdown(&mut self, row: &Row, first: bool) -> std::io::Result<()> {
        if first {
            let lora = if self.lora {
                [format!(" {:>12} |", "LoRA"), format!(" {:->11}: |", "")]
            } else {
                Default::default()
            };
            writeln!(
                self.out,
                "| {:<30} | {:>10} | {:>8} | {:<12} | {:>7} | {:>17} |{} {:>18} | {:>7} |",
                "model", "size", "params", "isa", "threads", "test", lora[0], "t/s", "limit"
            )?;
            writeln!(
                self.out,
                "| {:-<30} | {:->9}: | {:->7}: | {:-<12} | {:->6}: | {:->16}: |{} {:->17}: | {:->6}: |",
                "", "", "", "", "", "", lora[1], "", ""
            )?;
        }
        let speed = format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts);
        let limit = row.roofline_pct.map_or_else(|| "–".to_owned(), |pct| format!("{pct:.0}%"));
        let lora = match row.lora_cost_pct {
            _ if !self.lora => String::new(),
            None => format!(" {:>12} |", "none"),
            Some(cost) => format!(" {:>12} |", format!("{}: {cost:+.1}%", row.lora.len())),
        };
        writeln!(
            self.out,
            "| {:<30} | {:>10} | {:>8} | {:<12} | {:>7} | {:>17} |{lora} {speed:>18} | {limit:>7} |",
            row.model_type,
            format!("{:.2} MiB", row.model_size as f64 / f64::from(1 << 20)),
            millions(row.model_n_params),
            row.isa,
            row.n_threads,
            row.test(),
        )
    }

    fn csv(&mut self, row: &Row, first: bool) -> anyhow::Result<()> {
        let serde_json::Value::Object(fields) = serde_json::to_value(row)? else { return Ok(()) };
        if first {
            writeln!(self.out, "{}", fields.keys().cloned().collect::<Vec<_>>().join(","))?;
        }
        let cell = |value: &serde_json::Value| match value {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => quoted(text),
            // A list is one cell, as text.
            list @ serde_json::Value::Array(_) => quoted(&list.to_string()),
            other => other.to_string(),
        };
        writeln!(self.out, "{}", fields.values().map(cell).collect::<Vec<_>>().join(","))?;
        Ok(())
    }
}

/// A cell in quotes, those inside doubled.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// `134.52 M` or `6.74 B`.
fn millions(n: u64) -> String {
    if n >= 1_000_000_000 { format!("{:.2} B", n as f64 / 1e9) } else { format!("{:.2} M", n as f64 / 1e6) }
}
