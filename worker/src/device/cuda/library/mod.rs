//! Finds and loads the CUDA libraries at run time, so that one program starts on hosts with and
//! without CUDA. It calls no function that needs a GPU.
//!
//! ```text
//! search      places, in order                   functions   tables of C functions, opened files
//! candidate   a set from one place, tried        driver, nvrtc, cublas, nccl   one table each
//! reason, error  why not, in sentences              host        the real folders and loader
//! ```
//!
//! NVRTC and cuBLAS come from one place and one major version of CUDA, which the driver must
//! support. The first complete set is chosen and stays loaded until the process ends. NCCL does not
//! depend on the other two: it is taken from the same place if possible, and one GPU needs none.

mod candidate;
pub mod cublas;
pub mod driver;
mod error;
mod functions;
mod host;
pub mod nccl;
pub mod nvrtc;
mod reason;
mod search;
#[cfg(test)]
mod tests;
mod version;

pub use candidate::{Candidate, Versions};
pub use error::{Error, Missing};
pub use functions::Library;
pub use reason::Reason;
pub use search::{Origin, VARIABLE};
pub use version::Version;

use candidate::Files;
use search::{Environment, Place};
use std::collections::BTreeSet;

/// The driver, whose version is the newest version of CUDA that it supports.
pub type Driver = Library<driver::Functions>;
/// The compiler of CUDA C.
pub type Nvrtc = Library<nvrtc::Functions>;
/// The matrix library.
pub type Cublas = Library<cublas::Functions>;
/// The collectives between GPUs.
pub type Nccl = Library<nccl::Functions>;

/// The major versions of CUDA that this program knows, newest first.
const MAJORS: [u32; 2] = [13, 12];

impl Driver {
    /// Finds and loads the driver. It is not initialized, and there may be no GPU.
    ///
    /// # Errors
    /// [`Error::NoDriver`] if none is installed, which is usual on hosts without a GPU, and
    /// [`Error::Driver`] if the one that is installed cannot be used.
    pub fn load() -> Result<&'static Self, Error> {
        Self::find(&Environment::of_process())
    }

    fn find(environment: &Environment) -> Result<&'static Self, Error> {
        let mut rejected = None;
        for place in search::driver_places(environment) {
            let Some(file) = place.find("libcuda.so.1", &*environment.host) else { continue };
            match Self::open(&file) {
                Ok(driver) => return Ok(driver.leak()),
                Err(reason) => {
                    tracing::debug!(origin = %place.origin, %reason, "rejected a CUDA driver");
                    rejected.get_or_insert(reason);
                }
            }
        }
        Err(rejected.map_or(Error::NoDriver, |reason| Error::Driver { reason }))
    }
}

/// A set of libraries that belong together.
#[derive(Clone, Debug)]
pub struct Libraries {
    nvrtc: &'static Nvrtc,
    cublas: &'static Cublas,
    nccl: Result<&'static Nccl, Missing>,
    candidates: Vec<Candidate>,
}

impl Libraries {
    /// Finds and loads the first complete set that `driver` supports.
    ///
    /// # Errors
    /// [`Error::NoSet`] if there is none; it lists the incomplete and the unsupported ones.
    pub fn load(driver: &Driver) -> Result<Self, Error> {
        Self::find(driver.version(), &Environment::of_process())
    }

    fn find(driver: Version, environment: &Environment) -> Result<Self, Error> {
        let places = search::places(environment);
        let host = &*environment.host;
        let mut candidates = Vec::new();
        let mut seen = BTreeSet::new();
        for place in &places {
            for major in MAJORS {
                let Some(files) = Files::find(place, major, host) else { continue };
                if !seen.insert(files.real(host)) {
                    continue;
                }
                let (mut candidate, pair) = files.open(driver);
                if let Some((nvrtc, cublas)) = pair {
                    let nccl = find_nccl(major, place, &places, environment);
                    candidate.versions.nccl = nccl.as_ref().ok().map(|nccl| nccl.version());
                    candidate.files.extend(nccl.iter().map(|nccl| nccl.file().to_owned()));
                    tracing::debug!(set = %candidate, "loaded the CUDA libraries");
                    candidates.push(candidate);
                    let (nvrtc, cublas) = (nvrtc.leak(), cublas.leak());
                    return Ok(Self { nvrtc, cublas, nccl, candidates });
                }
                tracing::debug!(set = %candidate, "rejected a set of CUDA libraries");
                candidates.push(candidate);
            }
        }
        Err(Error::NoSet { driver, candidates, named: search::is_named(&places) })
    }

    /// The compiler.
    pub fn nvrtc(&self) -> &'static Nvrtc {
        self.nvrtc
    }

    /// The matrix library.
    pub fn cublas(&self) -> &'static Cublas {
        self.cublas
    }

    /// The collectives.
    ///
    /// # Errors
    /// [`Missing`] if there are none that can be used; one GPU needs none.
    pub fn nccl(&self) -> Result<&'static Nccl, Missing> {
        self.nccl.clone()
    }

    /// The sets that were tried in order, the last of which was chosen.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }
}

/// The compiler at `path`, for tests.
#[cfg(test)]
pub(crate) fn nvrtc_at(path: &std::path::Path) -> Result<&'static Nvrtc, Reason> {
    nvrtc::open(path).map(Library::leak)
}

/// The libraries in `folder`, for tests.
#[cfg(test)]
pub(crate) fn in_folder(folder: &std::path::Path) -> Result<(&'static Driver, Libraries), Error> {
    let variables = [(VARIABLE.to_owned(), folder.as_os_str().to_owned())].into();
    let environment = Environment { variables, host: Box::new(host::ThisHost) };
    let driver = Driver::find(&environment)?;
    Ok((driver, Libraries::find(driver.version(), &environment)?))
}

/// The first usable NCCL, in the place of the chosen set or else in the others.
fn find_nccl(
    major: u32,
    chosen: &Place,
    places: &[Place],
    environment: &Environment,
) -> Result<&'static Nccl, Missing> {
    let mut rejected = Vec::new();
    let others = places.iter().filter(|place| *place != chosen);
    for place in std::iter::once(chosen).chain(others) {
        let Some(file) = place.find("libnccl.so.2", &*environment.host) else { continue };
        match Nccl::open(&file) {
            Ok(nccl) => return Ok(nccl.leak()),
            Err(reason) if rejected.contains(&reason) => {}
            Err(reason) => rejected.push(reason),
        }
    }
    Err(Missing { rejected, major, named: search::is_named(places) })
}
