//! Commands that use a GPU without training a run on it: `plan`, `generate` and `doctor`.

use anyhow::{Result, ensure};
use muster_tests::gpu::SoftGpu;
use muster_tests::{Fixture, Process, programs};
use serde_json::Value;
use softgpu::Settings;
use std::process::{Command, Output};

fn gpus(devices: usize) -> Option<SoftGpu> {
    SoftGpu::new(Settings { devices, ..Settings::default() })
}

fn coordinator(arguments: &[&str], environment: &[(&str, String)]) -> Result<Output> {
    let mut coordinator = Command::new(programs::coordinator());
    Ok(coordinator.args(arguments).envs(environment.iter().cloned()).output()?)
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

#[test]
fn a_plan_measures_the_first_gpu() -> Result<()> {
    let Some(gpu) = gpus(2) else { return Ok(()) };
    let fixture = Fixture::tiny(6);
    let spec = fixture.path("spec.yaml").display().to_string();
    let arguments = ["plan", &spec, "--devices", "cuda:all", "--json"];
    let output = coordinator(&arguments, &gpu.environment())?;
    ensure!(output.status.success(), "{}", text(&output));
    let plan: Value = serde_json::from_slice(&output.stdout)?;
    let measured = &plan["measured"];
    ensure!(measured["workers"] == 2 && measured["predicted"]["snapshot"] == 0, "{measured}");
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value}"));
    ensure!(number(&measured["micro_batch_seconds"]) > 0.0, "{measured}");
    // A GPU's memory is reserved in whole segments of 32 MiB, which hold what was predicted, and cuBLAS has one.
    let (peak, predicted) =
        (number(&measured["peak_bytes"]), number(&measured["memory_bytes_per_worker"]));
    ensure!(peak >= predicted && peak < predicted + 5.0 * f64::from(32 << 20), "{measured}");
    let violations = gpu.report().violations;
    ensure!(violations.is_empty(), "{violations:?}");

    let output = coordinator(&["plan", &spec, "--devices", "cuda:5"], &gpu.environment())?;
    ensure!(output.status.code() == Some(2), "{}", text(&output));
    ensure!(text(&output).contains("there is no GPU for `cuda:5`"), "{}", text(&output));
    Ok(())
}

#[test]
fn answers_from_a_gpu_are_those_of_the_cpu() -> Result<()> {
    let Some(gpu) = gpus(1) else { return Ok(()) };
    let fixture = Fixture::tiny(4);
    Process::run(&fixture, &["--workers", "1"]).end().with_code(0);
    let model = fixture.run().join("model").display().to_string();
    let answer = |device: &str| -> Result<String> {
        let arguments =
            ["generate", &model, "Who is Anna?", "--max-new-tokens", "12", "--device", device];
        let output = coordinator(&arguments, &gpu.environment())?;
        ensure!(output.status.success(), "{}", text(&output));
        Ok(text(&output))
    };
    let (of_cpu, of_gpu) = (answer("cpu")?, answer("cuda:0")?);
    ensure!(!of_cpu.trim().is_empty() && of_cpu == of_gpu, "{of_cpu} and {of_gpu}");
    let report = gpu.report();
    ensure!(report.violations.is_empty(), "{:?}", report.violations);
    Ok(())
}

#[test]
fn doctor_says_whether_gpus_can_be_used() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let url = folder.path().display().to_string();
    let none = coordinator(&["doctor", &url], &[("MUSTER_CUDA_LIBRARIES", url.clone())])?;
    ensure!(none.status.success() && text(&none).contains("GPUs"), "{}", text(&none));
    let environment = [("MUSTER_CUDA_LIBRARIES", url.clone())];
    let missing = coordinator(&["doctor", &url, "--devices", "cuda:all"], &environment)?;
    ensure!(missing.status.code() == Some(1), "{}", text(&missing));
    ensure!(text(&missing).contains("workers on this host cannot use cuda:all"));

    let Some(gpu) = gpus(2) else { return Ok(()) };
    let found = coordinator(&["doctor", &url, "--devices", "cuda:0,1"], &gpu.environment())?;
    ensure!(found.status.success(), "{}", text(&found));
    ensure!(text(&found).contains("cuda:1 NVIDIA H100"), "{}", text(&found));
    println!("{}", text(&found));
    // Another GPU's trouble is shown, and does not matter.
    let prohibited = Settings { devices: 1, compute_mode: 2, ..Settings::default() };
    let Some(other) = SoftGpu::new(prohibited) else { return Ok(()) };
    let idle = coordinator(&["doctor", &url], &other.environment())?;
    ensure!(idle.status.success() && text(&idle).contains("cuda:0: "), "{}", text(&idle));
    let asked = coordinator(&["doctor", &url, "--devices", "cuda:0"], &other.environment())?;
    ensure!(asked.status.code() == Some(1), "{}", text(&asked));
    let absent = coordinator(&["doctor", &url, "--devices", "cuda:2"], &gpu.environment())?;
    ensure!(absent.status.code() == Some(1), "{}", text(&absent));
    ensure!(text(&absent).contains("there is no GPU for `cuda:2`"), "{}", text(&absent));
    Ok(())
}
