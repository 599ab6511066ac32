//! Why there is no set of libraries, in sentences.

use super::candidate::Candidate;
use super::reason::{Reason, hint_line, wheels};
use super::search::VARIABLE;
use super::version::Version;

/// There is no driver, or no usable set of libraries.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No file of the driver was found.
    #[error(
        "no NVIDIA driver: libcuda.so.1 is not installed\n\
         hint: install the NVIDIA driver; a container needs the host's, for example by \
         `docker run --gpus all`"
    )]
    NoDriver,
    /// A driver was found and cannot be used.
    #[error("the NVIDIA driver cannot be used: {reason}{}", hint_line(.reason.hint()))]
    Driver {
        /// Why not.
        reason: Reason,
    },
    /// No set of libraries is complete and supported by the driver.
    #[error("{}", no_set(*.driver, .candidates, *.named))]
    NoSet {
        /// The newest version of CUDA that the driver supports.
        driver: Version,
        /// The sets that were found, all of them rejected.
        candidates: Vec<Candidate>,
        /// Whether only the folders that [`VARIABLE`] names were searched.
        named: bool,
    },
}

/// NCCL is not available, so a world has one GPU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", no_nccl(.rejected, *.major, *.named))]
pub struct Missing {
    /// Why the files that were found are not used.
    pub rejected: Vec<Reason>,
    /// The major version of CUDA of the set without NCCL.
    pub major: u32,
    /// Whether only the folders that [`VARIABLE`] names were searched.
    pub named: bool,
}

fn no_set(driver: Version, candidates: &[Candidate], named: bool) -> String {
    let mut text = format!(
        "no usable set of CUDA libraries (NVRTC and cuBLAS of one version of CUDA, for a driver \
         that supports CUDA up to {driver})"
    );
    for candidate in candidates {
        text += &format!("\n  {candidate}");
    }
    if named {
        text += &format!(
            "\nhint: only the folders that {VARIABLE} names were searched; unset it to search the \
             usual places"
        );
        return text;
    }
    text + &format!(
        "\nhint: `pip install {}` in a Python environment that is active provides a set for this \
         driver; {VARIABLE} names the folders of one that is elsewhere",
        wheels(driver.major)
    )
}

fn no_nccl(rejected: &[Reason], major: u32, named: bool) -> String {
    let mut text = "NCCL, which several GPUs need, is not available".to_owned();
    for (index, reason) in rejected.iter().enumerate() {
        text += if index == 0 { ": " } else { "; " };
        text += &reason.to_string();
    }
    if rejected.is_empty() {
        text += ": libnccl.so.2 was not found";
    }
    text += &format!("\nhint: `pip install nvidia-nccl-cu{major}` provides it");
    if named {
        text += &format!("; {VARIABLE} has to name its folder too");
    }
    text
}
