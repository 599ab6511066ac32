//! The host's own folders, variables and dynamic loader.

use super::functions::Opened;
use super::reason::Reason;
use super::search::{Environment, Host};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The host that this process runs on.
pub(super) struct ThisHost;

impl Host for ThisHost {
    fn names(&self, folder: &Path) -> Vec<OsString> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect()
    }

    fn real(&self, path: &Path) -> PathBuf {
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    }

    /// A file that the loader finds and refuses counts as found, so that the refusal is reported.
    fn loader_finds(&self, name: &str) -> bool {
        !matches!(Opened::open(Path::new(name)), Err(Reason::Absent { .. }))
    }
}

impl Environment {
    /// This process's variables, and the host that it runs on.
    pub(super) fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect();
        Self { variables, host: Box::new(ThisHost) }
    }
}
