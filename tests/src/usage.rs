//! What a process uses of its host, as Linux says in `/proc`.

use anyhow::{Context, Result};

/// Seconds of processor time that a process has used.
///
/// # Errors
/// There is no such process.
pub fn processor_time(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may contain any character. User and system time are the 14th and 15th field.
    let (_, rest) = stat.rsplit_once(") ").context("a name")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident memory of a process in MiB.
///
/// # Errors
/// There is no such process.
pub fn memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("its memory")?;
    Ok(kib.parse::<u64>()? / 1024)
}
