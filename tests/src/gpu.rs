//! A software GPU for the programs under test: the environment in which they find it, and what it reports. With
//! `MUSTER_TEST_GPU`, the GPUs of this host take its place, as far as they can; see `tests/gpu.sh`.

use crate::programs;
use softgpu::{Report, Settings};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// The libraries of a software GPU in a folder of their own, and its reports.
pub struct SoftGpu {
    folder: TempDir,
    settings: Settings,
    real: bool,
}

impl SoftGpu {
    /// A software GPU with these settings; `None` where there is no C++ compiler to build it.
    pub fn new(settings: Settings) -> Option<Self> {
        if std::env::var_os("MUSTER_TEST_GPU").is_some() {
            return Self::real(settings);
        }
        if let Err(why) = softgpu::available() {
            eprintln!("skipped: there is no software GPU: {why}");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        softgpu::install(&folder.path().join("lib")).expect("links to the software GPU");
        let settings = Settings {
            report: Some(folder.path().join("report")),
            // A fault that struck again in every process would end every run.
            once: Some(folder.path().join("struck")),
            ..settings
        };
        Some(Self { folder, settings, real: false })
    }

    /// GPUs of this host, if there are enough, and if nothing is to fail.
    fn real(settings: Settings) -> Option<Self> {
        let count =
            Command::new(programs::worker()).args(["devices", "--count", "cuda:all"]).output();
        let count = String::from_utf8_lossy(&count.expect("it starts").stdout).trim().parse();
        let count = count.unwrap_or(0);
        if settings.devices > count || !settings.fail.is_empty() {
            eprintln!(
                "skipped: this needs {} GPUs, some of which fail; there are {count}",
                settings.devices
            );
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        Some(Self { folder, settings, real: true })
    }

    /// Its devices, as `--devices` takes them.
    pub fn devices(&self) -> String {
        let numbers: Vec<_> = (0..self.settings.devices).map(|n| n.to_string()).collect();
        format!("cuda:{}", numbers.join(","))
    }

    /// Makes each fault strike in every process that comes to it, and not only in the first one.
    pub fn failing_always(mut self) -> Self {
        self.settings.once = None;
        self
    }

    /// The folder of its libraries.
    pub fn libraries(&self) -> PathBuf {
        self.folder.path().join("lib")
    }

    /// The variables with which a program finds it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |name| self.folder.path().join(name).display().to_string();
        if self.real {
            return vec![("MUSTER_CACHE", path("cache"))];
        }
        let settings = self.settings.envs().into_iter();
        let mut environment: Vec<(&str, String)> =
            settings.map(|(name, value)| (&*name.leak(), value)).collect();
        environment.push(("MUSTER_CUDA_LIBRARIES", path("lib")));
        environment.push(("MUSTER_CACHE", path("cache")));
        environment
    }

    /// What all processes have reported so far.
    pub fn report(&self) -> Report {
        if self.real {
            Report::default()
        } else {
            Report::read(&self.reports()).expect("reports can be read")
        }
    }

    fn reports(&self) -> PathBuf {
        self.folder.path().join("report")
    }
}
