//! `worker bench`: its figures are consistent, and what is not measured is called an estimate.

use anyhow::{Result, ensure};
use muster_tests::gpu::SoftGpu;
use muster_tests::programs;
use serde_json::Value;
use softgpu::Settings;
use std::process::{Command, Output};

/// A small model: three layers of 64 features.
const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128, "rope_theta": 10000.0, "tie_word_embeddings": true}"#;

fn bench(options: &[&str], environment: &[(&str, String)]) -> Result<Output> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.json");
    std::fs::write(&config, CONFIG)?;
    let mut bench = Command::new(programs::worker());
    bench.arg("bench").arg(&config).args(options).envs(environment.iter().cloned());
    Ok(bench.output()?)
}

fn report(output: &Output) -> Result<Value> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

const STEP: [&str; 10] = [
    "--sequence",
    "64",
    "--document",
    "32",
    "--micro-batch",
    "2",
    "--accumulate",
    "2",
    "--steps",
    "4",
];

#[test]
fn speed_on_two_ranks_is_that_of_their_steps() -> Result<()> {
    let options = [&STEP[..], &["--devices", "cpu:2", "--peak-tflops", "0.1", "--json"]].concat();
    let report = report(&bench(&options, &[])?)?;
    let measured = &report["measured"];
    ensure!(report["world"] == 2 && report["tokens_per_step"] == 2 * 2 * 2 * 64);
    let median = number(&measured["seconds_per_step"]);
    let rate = number(&measured["tokens_per_second"]);
    ensure!((rate * median / 512.0 - 1.0).abs() < 1e-9, "{measured}");
    ensure!(number(&measured["fastest"]) <= median && median <= number(&measured["slowest"]));
    let flops = number(&measured["flops_per_second"]);
    ensure!((flops / (rate / 2.0 * number(&report["flops_per_token"])) - 1.0).abs() < 1e-9);
    ensure!((number(&measured["mfu"]) / (flops / 1e11) - 1.0).abs() < 1e-9);
    let phases = measured["phases"].as_array().expect("phases");
    let named = |name: &str| phases.iter().any(|phase| phase["name"] == name);
    ensure!(named("optimizer") && named("attention forward"), "{measured}");
    ensure!(measured["per_step"].is_null() && report["estimate"].is_null());
    Ok(())
}

#[test]
fn an_estimate_needs_no_device_and_says_that_it_is_one() -> Result<()> {
    let options = ["--sequence", "64", "--dtype", "bf16", "--steps", "0", "--estimate", "h200"];
    let output = bench(&options, &[])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("estimate   one h200") && text.contains("not measured"), "{text}");
    let report = report(&bench(&[&options[..], &["--json"]].concat(), &[])?)?;
    ensure!(report["measured"].is_null(), "{report}");
    let mfu = number(&report["estimate"]["mfu"]);
    ensure!(mfu > 0.0 && mfu < 1.0, "{report}");
    Ok(())
}

#[test]
fn counts_of_a_software_gpu_are_real_and_its_times_are_not() -> Result<()> {
    let Some(gpu) = SoftGpu::new(Settings { devices: 2, ..Settings::default() }) else {
        return Ok(());
    };
    let step = ["--sequence", "32", "--document", "16", "--accumulate", "2", "--steps", "1"];
    let options = [&step[..], &["--devices", "cuda:all", "--dtype", "bf16"]].concat();
    let text = bench(&options, &gpu.environment())?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    ensure!(text.contains("its times and speeds mean nothing"), "{text}");
    println!("{text}");
    let report = report(&bench(&[&options[..], &["--json"]].concat(), &gpu.environment())?)?;
    let measured = &report["measured"];
    ensure!(measured["simulated"] == true && measured["mfu"].is_null(), "{measured}");
    let per_step = &measured["per_step"];
    ensure!(per_step["waits"] == 1 && per_step["allocations"] == 0, "{per_step}");
    // Two micro-batches of three layers, each with seven products forward and fourteen backward besides attention.
    ensure!(number(&per_step["products"]) > 2.0 * 3.0 * 21.0, "{per_step}");
    ensure!(report["estimate"]["gpu"] == "h100", "{report}");
    let violations = gpu.report().violations;
    ensure!(violations.is_empty(), "{violations:?}");
    Ok(())
}

#[test]
fn options_that_do_not_fit_are_refused() -> Result<()> {
    for (options, wanted) in [
        (&["--estimate", "v100"][..], "the GPU `v100` is not known"),
        (&["--sequence", "256"], "longer than the model's positions, 128"),
        (&["--sequence", "100", "--document", "30"], "does not consist of whole documents"),
        (&["--devices", "cuda:7"], "cuda"),
    ] {
        let output = bench(options, &[])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2) && said.contains(wanted), "{options:?}: {said}");
        ensure!(said.matches("error:").count() == 1, "{said}");
    }
    Ok(())
}
