//! How much memory there is.

/// Memory of the machine in bytes, where the system tells.
pub fn physical_memory() -> Option<u64> {
    imp::physical()
}

/// Memory in bytes that can be taken without swapping or being killed, where the system tells: what the
/// kernel calls available, and no more than the limits of the container leave.
pub fn available_memory() -> Option<u64> {
    imp::available()
}

/// Asks the system to keep this memory in large pages, of 2 MiB for most machines: 512 times fewer faults when it is
/// first written to, and fewer misses of the address cache when it is read. Only a hint, and none for so little memory
/// that it hardly holds a large page.
pub(crate) fn large_pages(bytes: &[u8]) {
    const LARGE: usize = 4 << 20;
    if bytes.len() >= LARGE {
        imp::large_pages(bytes);
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod imp {
    use std::fs::read_to_string;
    use std::path::{Path, PathBuf};

    pub fn physical() -> Option<u64> {
        super::meminfo(&read_to_string("/proc/meminfo").ok()?, "MemTotal")
    }

    pub fn available() -> Option<u64> {
        let free = super::meminfo(&read_to_string("/proc/meminfo").ok()?, "MemAvailable")?;
        let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
        Some(cgroup_folders(&groups).iter().filter_map(|folder| left_in(folder)).fold(free, u64::min))
    }

    pub fn large_pages(bytes: &[u8]) {
        // SAFETY: asks for a number; changes nothing.
        let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return };
        let start = bytes.as_ptr().align_offset(page);
        let Some(len) = bytes.len().checked_sub(start) else { return };
        // A kernel without large pages says no, and small ones do.
        // SAFETY: whole pages inside of the slice, whose values the advice does not change. The pages at its ends, parts
        // of which may be someone else's, are left out.
        let _ = unsafe {
            libc::madvise(bytes.as_ptr().add(start).cast_mut().cast(), len / page * page, libc::MADV_HUGEPAGE)
        };
    }

    /// The memory groups this process is in, innermost first, each with all of its parents.
    fn cgroup_folders(groups: &str) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let root = match controllers {
                "" => Path::new("/sys/fs/cgroup"),
                list if list.split(',').any(|c| c == "memory") => Path::new("/sys/fs/cgroup/memory"),
                _ => continue,
            };
            let full = root.join(path.trim_start_matches('/'));
            folders.extend(full.ancestors().take_while(|p| p.starts_with(root)).map(Path::to_path_buf));
        }
        folders
    }

    /// What the limit of one group leaves, when it has one. Cached file pages can be dropped, so they count
    /// as free.
    fn left_in(folder: &Path) -> Option<u64> {
        let number = |name: &str| read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
        let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
        let stat = read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let cached: u64 = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(key, _)| matches!(*key, "inactive_file" | "active_file"))
            .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
            .fold(0, u64::saturating_add);
        Some(limit.saturating_sub(used.saturating_sub(cached)))
    }
}

#[cfg(target_os = "macos")]
mod imp {
    pub fn physical() -> Option<u64> {
        super::sysctl("hw.memsize")
    }

    pub fn available() -> Option<u64> {
        // The system compresses and drops pages on demand; the total is the only honest bound it gives.
        physical()
    }

    pub fn large_pages(_bytes: &[u8]) {}
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
mod imp {
    pub fn physical() -> Option<u64> {
        None
    }

    pub fn available() -> Option<u64> {
        None
    }

    pub fn large_pages(_bytes: &[u8]) {}
}

/// An integer that the kernel publishes by name.
#[cfg(target_os = "macos")]
pub(super) fn sysctl(name: &str) -> Option<u64> {
    let name = std::ffi::CString::new(name).ok()?;
    let mut value = [0u8; 8];
    let mut len = value.len();
    // SAFETY: the name ends with NUL; `value` has `len` writable bytes; nothing is set.
    let rc = unsafe {
        libc::sysctlbyname(name.as_ptr(), value.as_mut_ptr().cast(), &raw mut len, std::ptr::null_mut(), 0)
    };
    match (rc, len) {
        (0, 4) => Some(u32::from_le_bytes([value[0], value[1], value[2], value[3]]).into()),
        (0, 8) => Some(u64::from_le_bytes(value)),
        _ => None,
    }
}

/// A value of `/proc/meminfo`, in bytes.
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_lines() {
        let text = "MemTotal:       24606764 kB\nMemAvailable:   22 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_606_764 << 10));
        assert_eq!(meminfo(text, "MemAvailable"), Some(22 << 10));
        assert_eq!(meminfo(text, "Mem"), None);
        assert_eq!(meminfo("MemTotal: 5 pages", "MemTotal"), None);
    }

    #[test]
    fn advice_changes_no_byte_and_takes_any_size() {
        for len in [0, 1, 5 << 20] {
            let bytes = vec![7; len + 1];
            // Not at the start of a page, wherever the memory lies.
            large_pages(&bytes[1..]);
            assert!(bytes.iter().all(|&b| b == 7));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn available_is_part_of_physical() {
        assert!(available_memory().unwrap() <= physical_memory().unwrap());
    }
}
