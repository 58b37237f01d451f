//! How many threads are worth running.
use std::num::NonZero;

/// The number of threads that this process can really use: one for each physical core among the
/// processors it may run on, and no more than a container's quota allows. At least 1.
///
/// Two hardware threads of a core share its multipliers and its path to memory, so a second one adds
/// barriers and no speed.
pub fn default_threads() -> usize {
    // Affinity and cgroup quotas (v1 and v2) are looked at here.
    let usable = std::thread::available_parallelism().map_or(1, NonZero::get);
    physical_cores().map_or(usable, |cores| usable.min(cores)).max(1)
}

/// Physical cores among the processors this process may run on.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn physical_cores() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = std::collections::BTreeSet::new();
    for cpu in parse_list(allowed)? {
        let folder = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        let siblings = ["core_cpus_list", "thread_siblings_list"]
            .iter()
            .find_map(|name| std::fs::read_to_string(format!("{folder}/{name}")).ok())?;
        // A core is known by the first of its hardware threads.
        cores.insert(parse_list(&siblings)?.first().copied()?);
    }
    Some(cores.len()).filter(|&n| n > 0)
}

#[cfg(target_os = "macos")]
fn physical_cores() -> Option<usize> {
    // Performance cores where there are two kinds: static shares of work wait for the slowest thread.
    super::memory::sysctl("hw.perflevel0.physicalcpu")
        .or_else(|| super::memory::sysctl("hw.physicalcpu"))
        .and_then(|n| usize::try_from(n).ok())
        .filter(|&n| n > 0)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
fn physical_cores() -> Option<usize> {
    None
}

/// Parses the kernel's lists of processors, such as `0-3,8`. At most 65,536 entries.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',').filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last >= 65_536 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(parse_list("0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_list("\t5"), Some(vec![5]));
        assert_eq!(parse_list(""), Some(vec![]));
        assert_eq!(parse_list("3-1"), None);
        assert_eq!(parse_list("x"), None);
        assert_eq!(parse_list("0-99999999999"), None);
    }

    #[test]
    fn at_least_one_thread_and_no_more_than_usable() {
        let usable = std::thread::available_parallelism().map_or(1, NonZero::get);
        assert!((1..=usable).contains(&default_threads()));
    }
}
