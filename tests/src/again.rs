//! A test once more, in a process and an environment of its own: that is where a store's credentials come from.

use crate::seaweed::SeaweedFs;
use std::process::Command;

/// What a store is configured by.
const STORES: [&str; 5] = ["AWS_", "AZURE_", "AZURITE_", "GOOGLE_", "MUSTER_TEST_STORE"];

/// Runs the test `name` of the calling test's file, which is ignored otherwise, with these variables and none of a
/// store's beside them. What it says on standard output is passed on.
///
/// # Errors
/// If it fails, is not there, or shows a secret.
pub fn again(name: &str, environment: &[(&str, String)]) -> anyhow::Result<()> {
    let mut test = Command::new(std::env::current_exe()?);
    test.args(["--exact", name, "--ignored", "--nocapture"]);
    for (key, _) in std::env::vars_os() {
        if STORES.iter().any(|store| key.to_string_lossy().starts_with(store)) {
            test.env_remove(key);
        }
    }
    let ended = test.envs(environment.iter().cloned()).output()?;
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    anyhow::ensure!(ended.status.success(), "{said}");
    anyhow::ensure!(said.contains("1 passed"), "no such test: {said}");
    anyhow::ensure!(!SeaweedFs::is_betrayed_by(&said), "{said}");
    print!("{}", String::from_utf8_lossy(&ended.stdout));
    Ok(())
}
