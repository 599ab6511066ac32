//! `worker devices`: the GPUs of this host, and the libraries that drive them.

use super::Devices;
use crate::device::cuda::library::{self, Driver, Libraries};
use crate::device::cuda::{Mode, Present, free_memory, list};
use clap::Args;
use proto::cost::bytes;
use proto::print;
use serde::Serialize;
use std::process::ExitCode;

/// Less shared memory than this is too little for NCCL between the GPUs of a host.
const SHARED_MEMORY_MIN: u64 = 1 << 30;
/// A GPU with less free memory than this share of all, in percent, is in use.
const FREE_PERCENT: u64 = 90;

/// What to print.
#[derive(Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the GPUs only, as JSON
    #[arg(long, hide = true)]
    list: bool,
    /// Print the number of ranks that these devices have
    #[arg(long, hide = true)]
    count: Option<String>,
}

/// What this host has.
#[derive(Serialize)]
struct Report {
    /// The newest version of CUDA that the driver supports, and its file.
    driver: Option<(String, String)>,
    /// The sets of libraries that were considered; the last one is used unless it was rejected.
    libraries: Vec<Set>,
    gpus: Vec<Seen>,
    /// What prevents training on GPUs, or makes it slow.
    problems: Vec<String>,
}

/// A set of libraries.
#[derive(Serialize)]
struct Set {
    set: String,
    used: bool,
    hint: Option<String>,
}

/// A GPU, and what is known of its use.
#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    present: Present,
    /// Bytes of memory that no process uses.
    free: Option<u64>,
    problem: Option<String>,
}

/// Prints the GPUs and libraries of this host.
///
/// # Errors
/// With `--list`, the driver cannot be used; else only failures to print.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    super::start_prepared()?;
    if let Some(devices) = &arguments.count {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let devices: Devices = devices.parse()?;
        print::line(runtime.block_on(devices.ranks())?.len())?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.list {
        print::line(serde_json::to_string(&list(Driver::load()?)?)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = Report::new();
    if arguments.json {
        print::line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print::line(report.text().trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Report {
    fn new() -> Self {
        let mut report =
            Self { driver: None, libraries: Vec::new(), gpus: Vec::new(), problems: Vec::new() };
        let driver = match Driver::load() {
            Ok(driver) => driver,
            Err(error) => {
                report.problems.push(proto::error::chain(&error));
                return report;
            }
        };
        let file = driver.file().display().to_string();
        report.driver = Some((driver.version().to_string(), file));
        match list(driver) {
            Ok(gpus) if gpus.is_empty() => {
                report.problems.push("the driver reports no GPU".to_owned());
            }
            Ok(gpus) => report.gpus = gpus.into_iter().map(|gpu| seen(driver, gpu)).collect(),
            Err(error) => report.problems.push(format!("the driver does not work: {error}")),
        }
        report.add_libraries(driver);
        report.add_shared_memory();
        report
    }

    fn add_libraries(&mut self, driver: &Driver) {
        let (candidates, missing) = match Libraries::load(driver) {
            Ok(libraries) => (libraries.candidates().to_vec(), libraries.nccl().err()),
            Err(library::Error::NoSet { candidates, driver, named }) => {
                // The text would list the candidates once more.
                let error = library::Error::NoSet { candidates: Vec::new(), driver, named };
                self.problems.push(error.to_string());
                (candidates, None)
            }
            Err(error) => {
                self.problems.push(proto::error::chain(&error));
                return;
            }
        };
        self.libraries = candidates
            .iter()
            .map(|set| Set {
                set: set.to_string(),
                used: set.rejected.is_none(),
                hint: set.rejected.as_ref().and_then(library::Reason::hint),
            })
            .collect();
        if let Some(missing) = missing.filter(|_| self.gpus.len() > 1) {
            self.problems.push(missing.to_string());
        }
    }

    fn add_shared_memory(&mut self) {
        let Ok(of) = rustix::fs::statvfs("/dev/shm") else { return };
        let size = of.f_blocks * of.f_frsize;
        if self.gpus.len() > 1 && size < SHARED_MEMORY_MIN {
            self.problems.push(format!(
                "/dev/shm has {}, which is little for NCCL between the GPUs of a host\nhint: `docker run --shm-size \
                 8g`, or a memory-backed volume in Kubernetes",
                bytes(size)
            ));
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if let Some((version, file)) = &self.driver {
            text += &format!("driver     for CUDA up to {version}, {file}\n");
        }
        for Set { set, used, hint } in &self.libraries {
            let label = if *used { "libraries  " } else { "rejected   " };
            text += &format!("{label}{set}\n");
            text +=
                &hint.iter().map(|hint| format!("           hint: {hint}\n")).collect::<String>();
        }
        for gpu in &self.gpus {
            text += &gpu.text();
        }
        for problem in &self.problems {
            text += &format!("problem    {}\n", problem.replace('\n', "\n           "));
        }
        text
    }
}

impl Seen {
    fn text(&self) -> String {
        let Present { number, name, uuid, bus, memory, capability: (major, minor), .. } =
            &self.present;
        let free = self.free.map(|free| format!(" ({} free)", bytes(free))).unwrap_or_default();
        let mut text = format!(
            "{:<11}{name}, {}{free}, compute capability {major}.{minor}, {bus}, {uuid}\n",
            format!("cuda:{number}"),
            bytes(*memory),
        );
        if !self.present.peers.is_empty() {
            let peers: Vec<_> = self.present.peers.iter().map(|n| format!("cuda:{n}")).collect();
            text += &format!("           direct access to {}\n", peers.join(", "));
        }
        if let Some(problem) = &self.problem {
            text += &format!("           {}\n", problem.replace('\n', "\n           "));
        }
        text
    }
}

/// Finds out whether a GPU is in use.
fn seen(driver: &Driver, present: Present) -> Seen {
    if let Some(problem) = present.refusal() {
        return Seen { present, free: None, problem: Some(problem) };
    }
    let (free, problem) = match free_memory(driver, present.number) {
        Ok([free, total]) if free * 100 < total * FREE_PERCENT => {
            let used = bytes(total - free);
            (Some(free), Some(format!("busy: other processes use {used} of its memory")))
        }
        Ok([free, _]) => (Some(free), None),
        Err(error) if present.mode == Mode::Exclusive => {
            (None, Some(format!("in exclusive mode, and another process uses it ({error})")))
        }
        Err(error) => (None, Some(format!("cannot be used: {error}"))),
    };
    let slice = present.is_slice().then(|| "a slice (MIG): a run on it has one rank".to_owned());
    Seen { present, free, problem: problem.or(slice) }
}
