//! What differs between operating systems: mapping, signals, memory sizes, processors.
mod cpu_name;
mod cpus;
mod fault;
mod map;
mod memory;
mod read;
mod save;

pub use cpu_name::cpu_name;
pub use cpus::default_threads;
pub use fault::faults_as_json;
pub use map::{Bytes, Fingerprint};
pub(crate) use memory::large_pages;
pub use memory::{available_memory, physical_memory};
pub use read::read_exact_at;
pub use save::NewFile;
