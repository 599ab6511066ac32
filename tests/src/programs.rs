//! The programs under test. The first test that needs one builds them, so that no test runs a stale program. On a
//! machine without Rust, `MUSTER_TEST_PROGRAMS` names their folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The folder of the running test's profile, in which the programs are.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(folder) = std::env::var_os("MUSTER_TEST_PROGRAMS") {
        return folder.into();
    }
    let test = std::env::current_exe().expect("a test is a file");
    let folder = test.ancestors().nth(2).expect("tests lie in `TARGET/PROFILE/deps`");
    let target = folder.parent().expect("a profile lies in the target folder");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "-p", "coordinator", "-p", "worker"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // Cargo sets these for a test. Build scripts that watch them would rebuild everything.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            build.env_remove(name);
        }
    }
    let built = build.status().expect("cargo runs");
    assert!(built.success(), "the programs under test do not build");
    folder.to_owned()
});

/// The `coordinator` program.
pub fn coordinator() -> PathBuf {
    program("coordinator")
}

/// The `worker` program.
pub fn worker() -> PathBuf {
    program("worker")
}

fn program(name: &str) -> PathBuf {
    let path = Path::join(&FOLDER, name);
    assert!(path.is_file(), "{} was not built", path.display());
    path
}
