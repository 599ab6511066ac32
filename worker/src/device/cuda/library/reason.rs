//! Why a library or a set of libraries is not used, in sentences.

use super::version::Version;
use std::ffi::c_int;
use std::path::{Path, PathBuf};

/// The reason for which a library, or a set of libraries, was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A library of the set is not there.
    #[error("there is no {}", .name.display())]
    Absent {
        /// The file or the name that was looked for.
        name: PathBuf,
    },
    /// The dynamic loader does not open the file.
    #[error("{} cannot be opened: {message}", .file.display())]
    Unopened {
        /// The file or the name that was opened.
        file: PathBuf,
        /// The loader's message.
        message: String,
    },
    /// The library does not have a function.
    #[error("{} has no function {symbol}", .file.display())]
    Symbol {
        /// The library.
        file: PathBuf,
        /// The function's name in C.
        symbol: &'static str,
    },
    /// The library does not tell its version.
    #[error("{function} of {} returned status {status}", .file.display())]
    Status {
        /// The library.
        file: PathBuf,
        /// The function's name in C.
        function: &'static str,
        /// The result, which is not zero.
        status: c_int,
    },
    /// The library is older than this program supports.
    #[error("{} is version {version}, and the oldest that works is {minimum}", .file.display())]
    Old {
        /// The library.
        file: PathBuf,
        /// Its version.
        version: Version,
        /// The oldest version that works.
        minimum: Version,
    },
    /// The driver is too old for the set.
    #[error("CUDA {major} needs a newer driver: the driver supports CUDA up to {driver}")]
    Driver {
        /// The set's major version of CUDA.
        major: u32,
        /// The newest version of CUDA that the driver supports.
        driver: Version,
    },
}

impl Reason {
    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Absent { .. } | Self::Unopened { .. } => None,
            Self::Symbol { .. } => {
                Some("the file is damaged or incomplete; install it again".into())
            }
            Self::Status { function: "cuDriverGetVersion", status: STUB, .. } => Some(
                "the file is the toolkit's stub for linking; install the NVIDIA driver, or remove \
                 the folder of stubs from LD_LIBRARY_PATH"
                    .into(),
            ),
            Self::Status { .. } => None,
            Self::Old { file, minimum, .. } if is_driver(file) => Some(format!(
                "update the NVIDIA driver to {} or newer",
                driver_release(minimum.major)
            )),
            Self::Old { minimum, .. } => Some(format!("install version {minimum} or newer")),
            Self::Driver { major, driver } => Some(format!(
                "update the NVIDIA driver to {} or newer, or install the libraries of CUDA {}: \
                 `pip install {}`",
                driver_release(*major),
                driver.major,
                wheels(driver.major),
            )),
        }
    }
}

/// `CUDA_ERROR_STUB_LIBRARY`.
const STUB: c_int = 34;

fn is_driver(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libcuda.so"))
}

pub(super) fn hint_line(hint: Option<String>) -> String {
    hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default()
}

/// The first release of the driver for a major version of CUDA.
///
/// Source: NVIDIA's CUDA compatibility guide, "Minor Version Compatibility", table 1.
fn driver_release(major: u32) -> u32 {
    if major >= 13 { 580 } else { 525 }
}

/// The Python packages that hold a set. The names of CUDA 13's have no suffix.
pub(super) fn wheels(major: u32) -> &'static str {
    if major >= 13 {
        "'nvidia-cuda-nvrtc==13.*' 'nvidia-cublas==13.*' nvidia-nccl-cu13"
    } else {
        "nvidia-cuda-nvrtc-cu12 nvidia-cublas-cu12 nvidia-nccl-cu12"
    }
}
