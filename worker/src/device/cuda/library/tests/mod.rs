//! Tests of the search on made-up folders, and of loading with small libraries and real ones.

mod load;
mod search;
mod wheels;

use super::host::ThisHost;
use super::search::{Environment, Host};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// This host's folders below `root`, and a dynamic loader that finds nothing.
struct Below {
    root: PathBuf,
}

impl Host for Below {
    fn names(&self, folder: &Path) -> Vec<OsString> {
        if folder.starts_with(&self.root) { ThisHost.names(folder) } else { Vec::new() }
    }

    fn real(&self, path: &Path) -> PathBuf {
        ThisHost.real(path)
    }

    fn loader_finds(&self, _name: &str) -> bool {
        false
    }
}

/// Variables whose values are folders, and the folders below `root`.
fn below(root: &Path, variables: &[(&str, &Path)]) -> Environment {
    let variables =
        variables.iter().map(|(name, value)| (name.to_string(), value.into())).collect();
    Environment { variables, host: Box::new(Below { root: root.to_owned() }) }
}
