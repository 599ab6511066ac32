//! Violations and counters: written by the process that runs, read by the test.
//!
//! ```text
//!   REPORT/<pid>.jsonl   one violation each line, flushed at once
//!   REPORT/<pid>.json    the counters: replaced every second, and when the process exits
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::settings::Violations;
use crate::world::world;

/// The most violations that one process writes down.
const MAX_VIOLATIONS: u64 = 1000;
/// The most that it prints, so that a caller need not empty the pipe.
const MAX_PRINTED: u64 = 20;
const SUMMARY_INTERVAL: Duration = Duration::from_secs(1);
const KERNEL_PREFIX: &str = "launch:";

/// Something that a real GPU would not forgive, or would forgive only by luck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which rule was broken, such as `race.stream` or `kernel.bounds`.
    pub kind: String,
    /// What happened, in one sentence.
    pub message: String,
    /// The names involved: kernel, streams, address ranges.
    pub names: BTreeMap<String, String>,
}

/// What the processes of a test wrote into their report folder.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// All violations of all processes.
    pub violations: Vec<Violation>,
    /// The counters of each process by process id.
    pub counters: BTreeMap<u32, Value>,
    /// The processes that exited normally.
    pub exited: Vec<u32>,
}

impl Report {
    /// Reads a report folder; an absent folder is an empty report.
    ///
    /// # Errors
    /// If a file cannot be read or is not a report.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut report = Self::default();
        if !folder.exists() {
            return Ok(report);
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let Ok(pid) = stem.parse::<u32>() else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("jsonl") => {
                    for line in fs::read_to_string(&path)?.lines() {
                        report.violations.push(Violation::parse(line)?);
                    }
                }
                Some("json") => {
                    let mut summary: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
                    if summary["exited"] == Value::Bool(true) {
                        report.exited.push(pid);
                    }
                    report.counters.insert(pid, summary["counters"].take());
                }
                _ => {}
            }
        }
        Ok(report)
    }

    /// The sum over all processes of a counter such as `host_waits`.
    pub fn total(&self, counter: &str) -> u64 {
        self.counters.values().filter_map(|counters| counters[counter].as_u64()).sum()
    }

    /// The launches of each kernel, summed over all processes.
    pub fn launches(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for kernels in self.counters.values().filter_map(|counters| counters["kernels"].as_object())
        {
            for (name, count) in kernels {
                *sums.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        sums
    }
}

impl Violation {
    fn parse(line: &str) -> io::Result<Self> {
        let value: Value = serde_json::from_str(line)?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let names = value["names"].as_object().into_iter().flatten();
        let names = names
            .map(|(key, name)| (key.clone(), name.as_str().unwrap_or_default().to_owned()))
            .collect();
        Ok(Self { kind: text("kind"), message: text("message"), names })
    }
}

#[derive(Debug, Default)]
struct Log {
    counters: BTreeMap<String, u64>,
    file: Option<File>,
}

fn log() -> MutexGuard<'static, Log> {
    static LOG: OnceLock<Mutex<Log>> = OnceLock::new();
    LOG.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds to a counter.
pub(crate) fn count(counter: &str, by: u64) {
    let mut log = log();
    match log.counters.get_mut(counter) {
        Some(slot) => *slot += by,
        None => {
            log.counters.insert(counter.to_owned(), by);
        }
    }
}

/// Counts the launch of a kernel.
pub(crate) fn count_launch(kernel: &str) {
    count("launches", 1);
    count(&format!("{KERNEL_PREFIX}{kernel}"), 1);
}

/// Records a violation, and aborts the process unless the settings say otherwise.
pub(crate) fn violation(kind: &str, message: &str, names: &[(&str, String)]) {
    let names: BTreeMap<&str, &str> = names.iter().map(|(key, name)| (*key, &**name)).collect();
    let line = json!({ "kind": kind, "message": message, "names": names }).to_string();
    let mut log = log();
    let nth = log.counters.entry("violations".to_owned()).or_default();
    *nth += 1;
    let nth = *nth;
    if nth <= MAX_VIOLATIONS
        && let Err(error) = append(&mut log, &line)
    {
        eprintln!("softgpu: the report cannot be written: {error}");
    }
    drop(log);
    if nth <= MAX_PRINTED {
        eprintln!("softgpu: violation: {line}");
    }
    match world().settings.violations {
        Violations::Record => {}
        // SAFETY: abort takes no argument and does not return.
        Violations::Abort => unsafe { libc::abort() },
    }
}

fn append(log: &mut Log, line: &str) -> io::Result<()> {
    let Some(folder) = &world().settings.report else { return Ok(()) };
    if log.file.is_none() {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{}.jsonl", std::process::id()));
        log.file = Some(OpenOptions::new().create(true).append(true).open(path)?);
    }
    let file = log.file.as_mut().expect("the file was opened above");
    file.write_all(format!("{line}\n").as_bytes())?;
    file.flush()
}

/// The counters as JSON.
pub(crate) fn counters() -> Value {
    let log = log();
    let mut object = serde_json::Map::new();
    let mut kernels = serde_json::Map::new();
    for (key, value) in &log.counters {
        match key.strip_prefix(KERNEL_PREFIX) {
            Some(kernel) => kernels.insert(kernel.to_owned(), json!(value)),
            None => object.insert(key.clone(), json!(value)),
        };
    }
    object.insert("kernels".to_owned(), Value::Object(kernels));
    Value::Object(object)
}

/// Starts the thread that writes the counters every second, and the one last time at exit.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        if world().settings.report.is_none() {
            return;
        }
        // SAFETY: the function is static and does not unwind.
        unsafe { libc::atexit(write_last_summary) };
        std::thread::spawn(|| {
            loop {
                write_summary(false);
                std::thread::sleep(SUMMARY_INTERVAL);
            }
        });
    });
}

extern "C" fn write_last_summary() {
    write_summary(true);
}

fn write_summary(exited: bool) {
    static LAST: Mutex<bool> = Mutex::new(false);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if *last {
        return;
    }
    *last = exited;
    let Some(folder) = &world().settings.report else { return };
    let path = folder.join(format!("{}.json", std::process::id()));
    let partial = folder.join(format!("{}.partial", std::process::id()));
    let text = json!({ "exited": exited, "counters": counters() }).to_string();
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&partial, text))
        .and_then(|()| fs::rename(&partial, &path));
    if let Err(error) = written {
        eprintln!("softgpu: the summary cannot be written: {error}");
    }
}

/// Writes the counters as JSON text, cut to `len - 1` bytes and ended by a zero byte, and returns
/// the bytes that the whole text needs, including the zero.
///
/// # Safety
/// `buffer` must be null or have room for `len` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn softgpuCounters(buffer: *mut libc::c_char, len: usize) -> usize {
    let text = counters().to_string();
    if !buffer.is_null() && len > 0 {
        let kept = text.len().min(len - 1);
        // SAFETY: the caller vouches for `len` bytes, of which `kept + 1` are written.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), kept);
            *buffer.add(kept) = 0;
        }
    }
    text.len() + 1
}
