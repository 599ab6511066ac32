//! How much memory a rank may use: its share of what this host and its control group have left.
//!
//! Sources: the Linux kernel's documentation, `filesystems/proc.rst` (meminfo), `admin-guide/cgroup-v2.rst` (memory)
//! and `admin-guide/cgroup-v1/memory.rst`.

use anyhow::{Context, Result};
use proto::cost::bytes;
use std::fmt;
use std::path::Path;

/// Memory for one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// Bytes that the rank may use in all, with those that it uses already.
    pub bytes: u64,
    /// What sets the limit.
    pub limit: Limit,
}

/// A limit on the memory of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// What the host has left.
    Host,
    /// The limit of a control group, in bytes.
    Group(u64),
    /// What its GPU has left, and the bytes that it has in all.
    Gpu(u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("what the host has left"),
            Self::Gpu(total) => write!(f, "what its GPU of {} has left", bytes(*total)),
            Self::Group(limit) => write!(f, "its control group is limited to {}", bytes(*limit)),
        }
    }
}

/// The memory of a rank, if `ranks` of them share this host.
///
/// # Errors
/// If the kernel does not say.
pub fn memory(ranks: u64) -> Result<Available> {
    System(Path::new("/")).memory(ranks)
}

/// Bytes of this process that are in memory.
///
/// # Errors
/// If the kernel does not say.
pub fn resident() -> Result<u64> {
    System(Path::new("/")).of_process("VmRSS")
}

/// The most bytes of this process that were in memory at one time.
///
/// # Errors
/// If the kernel does not say.
pub fn peak() -> Result<u64> {
    System(Path::new("/")).of_process("VmHWM")
}

/// A file system with `/proc` and `/sys`.
struct System<'a>(&'a Path);

impl System<'_> {
    fn memory(&self, ranks: u64) -> Result<Available> {
        let left = self.field("proc/meminfo", "MemAvailable")?;
        let of_host = (left, Limit::Host);
        let (left, limit) = self
            .groups()?
            .into_iter()
            .chain([of_host])
            .min_by_key(|(left, _)| *left)
            .expect("the host");
        // The ranks are alike, so each of them has as much memory as this one already.
        Ok(Available { bytes: left / ranks.max(1) + self.of_process("VmRSS")?, limit })
    }

    fn of_process(&self, name: &str) -> Result<u64> {
        self.field("proc/self/status", name)
    }

    /// A number of kilobytes in a table of the kernel, in bytes.
    fn field(&self, table: &str, name: &str) -> Result<u64> {
        let file = self.0.join(table);
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes =
            value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let kilobytes = kilobytes.with_context(|| format!("{} has no {name}", file.display()))?;
        Ok(kilobytes * 1024)
    }

    /// What each control group around this process has left; pages of files count as left, since they can be read
    /// again.
    fn groups(&self) -> Result<Vec<(u64, Limit)>> {
        let file = self.0.join("proc/self/cgroup");
        // A system without control groups does not have the file.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut left = Vec::new();
        for line in text.lines() {
            let Some((names, path)) = Names::of(line) else { continue };
            let root = self.0.join(names.root);
            // In a container, the path may begin outside of what is mounted; the limit is then that of the root.
            let groups = Path::new(path.trim_start_matches('/')).ancestors();
            left.extend(groups.filter_map(|group| names.left_in(&root.join(group))));
        }
        Ok(left)
    }
}

/// Where a version of control groups has its memory controller, and how that names things.
struct Names {
    root: &'static str,
    limit: &'static str,
    usage: &'static str,
    files: &'static str,
}

impl Names {
    const VERSION_1: Self = Self {
        root: "sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        files: "total_inactive_file ",
    };
    const VERSION_2: Self = Self {
        root: "sys/fs/cgroup",
        limit: "memory.max",
        usage: "memory.current",
        files: "inactive_file ",
    };

