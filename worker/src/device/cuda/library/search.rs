//! The places in which CUDA's libraries are looked for, and their order. Nothing is opened here.
//!
//! ```text
//! Environment   variables, and a host that lists folders
//!      |        patterns: `$NAME` is a variable, `*` matches part of a name, newest first
//!      v
//! Place         an origin and its folders: one installation, whose libraries belong together
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The variable that names the folders of the CUDA libraries, separated by colons.
pub const VARIABLE: &str = "MUSTER_CUDA_LIBRARIES";

/// Roots of CUDA toolkits and conda environments.
const TOOLKITS: [&str; 7] = [
    "$CUDA_HOME",
    "$CUDA_PATH",
    "/usr/local/cuda",
    "/usr/local/cuda-*",
    "/opt/cuda",
    "$CONDA_PREFIX",
    "/opt/conda",
];

/// A toolkit's folders of libraries.
const TOOLKIT_FOLDERS: [&str; 4] =
    ["lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib"];

/// Folders of distributions and containers.
const SYSTEM: [&str; 7] = [
    // Debian's.
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    // Fedora's.
    "/usr/lib64",
    // The driver's in NVIDIA's containers and in Google's clusters.
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    // Google Colab's.
    "/usr/lib64-nvidia",
    // NixOS's.
    "/run/opengl-driver/lib",
];

/// Further folders that hold only the driver.
const DRIVER: [&str; 2] = ["/usr/lib/wsl/lib", "/usr/lib/x86_64-linux-gnu/nvidia/current"];

/// Folders into which Python's wheels are installed.
const SITES: [&str; 10] = [
    "$VIRTUAL_ENV/lib/python3*/site-packages",
    "$CONDA_PREFIX/lib/python3*/site-packages",
    "$PYTHON_PREFIX/lib/python3*/site-packages",
    "/usr/lib/python3/dist-packages",
    "/usr/local/lib/python3*/dist-packages",
    "/usr/local/lib/python3*/site-packages",
    // Fedora's.
    "/usr/local/lib64/python3*/site-packages",
    "/usr/lib64/python3*/site-packages",
    "/opt/*/lib/python3*/site-packages",
    "$HOME/.local/lib/python3*/site-packages",
];

/// The folders of NVIDIA's wheels: CUDA 13 shares one, and CUDA 12 has one per library.
const WHEEL_FOLDERS: [&str; 4] =
    ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "nvidia/cublas/lib", "nvidia/nccl/lib"];

/// What the search asks of the host.
pub(super) trait Host {
    /// The names in a folder; none if it cannot be read.
    fn names(&self, folder: &Path) -> Vec<OsString>;

    /// The path with its symbolic links resolved.
    fn real(&self, path: &Path) -> PathBuf;

    /// Whether the dynamic loader finds a library of this name.
    fn loader_finds(&self, name: &str) -> bool;
}

/// Variables, and the host to search.
pub(super) struct Environment {
    pub(super) variables: BTreeMap<String, OsString>,
    pub(super) host: Box<dyn Host>,
}

/// Where a set of libraries comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The folders that [`VARIABLE`] names.
    Variable(Vec<PathBuf>),
    /// The search of the dynamic loader: `LD_LIBRARY_PATH` and the cache of `ldconfig`.
    Loader,
    /// A toolkit, a folder of libraries, or a Python installation's folder of packages.
    Folder(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(folders) => {
                let folders: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
                write!(f, "{VARIABLE}={}", folders.join(":"))
            }
            Self::Loader => f.write_str("the dynamic loader"),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

/// One installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) origin: Origin,
    /// None if the dynamic loader searches.
    folders: Vec<PathBuf>,
}

impl Place {
    fn loader() -> Self {
        Self { origin: Origin::Loader, folders: Vec::new() }
    }

    fn folder(folder: PathBuf) -> Self {
        Self { origin: Origin::Folder(folder.clone()), folders: vec![folder] }
    }

    fn below(root: PathBuf, folders: &[&str]) -> Self {
        let folders = folders.iter().map(|folder| root.join(folder)).collect();
        Self { origin: Origin::Folder(root), folders }
    }

    /// The file called `name` in this place: a path, or the bare name if the loader finds it.
    pub(super) fn find(&self, name: &str, host: &dyn Host) -> Option<PathBuf> {
        if self.origin == Origin::Loader {
            return host.loader_finds(name).then(|| PathBuf::from(name));
        }
        let holds = |folder: &&PathBuf| host.names(folder).iter().any(|entry| entry == name);
        self.folders.iter().find(holds).map(|folder| folder.join(name))
    }
}

