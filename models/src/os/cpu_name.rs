//! What the processor calls itself.

/// Name of the processor, where the system tells.
pub fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let value = |key: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'))?;
        Some(line.trim().to_owned()).filter(|name| !name.is_empty())
    };
    // x86 has the first, boards with Arm one of the others.
    value("model name").or_else(|| value("Hardware")).or_else(|| value("Model"))
}