    /// The version and the group of a line of `/proc/self/cgroup`, such as `0::/a` or `9:memory:/a`; `None` if it is
    /// not about memory.
    fn of(line: &str) -> Option<(Self, &str)> {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match number {
            "0" => Some((Self::VERSION_2, path)),
            _ => controllers.split(',').any(|c| c == "memory").then_some((Self::VERSION_1, path)),
        }
    }

    /// `None` if the group has no limit, or does not exist here.
    fn left_in(&self, group: &Path) -> Option<(u64, Limit)> {
        let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
        let limit: u64 = read(self.limit)?.trim().parse().ok()?;
        let usage: u64 = read(self.usage)?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        let files = stat.lines().find_map(|line| line.strip_prefix(self.files));
        // Without this figure, all memory in use counts as needed.
        let files: u64 = files.and_then(|files| files.trim().parse().ok()).unwrap_or(0);
        Some((limit.saturating_sub(usage.saturating_sub(files)), Limit::Group(limit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
    }

    fn host(cgroup: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("proc/meminfo", "MemTotal:       9000 kB\nMemAvailable:    8000 kB\n"),
                ("proc/self/status", "VmHWM:\t     700 kB\nVmRSS:\t     500 kB\n"),
                ("proc/self/cgroup", cgroup),
            ],
        );
        root
    }

    fn available(root: &tempfile::TempDir, ranks: u64) -> (u64, Limit) {
        let Available { bytes, limit } = System(root.path()).memory(ranks).unwrap();
        (bytes / 1024, limit)
    }

    #[test]
    fn without_a_group_the_ranks_share_what_the_host_has_left() {
        for cgroup in ["0::/\n", "3:memory:/docker/x\n", "0::/no/such/group\n", "4:cpu:/a\n"] {
            let root = host(cgroup);
            assert_eq!(available(&root, 1), (8500, Limit::Host));
            assert_eq!(available(&root, 4), (2500, Limit::Host));
        }
    }

    #[test]
    fn the_tightest_group_around_the_process_counts() {
        let root = host("0::/pods/one\n");
        let group = |path: &str, max: &str, current: u64, files: u64| {
            let [max_file, current_file, stat] =
                ["max", "current", "stat"].map(|name| format!("sys/fs/cgroup/{path}memory.{name}"));
            let of_files = format!("anon 7\ninactive_file {}\n", files * 1024);
            let current = (current * 1024).to_string();
            write(root.path(), &[(&max_file, max), (&current_file, &current), (&stat, &of_files)]);
        };
        group("", "max\n", 100, 0);
        group("pods/", "6144000\n", 1000, 500);
        group("pods/one/", "max\n", 100, 0);
        assert_eq!(available(&root, 1), (5500 + 500, Limit::Group(6_144_000)));
        group("pods/one/", "4096000\n", 1000, 0);
        assert_eq!(available(&root, 2), (1500 + 500, Limit::Group(4_096_000)));
    }

    #[test]
    fn groups_of_version_1_count_too() {
        let root = host("9:cpu,memory:/pods\n0::/\n");
        let group = |path: &str, limit: &str| {
            let files = ["limit_in_bytes", "usage_in_bytes", "stat"]
                .map(|name| format!("sys/fs/cgroup/memory/{path}memory.{name}"));
            let stat = "inactive_file 7\ntotal_inactive_file 512000\n";
            let texts = [limit, "1024000\n", stat];
            let files: Vec<_> = files.iter().map(String::as_str).zip(texts).collect();
            write(root.path(), &files);
        };
        group("", "9223372036854771712\n");
        group("pods/", "2048000\n");
        assert_eq!(available(&root, 1), (1500 + 500, Limit::Group(2_048_000)));
    }

    #[test]
    fn this_process_is_seen() {
        let resident = resident().unwrap();
        assert!(resident > 1 << 20 && peak().unwrap() >= resident);
        assert!(memory(1).unwrap().bytes > resident);
    }
}
