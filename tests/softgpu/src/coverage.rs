//! Which lines of the kernels were executed, by gcov's counters.
//!
//! ```text
//! process with SOFTGPU_COVERAGE    COVERAGE/<pid>/kernels_N.gcda, written when it exits
//! test                             lines(COVERAGE) -> gcov
//! ```
//!
//! A process that is killed leaves nothing. All kernels that a macro defines are on one line: the function tells which
//! of them it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Where the files of the crate's own sample kernels claim to be.
pub const SAMPLES: &str = "samples/";

#[cfg(softgpu_coverage)]
include!(concat!(env!("OUT_DIR"), "/notes.rs"));
#[cfg(not(softgpu_coverage))]
const NOTES: &[(&str, &[u8])] = &[];

/// A line of the kernels' source within one function, or within one instance of a template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The file, as its `#line` directive names it.
    pub file: String,
    /// The line, from 1.
    pub number: u64,
    /// The function.
    pub function: String,
}

/// Whether executed lines can be counted.
///
/// # Errors
/// Says why not: the compiler has no such counters, or there is no gcov.
pub fn available() -> Result<(), String> {
    if NOTES.is_empty() {
        return Err(
            "the kernels were not built with GCC 12 or newer, which counts lines".to_owned()
        );
    }
    let version = Command::new("gcov").arg("--version").output();
    version.map(drop).map_err(|error| format!("gcov: {error}"))
}

/// All lines with code, and whether one of the processes that left their counts in `folder` executed everything on it.
///
/// # Errors
/// Says why there are no counts: no process has exited, or gcov cannot read them.
pub fn lines(folder: &Path) -> Result<BTreeMap<Line, bool>, String> {
    let mut lines = BTreeMap::new();
    let processes =
        fs::read_dir(folder).map_err(|error| format!("no process has exited: {error}"))?;
    for process in processes {
        let process = process.map_err(|error| error.to_string())?.path();
        for (unit, notes) in NOTES {
            fs::write(process.join(format!("{unit}.gcno")), notes)
                .map_err(|error| error.to_string())?;
            read_counts(&process, unit, &mut lines)?;
        }
    }
    Ok(lines)
}

fn read_counts(folder: &Path, unit: &str, lines: &mut BTreeMap<Line, bool>) -> Result<(), String> {
    let output = Command::new("gcov")
        .args(["--json-format", "--stdout", "--demangled-names"])
        .arg(format!("{unit}.gcda"))
        .current_dir(folder)
        .output()
        .map_err(|error| format!("gcov: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Without counts, gcov would report all lines as not executed.
    if !folder.join(format!("{unit}.gcda")).is_file() || said.contains("version") {
        return Err(format!("gcov: {said}"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let value: Value =
        serde_json::from_str(text.trim()).map_err(|error| format!("gcov: {error}: {said}"))?;
    for file in value["files"].as_array().into_iter().flatten() {
        let name = file["file"].as_str().unwrap_or_default();
        let of_host =
            name.starts_with('/') || name.ends_with("prelude.h") || name == "softgpu-table";
        if of_host {
            continue;
        }
        for line in file["lines"].as_array().into_iter().flatten() {
            let key = Line {
                file: name.to_owned(),
                number: line["line_number"].as_u64().unwrap_or(0),
                function: line["function_name"].as_str().unwrap_or_default().to_owned(),
            };
            let executed = line["unexecuted_block"] == Value::Bool(false);
            *lines.entry(key).or_default() |= executed;
        }
    }
    Ok(())
}

/// Makes this process write its counts when it exits, if the settings name a folder.
#[cfg(softgpu_coverage)]
pub(crate) fn start() {
    static STARTED: std::sync::Once = std::sync::Once::new();
    STARTED.call_once(|| {
        if crate::world::world().settings.coverage.is_some() {
            // SAFETY: the function is static and does not unwind.
            unsafe { libc::atexit(write_counts) };
        }
    });
}

#[cfg(not(softgpu_coverage))]
pub(crate) fn start() {}

#[cfg(softgpu_coverage)]
extern "C" fn write_counts() {
    use std::os::unix::ffi::OsStrExt as _;
    unsafe extern "C" {
        fn softgpu_write_counts(folder: *const libc::c_char) -> libc::c_int;
    }
    let Some(folder) = &crate::world::world().settings.coverage else { return };
    let folder = folder.join(std::process::id().to_string());
    let written = fs::create_dir_all(&folder).and_then(|()| {
        let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
        // SAFETY: the path ends in a zero and outlives the call.
        match unsafe { softgpu_write_counts(path.as_ptr()) } {
            0 => Ok(()),
            code => Err(std::io::Error::from_raw_os_error(code)),
        }
    });
    if let Err(error) = written {
        eprintln!("softgpu: the counts cannot be written: {error}");
    }
}
