//! `coordinator doctor`: what it says of stores that are fit, and of one that is not. And that no secret is ever shown.

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
    // Whoever looks for an error looks at everything.
    doctor.env("MUSTER_LOG", "trace").envs(environment.iter().cloned());
    let said = doctor.output()?;
    let all = format!("{}{}", text(&said.stdout), text(&said.stderr));
    ensure!(!SeaweedFs::is_betrayed_by(&all), "{all}");
    Ok(said)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The verdict of every check.
fn verdicts(said: &Output) -> Result<BTreeMap<String, String>> {
    let report: Value = serde_json::from_slice(&said.stdout)?;
    let word = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().expect("a report has checks");
    Ok(checks.iter().map(|c| (word(c, "check"), word(c, "verdict"))).collect())
}

#[test]
fn a_folder_is_fit_and_left_as_it_was() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let said = doctor(&folder.path().to_string_lossy(), &[])?;
    ensure!(said.status.code() == Some(0), "{}", text(&said.stdout));
    ensure!(verdicts(&said)?.values().all(|v| v == "ok"), "{}", text(&said.stdout));
    ensure!(folder.path().read_dir()?.next().is_none());
    Ok(())
}

#[test]
fn a_real_store_is_fit_and_one_that_ignores_conditions_is_not() -> Result<()> {
    let name = "a_real_store_is_fit_and_one_that_ignores_conditions_is_not";
    let Some(server) = SeaweedFs::start(name) else { return Ok(()) };
    let url = format!("s3://{BUCKET}/some/prefix");
    let said = doctor(&url, &server.environment())?;
    ensure!(said.status.code() == Some(0), "{}{}", text(&said.stdout), text(&said.stderr));
    ensure!(verdicts(&said)?.values().all(|v| v == "ok"), "{}", text(&said.stdout));
    println!("{}", text(&said.stdout));

    let said = doctor("s3://nowhere", &server.environment())?;
    ensure!(said.status.code() == Some(2) && text(&said.stderr).contains("NoSuchBucket"));

    let proxy = Proxy::start(server.address());
    proxy.misbehave(Faults::none().ignoring("if-none-match"));
    let mut environment = Vec::from(SeaweedFs::environment_at(proxy.address()));
    environment.push(("AWS_SKIP_SIGNATURE", "true".into()));
    let said = doctor(&url, &environment)?;
    ensure!(said.status.code() == Some(1), "{}{}", text(&said.stdout), text(&said.stderr));
    let verdicts = verdicts(&said)?;
    let wrong: Vec<_> = verdicts.iter().filter(|(_, v)| *v == "no").map(|(c, _)| &c[..]).collect();
    ensure!(wrong == ["create-if-absent", "race of creators"], "{}", text(&said.stdout));
    Ok(())
}
