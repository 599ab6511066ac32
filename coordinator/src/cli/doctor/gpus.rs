//! The GPUs of this host, as `worker devices` reports them.

use super::checks::{Finding, Verdict};
use crate::launch;
use serde::Deserialize;
use std::path::Path;
use tokio::process::Command;

/// What `worker devices --json` prints, as far as it is used here.
#[derive(Deserialize)]
struct Report {
    /// The newest version of CUDA that the driver supports, and the driver's file.
    driver: Option<(String, String)>,
    libraries: Vec<Set>,
    gpus: Vec<Gpu>,
    problems: Vec<String>,
}

#[derive(Deserialize)]
struct Set {
    set: String,
    used: bool,
}

#[derive(Deserialize)]
struct Gpu {
    name: String,
    number: i32,
    problem: Option<String>,
}

/// Finds out whether workers on this host can use `devices`. A host needs no GPU for `cpu`.
pub(super) async fn examine(devices: &str) -> Finding {
    let needed = !devices.starts_with("cpu");
    let (verdict, seen, problems) = match look(devices, needed).await {
        Ok(Look { usable, seen, problems }) => {
            (if usable { Verdict::Ok } else { Verdict::No }, seen, problems)
        }
        Err(error) if needed => (Verdict::No, format!("{error:#}"), Vec::new()),
        Err(error) => (Verdict::Unknown, format!("{error:#}"), Vec::new()),
    };
    let otherwise = (!problems.is_empty()).then(|| problems.join("\n"));
    Finding { check: "GPUs", verdict, needed, seen, otherwise }
}

/// The GPUs of this host.
struct Look {
    /// Whether workers can use the devices that they should have.
    usable: bool,
    seen: String,
    /// What prevents the use of GPUs, makes it slow, or is wrong with other GPUs.
    problems: Vec<String>,
}

async fn look(devices: &str, needed: bool) -> anyhow::Result<Look> {
    let program = launch::program()?;
    let report = report(&program).await?;
    if !needed && report.gpus.is_empty() {
        let seen = "none, which `--devices cpu` does not need".to_owned();
        return Ok(Look { usable: true, seen, problems: Vec::new() });
    }
    let mut problems = report.problems.clone();
    let mut usable = !needed || report.libraries.iter().any(|set| set.used);
    if needed && let Err(error) = launch::count(&program, devices).await {
        usable = false;
        problems.push(error.to_string());
    }
    for Gpu { number, problem, .. } in &report.gpus {
        problems.extend(problem.iter().map(|problem| format!("cuda:{number}: {problem}")));
    }
    Ok(Look { usable, seen: report.summary(), problems })
}

async fn report(program: &Path) -> anyhow::Result<Report> {
    let output = Command::new(program).args(["devices", "--json"]).output().await?;
    anyhow::ensure!(
        output.status.success(),
        "`worker devices` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Report {
    fn summary(&self) -> String {
        let mut parts: Vec<String> =
            self.gpus.iter().map(|gpu| format!("cuda:{} {}", gpu.number, gpu.name)).collect();
        if parts.is_empty() {
            parts.push("none".to_owned());
        }
        parts.extend(self.driver.iter().map(|(version, _)| format!("driver for CUDA {version}")));
        parts.extend(self.libraries.iter().filter(|set| set.used).map(|set| set.set.clone()));
        parts.join(", ")
    }
}
