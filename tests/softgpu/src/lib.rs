//! A software GPU: stand-ins for NVIDIA's libcuda, libcublas, libnvrtc and libnccl that run on a
//! CPU, so that a program which opens the real libraries can be tested on a machine without a GPU.
//!
//! ```text
//!   caller -- dlopen --> libcuda.so.1, libcublas.so.13, ... (links to one libsoftgpu.so)
//!      driver, cublas, nvrtc, nccl     entry points: arguments, errors, injected faults
//!      stream -> kernel, gemm, copies  work in stream order, one thread for each stream
//!      memory, clock, history, report  which bytes are alive, defined, ordered; what went wrong
//! ```
//!
//! The `rlib` half of the crate is for tests: it installs the links, spells the settings and reads
//! the report. It does not model time, caches or the precision of a GPU's special functions.

#![allow(unsafe_code, reason = "the crate stands in for C libraries")]

mod clock;
pub mod coverage;
mod cublas;
mod driver;
mod fault;
mod history;
mod kernel;
mod memory;
mod nccl;
mod nvrtc;
mod ops;
mod protection;
mod report;
mod settings;
mod stream;
mod world;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub use report::{Report, Violation};
pub use settings::{Fault, NcclAction, NcclPlace, Order, Settings, Violations};

/// The file names under which the real libraries are opened.
pub const LIBRARY_NAMES: [&str; 6] = [
    "libcuda.so.1",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libnvrtc.so.13",
    "libnvrtc-builtins.so.13.0",
    "libnccl.so.2",
];

/// Makes links in `folder` through which the libraries' usual names open the software GPU.
///
/// # Errors
/// If `libsoftgpu.so` is not beside the running executable or in the folder above it, or if a link
/// cannot be made.
pub fn install(folder: &Path) -> io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let library = library()?;
    std::fs::create_dir_all(folder)?;
    for name in LIBRARY_NAMES {
        // A rename replaces a link at once, even while another process opens it.
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let fresh = folder.join(format!(".{name}.{}.{turn}", std::process::id()));
        std::os::unix::fs::symlink(&library, &fresh)?;
        std::fs::rename(fresh, folder.join(name))?;
    }
    Ok(())
}

/// The path of `libsoftgpu.so`: beside the running executable or in the folder above it.
///
/// # Errors
/// If it is in neither place.
pub fn library() -> io::Result<PathBuf> {
    let executable = std::env::current_exe()?;
    for folder in executable.ancestors().skip(1).take(2) {
        let candidate = folder.join("libsoftgpu.so");
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    let message = format!("no libsoftgpu.so beside {} or above it", executable.display());
    Err(io::Error::new(io::ErrorKind::NotFound, message))
}

/// Whether the kernels were compiled for this host.
///
/// # Errors
/// Says why not, which on most machines means that there is no C++ compiler.
pub fn available() -> Result<(), String> {
    if cfg!(softgpu_kernels) {
        return Ok(());
    }
    Err(include_str!(concat!(env!("OUT_DIR"), "/why.txt")).to_owned())
}
