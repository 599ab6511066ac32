//! Runs an ignored test in its own process and environment, since a store's credentials come from the environment.

use crate::seaweed::SeaweedFs;
use std::ffi::OsString;
use std::process::Command;

/// Prefixes of the variables that configure a store.
const STORES: [&str; 5] = ["AWS_", "AZURE_", "AZURITE_", "GOOGLE_", "MUSTER_TEST_STORE"];

/// Runs the ignored test `name` of the calling test's file with these variables, and with no other variable that
/// configures a store. Prints what the test prints to standard output.
///
/// # Errors
/// The test fails, does not exist, or prints a secret.
pub fn run_ignored(name: &str, environment: &[(&str, String)]) -> anyhow::Result<()> {
    run_ignored_under(&[], name, environment)
}

/// The same under another program, whose arguments end with a command line.
///
/// # Errors
/// As [`run_ignored`].
pub fn run_ignored_under(
    program: &[&str],
    name: &str,
    environment: &[(&str, String)],
) -> anyhow::Result<()> {
    let mut words = program.iter().map(OsString::from).chain([std::env::current_exe()?.into()]);
    let mut test = Command::new(words.next().expect("this program, at least"));
    test.args(words).args(["--exact", name, "--ignored", "--nocapture"]);
    for (key, _) in std::env::vars_os() {
        if STORES.iter().any(|store| key.to_string_lossy().starts_with(store)) {
            test.env_remove(key);
        }
    }
    let ended = test.envs(environment.iter().cloned()).output()?;
    let output = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    anyhow::ensure!(ended.status.success(), "{output}");
    anyhow::ensure!(output.contains("1 passed"), "no such test: {output}");
    anyhow::ensure!(!SeaweedFs::leaks_secret(&output), "{output}");
    print!("{}", String::from_utf8_lossy(&ended.stdout));
    Ok(())
}
