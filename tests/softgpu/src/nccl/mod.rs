//! NCCL between threads and processes of one machine.
//!
//! ```text
//!   rank 0 --\                                       ncclGetUniqueId starts the server in the
//!   rank 1 ----> server: gathers, reduces, answers   process that calls it; the id names its
//!   rank 2 --/                                       abstract Unix socket
//! ```
//!
//! A collective runs in its stream's thread: it sends its part and waits for the answer. If a peer
//! has died, no answer comes, and the operation waits until the communicator is aborted, as NCCL's
//! kernels do. Sums are taken once, in the order of ranks, so all ranks get the same bits.

mod api;
mod collectives;
mod comm;
mod frames;
mod group;
mod reduce;
mod server;

use std::ffi::{CString, c_char};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::fault;
use crate::report::count;
use crate::world::world;

/// A result code other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure(pub u32);

impl Failure {
    pub(crate) const UNHANDLED_CUDA_ERROR: Self = Self(1);
    pub(crate) const SYSTEM_ERROR: Self = Self(2);
    pub(crate) const INVALID_ARGUMENT: Self = Self(4);
    pub(crate) const INVALID_USAGE: Self = Self(5);
    pub(crate) const IN_PROGRESS: Self = Self(7);
}

/// The version as a number, such as 22809.
fn version() -> u32 {
    let (major, minor, patch) = world().settings.nccl;
    major * 10_000 + minor * 100 + patch
}

fn call(name: &str, act: impl FnOnce() -> Result<(), Failure>) -> u32 {
    if let Some(code) = fault::call(name) {
        return code;
    }
    count("nccl_calls", 1);
    match act() {
        Ok(()) => 0,
        Err(Failure(code)) => code,
    }
}

fn last_error() -> &'static Mutex<&'static CString> {
    static LAST: OnceLock<Mutex<&'static CString>> = OnceLock::new();
    LAST.get_or_init(|| Mutex::new(Box::leak(Box::default())))
}

/// Keeps a text for `ncclGetLastError`. Old texts stay valid, for callers may hold them.
fn explain(text: &str) {
    let text = CString::new(text).unwrap_or_default();
    *last_error().lock().unwrap_or_else(PoisonError::into_inner) = Box::leak(Box::new(text));
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn ncclGetLastError(_communicator: *mut libc::c_void) -> *const c_char {
    last_error().lock().unwrap_or_else(PoisonError::into_inner).as_ptr()
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn ncclGetErrorString(code: u32) -> *const c_char {
    let text = match code {
        0 => c"no error",
        1 => c"unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        2 => c"unhandled system error (run with NCCL_DEBUG=INFO for details)",
        3 => c"internal error - please report this issue to the NCCL developers",
        4 => c"invalid argument (run with NCCL_DEBUG=WARN for details)",
        5 => c"invalid usage (run with NCCL_DEBUG=WARN for details)",
        6 => c"remote process exited or there was a network error",
        7 => c"NCCL operation in progress",
        _ => c"unknown result code",
    };
    text.as_ptr()
}
