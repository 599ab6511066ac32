//! Sets of libraries that were considered, and what became of each.

use super::reason::Reason;
use super::search::{Host, Origin, Place};
use super::version::Version;
use super::{Cublas, Nvrtc, cublas, nvrtc};
use std::fmt;
use std::path::{Path, PathBuf};

/// A set of libraries of one major version of CUDA, from one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it comes from.
    pub origin: Origin,
    /// Its major version of CUDA.
    pub major: u32,
    /// The files that were found: paths, or the loader's names until they are opened.
    pub files: Vec<PathBuf>,
    /// The versions of the libraries that were opened.
    pub versions: Versions,
    /// Why it is not used; none for the set that was chosen.
    pub rejected: Option<Reason>,
}

/// Versions of a set's libraries, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// The version of the compiler.
    pub nvrtc: Option<Version>,
    /// The version of the matrix library.
    pub cublas: Option<Version>,
    /// The version of the collectives, for the set that was chosen.
    pub nccl: Option<Version>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, CUDA {}: ", self.origin, self.major)?;
        if let Some(reason) = &self.rejected {
            return reason.fmt(f);
        }
        let versions = &self.versions;
        let named =
            [("NVRTC", versions.nvrtc), ("cuBLAS", versions.cublas), ("NCCL", versions.nccl)];
        let known = named.iter().filter_map(|(name, version)| Some((name, (*version)?)));
        for (index, (name, version)) in known.enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {version}")?;
        }
        Ok(())
    }
}

/// The files of a set, before any is opened. At least one was found.
pub(super) struct Files {
    origin: Origin,
    major: u32,
    nvrtc: Option<PathBuf>,
    cublas: Option<PathBuf>,
}

impl Files {
    /// Looks for a set in `place`.
    pub(super) fn find(place: &Place, major: u32, host: &dyn Host) -> Option<Self> {
        let nvrtc = place.find(&format!("libnvrtc.so.{major}"), host);
        let cublas = place.find(&format!("libcublas.so.{major}"), host);
        if nvrtc.is_none() && cublas.is_none() {
            return None;
        }
        Some(Self { origin: place.origin.clone(), major, nvrtc, cublas })
    }

    /// The files without symbolic links, which tell whether two places are the same.
    pub(super) fn real(&self, host: &dyn Host) -> Vec<PathBuf> {
        self.found().map(|file| host.real(file)).collect()
    }

    /// Opens the set if it is complete and the driver supports it.
    pub(super) fn open(self, driver: Version) -> (Candidate, Option<Pair>) {
        let mut candidate = Candidate {
            origin: self.origin.clone(),
            major: self.major,
            files: self.found().cloned().collect(),
            versions: Versions::default(),
            rejected: None,
        };
        match self.open_into(driver, &mut candidate.versions) {
            Ok(pair) => {
                candidate.files = vec![pair.0.file().to_owned(), pair.1.file().to_owned()];
                (candidate, Some(pair))
            }
            Err(reason) => {
                candidate.rejected = Some(reason);
                (candidate, None)
            }
        }
    }

    /// Opens the set and notes versions. What is opened before an error is closed again, or else
    /// it would serve the libraries of the next set that ask for a library of the same name.
    fn open_into(&self, driver: Version, versions: &mut Versions) -> Result<Pair, Reason> {
        let major = self.major;
        if driver.major < major {
            return Err(Reason::Driver { major, driver });
        }
        let nvrtc = present(&self.nvrtc, format!("libnvrtc.so.{major}"))?;
        let cublas = present(&self.cublas, format!("libcublas.so.{major}"))?;
        let nvrtc = nvrtc::open(nvrtc)?;
        versions.nvrtc = Some(nvrtc.version());
        let cublas = cublas::open(cublas, major)?;
        versions.cublas = Some(cublas.version());
        Ok((nvrtc, cublas))
    }

    fn found(&self) -> impl Iterator<Item = &PathBuf> {
        self.nvrtc.iter().chain(&self.cublas)
    }
}

/// The libraries that every set needs.
pub(super) type Pair = (Nvrtc, Cublas);

fn present(file: &Option<PathBuf>, name: String) -> Result<&Path, Reason> {
    file.as_deref().ok_or(Reason::Absent { name: name.into() })
}
