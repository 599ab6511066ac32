//! Which lines of the kernels were executed, by gcov's counters.
//!
//! Only a build with `SOFTGPU_COVERAGE=1` counts. The counts of all processes that exit normally
//! add up in one file of the build folder; a process that is killed leaves nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Where the files of the crate's own sample kernels claim to be.
pub const SAMPLES: &str = "samples/";

/// A line of the kernels' source, by the file name of its `#line` directive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub number: u64,
}

/// Whether this build counts.
pub fn enabled() -> bool {
    cfg!(softgpu_coverage)
}

/// The files of counts, one for each source.
fn counts_files() -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(env!("OUT_DIR"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "gcda") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Forgets all counts.
///
/// # Errors
/// If a file of counts cannot be removed.
pub fn reset() -> std::io::Result<()> {
    counts_files()?.into_iter().try_for_each(std::fs::remove_file)
}

/// How often each line with code was executed since the counts were reset.
///
/// # Errors
/// Says why there are no counts: the build does not count, no process has exited, or gcov is
/// missing.
pub fn lines() -> Result<BTreeMap<Line, u64>, String> {
    if !enabled() {
        return Err("the kernels were built without SOFTGPU_COVERAGE=1".to_owned());
    }
    let files = counts_files().map_err(|error| error.to_string())?;
    if files.is_empty() {
        return Err("no process with kernels has exited".to_owned());
    }
    let mut lines = BTreeMap::new();
    for file in files {
        read_counts(&file, &mut lines)?;
    }
    Ok(lines)
}

fn read_counts(file: &Path, lines: &mut BTreeMap<Line, u64>) -> Result<(), String> {
    let output = Command::new("gcov")
        .args(["--json-format", "--stdout"])
        .arg(file)
        .current_dir(env!("OUT_DIR"))
        .output()
        .map_err(|error| format!("gcov: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value: Value = serde_json::from_str(text.trim())
        .map_err(|error| format!("gcov: {error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    for file in value["files"].as_array().into_iter().flatten() {
        let name = file["file"].as_str().unwrap_or_default();
        if name.ends_with("prelude.h") || name == "softgpu-table" || name.starts_with('/') {
            continue;
        }
        for line in file["lines"].as_array().into_iter().flatten() {
            let number = line["line_number"].as_u64().unwrap_or(0);
            let key = Line { file: name.to_owned(), number };
            *lines.entry(key).or_default() += line["count"].as_u64().unwrap_or(0);
        }
    }
    Ok(())
}

/// The lines with code that were never executed, without those of the crate's own samples.
///
/// # Errors
/// As [`lines`].
pub fn unexecuted() -> Result<Vec<Line>, String> {
    let never =
        lines()?.into_iter().filter(|(line, count)| *count == 0 && !line.file.starts_with(SAMPLES));
    Ok(never.map(|(line, _)| line).collect())
}
