//! `coordinator doctor` on stores that are fit and on one that is not. No secret is ever printed.

use anyhow::{Result, ensure};
use muster_tests::programs;
use muster_tests::proxy::{Faults, Proxy};
use muster_tests::seaweed::{BUCKET, SeaweedFs};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Command, Output};

fn doctor(url: &str, environment: &[(&str, String)]) -> Result<Output> {
    let mut doctor = Command::new(programs::coordinator());
    doctor.args(["doctor", url, "--json"]);
    for (key, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("AWS_")) {
        doctor.env_remove(key);
    }
    // The most verbose log must not contain a secret either.
    doctor.env("MUSTER_LOG", "trace").envs(environment.iter().cloned());
    let output = doctor.output()?;
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    ensure!(!SeaweedFs::leaks_secret(&all), "{all}");
    Ok(output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The verdict of every check.
fn verdicts(output: &Output) -> Result<BTreeMap<String, String>> {
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let word = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().expect("a report has checks");
    Ok(checks.iter().map(|c| (word(c, "check"), word(c, "verdict"))).collect())
}

#[test]
fn a_folder_is_fit_and_left_as_it_was() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = doctor(&folder.path().to_string_lossy(), &[])?;
    ensure!(output.status.code() == Some(0), "{}", text(&output.stdout));
    ensure!(verdicts(&output)?.values().all(|v| v == "ok"), "{}", text(&output.stdout));
    ensure!(folder.path().read_dir()?.next().is_none());
    Ok(())
}

#[test]
fn a_real_store_is_fit_and_one_that_ignores_conditions_is_not() -> Result<()> {
    let name = "a_real_store_is_fit_and_one_that_ignores_conditions_is_not";
    let Some(server) = SeaweedFs::start(name) else { return Ok(()) };
    let url = format!("s3://{BUCKET}/some/prefix");
    let output = doctor(&url, &server.environment())?;
    ensure!(output.status.code() == Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    ensure!(verdicts(&output)?.values().all(|v| v == "ok"), "{}", text(&output.stdout));
    println!("{}", text(&output.stdout));

    let output = doctor("s3://nowhere", &server.environment())?;
    ensure!(output.status.code() == Some(2) && text(&output.stderr).contains("NoSuchBucket"));

    let proxy = Proxy::start(server.address());
    proxy.inject(Faults::none().ignoring("if-none-match"));
    let mut environment = Vec::from(SeaweedFs::environment_at(proxy.address()));
    environment.push(("AWS_SKIP_SIGNATURE", "true".into()));
    let output = doctor(&url, &environment)?;
    ensure!(output.status.code() == Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    let verdicts = verdicts(&output)?;
    let wrong: Vec<_> = verdicts.iter().filter(|(_, v)| *v == "no").map(|(c, _)| &c[..]).collect();
    ensure!(wrong == ["create-if-absent", "race of creators"], "{}", text(&output.stdout));
    Ok(())
}