/// The places to search for the libraries, in order.
pub(super) fn places(environment: &Environment) -> Vec<Place> {
    if let Some(place) = environment.named() {
        return vec![place];
    }
    let mut places = vec![Place::loader()];
    for root in environment.expand_all(&TOOLKITS) {
        places.push(Place::below(root, &TOOLKIT_FOLDERS));
    }
    for folder in environment.expand_all(&SYSTEM) {
        places.push(Place::folder(folder));
    }
    for root in environment.expand_all(&SITES) {
        places.push(Place::below(root, &WHEEL_FOLDERS));
    }
    places
}

/// Whether `places` are the folders that [`VARIABLE`] names, and no others.
pub(super) fn is_named(places: &[Place]) -> bool {
    matches!(places, [Place { origin: Origin::Variable(_), .. }])
}

/// The places to search for the driver, in order. The named folders come first and not alone: the
/// driver is installed with the kernel's module, not with the libraries.
pub(super) fn driver_places(environment: &Environment) -> Vec<Place> {
    let mut places = Vec::from_iter(environment.named());
    places.push(Place::loader());
    for folder in environment.expand_all(&SYSTEM) {
        places.push(Place::folder(folder));
    }
    for folder in environment.expand_all(&DRIVER) {
        places.push(Place::folder(folder));
    }
    places
}

impl Environment {
    /// A variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables.get(name).filter(|value| !value.is_empty())
    }

    /// The folders that [`VARIABLE`] names, as one place.
    fn named(&self) -> Option<Place> {
        let folders = self.variable(VARIABLE)?;
        let folders: Vec<_> =
            std::env::split_paths(folders).filter(|folder| folder != Path::new("")).collect();
        Some(Place { origin: Origin::Variable(folders.clone()), folders })
    }

    fn expand_all(&self, patterns: &[&str]) -> Vec<PathBuf> {
        patterns.iter().flat_map(|pattern| self.expand(pattern)).collect()
    }

    /// The paths that match a pattern. Those without a `*` may not exist.
    fn expand(&self, pattern: &str) -> Vec<PathBuf> {
        let (root, rest) = pattern.split_once('/').unwrap_or((pattern, ""));
        let mut paths = match root.strip_prefix('$') {
            Some("PYTHON_PREFIX") => self.python_prefixes(),
            Some(name) => self.variable(name).map(PathBuf::from).into_iter().collect(),
            None => vec![PathBuf::from("/")],
        };
        for part in rest.split('/').filter(|part| !part.is_empty()) {
            paths = match part.split_once('*') {
                Some((start, end)) => {
                    paths.iter().flat_map(|path| self.matches(path, start, end)).collect()
                }
                None => paths.iter().map(|path| path.join(part)).collect(),
            };
        }
        paths
    }

    /// The entries of `folder` whose names start and end so, the newest version first.
    fn matches(&self, folder: &Path, start: &str, end: &str) -> Vec<PathBuf> {
        let mut names: Vec<String> = self
            .host
            .names(folder)
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .filter(|name| name.len() >= start.len() + end.len())
            .filter(|name| name.starts_with(start) && name.ends_with(end))
            .collect();
        names.sort_by_key(|name| (std::cmp::Reverse(numbers(name)), name.clone()));
        names.iter().map(|name| folder.join(name)).collect()
    }

    /// The prefixes of the `python3` on `PATH`: that of the path itself, which is a virtual
    /// environment's, and that of the file to which it links.
    fn python_prefixes(&self) -> Vec<PathBuf> {
        let path = self.variables.get("PATH").cloned().unwrap_or_default();
        let python = std::env::split_paths(&path)
            .find(|folder| self.host.names(folder).iter().any(|name| name == "python3"))
            .map(|folder| folder.join("python3"));
        let Some(python) = python else { return Vec::new() };
        let real = self.host.real(&python);
        let mut prefixes = Vec::new();
        for python in [python, real] {
            let prefix = python.parent().and_then(Path::parent).map(Path::to_owned);
            prefixes.extend(prefix.filter(|prefix| !prefixes.contains(prefix)));
        }
        prefixes
    }
}

/// The numbers in a name, by which `cuda-12.10` is newer than `cuda-12.9`.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}
