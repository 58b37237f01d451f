//! `lapwing cpu`: what this machine can do, and whether the kernels compute right on it.
use std::io::Write;

use lapwing::engine::team;
use lapwing::self_check::self_check;
use lapwing_kernels::TensorType;
use lapwing_kernels::isa::Isa;
use lapwing_kernels::probe::{int8_peak, read_bandwidth};
use lapwing_models::os;
use serde_json::{Value, json};

use super::{Ui, ui};

/// Arguments of `lapwing cpu`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Threads to measure with (default: what this process may really use)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// Bytes read to measure the bandwidth, where memory allows: far more than any cache.
const PROBE_BYTES: u64 = 1 << 30;

/// Bytes per second with this many threads of the best instruction set; `None` where memory is short.
pub fn measure_bandwidth(threads: usize) -> anyhow::Result<Option<f64>> {
    let bytes = os::available_memory().map_or(PROBE_BYTES, |free| PROBE_BYTES.min(free / 4));
    Ok(read_bandwidth(&team(threads, Isa::best())?, usize::try_from(bytes)?))
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let advised = os::default_threads();
    let threads = args.threads.map_or(advised, usize::from);
    ui.notice("measuring memory …");
    let alone = measure_bandwidth(1)?;
    let together = if threads > 1 { measure_bandwidth(threads)? } else { alone };
    let mut sets = Vec::new();
    for &isa in Isa::ALL {
        if !isa.is_available() {
            sets.push(json!({ "name": isa.name(), "available": false }));
            continue;
        }
        ui.notice(&format!("checking {isa} …"));
        let peak = int8_peak(&team(threads, isa)?) / 1e9;
        let products = self_check(isa, threads)?;
        sets.push(
            json!({ "name": isa.name(), "available": true, "peak_gops": peak, "products_checked": products }),
        );
    }
    let value = json!({
        "cpu": os::cpu_name(),
        "isa": Isa::best().name(),
        "isas": sets,
        "threads_advised": advised,
        "threads_measured": threads,
        "memory_bytes": os::physical_memory(),
        "memory_available_bytes": os::available_memory(),
        "read_gb_s_1_thread": alone.map(|b| b / 1e9),
        "read_gb_s": together.map(|b| b / 1e9),
        "formats_checked": TensorType::ALL.len(),
    });
    let mut stdout = std::io::stdout().lock();
    if ui.json() {
        writeln!(stdout, "{}", ui::json_text(&value))?;
    } else {
        write!(stdout, "{}", text(&value))?;
    }
    Ok(stdout.flush()?)
}

/// The report for people.
fn text(value: &Value) -> String {
    let gib = |key: &str| {
        value[key].as_f64().map_or("unknown".to_owned(), |b| format!("{:.1} GiB", b / 2f64.powi(30)))
    };
    let speed = |key: &str| value[key].as_f64().map_or("unknown".to_owned(), |b| format!("{b:.1} GB/s"));
    let mut text = format!(
        "processor         {}\nmemory            {}, {} available\nthreads           {} advised: the physical cores that this process may use\n",
        lapwing::text::safe(value["cpu"].as_str().unwrap_or("unknown")),
        gib("memory_bytes"),
        gib("memory_available_bytes"),
        value["threads_advised"],
    );
    text += &format!("read bandwidth    {} with 1 thread", speed("read_gb_s_1_thread"));
    if value["threads_measured"] != 1 {
        text += &format!(", {} with {}", speed("read_gb_s"), value["threads_measured"]);
    }
    text += "\n\ninstruction set   int8 peak       kernels\n";
    for set in value["isas"].as_array().into_iter().flatten() {
        let name = set["name"].as_str().unwrap_or_default();
        let best = if value["isa"] == name { " (used)" } else { "" };
        let name = format!("{name}{best}");
        text += &match set["peak_gops"].as_f64() {
            Some(peak) => {
                format!("{name:<16}  {:>8.0} GOPS  right: {} formats\n", peak, value["formats_checked"])
            }
            None => format!("{name:<16}  not on this machine\n"),
        };
    }
    text
}
