//! cuBLAS: handles and matrix products, column-major as documented.
//!
//! Safety of all entry points: pointers must be valid as NVIDIA's documentation demands.

mod api;
mod gemm;
mod product;

pub(crate) use gemm::{from_bf16, to_bf16};

use std::ffi::{c_char, c_int};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::driver::{self, Handle};
use crate::fault;
use crate::memory::Span;
use crate::stream::Stream;
use crate::world::{Handles, world};

/// A cuBLAS error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(u32);

impl Status {
    const NOT_INITIALIZED: Self = Self(1);
    const INVALID_VALUE: Self = Self(7);
    const EXECUTION_FAILED: Self = Self(13);
    const NOT_SUPPORTED: Self = Self(15);
}

#[derive(Default)]
struct State {
    stream: Option<Arc<Stream>>,
    /// Scratch memory that every product may overwrite.
    workspace: Option<Span>,
    device_pointers: bool,
}

fn handles() -> &'static Handles<Mutex<State>> {
    static HANDLES: OnceLock<Handles<Mutex<State>>> = OnceLock::new();
    HANDLES.get_or_init(|| Handles::with_base(0x7_0000_1000))
}

fn call(name: &str, act: impl FnOnce() -> Result<(), Status>) -> u32 {
    if let Some(code) = fault::call(name) {
        return code;
    }
    match act() {
        Ok(()) => 0,
        Err(Status(code)) => code,
    }
}

fn with<T>(handle: Handle, act: impl FnOnce(&mut State) -> Result<T, Status>) -> Result<T, Status> {
    let state = handles().find(handle as usize).ok_or(Status::NOT_INITIALIZED)?;
    act(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasCreate_v2(handle: *mut Handle) -> u32 {
    call("cublasCreate_v2", || {
        driver::current_device().ok_or(Status::NOT_INITIALIZED)?;
        let new = handles().insert(Arc::new(Mutex::new(State::default())));
        // SAFETY: the caller's pointer is valid or null.
        unsafe { driver::put(handle, new as Handle) }.map_err(|_| Status::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasDestroy_v2(handle: Handle) -> u32 {
    call("cublasDestroy_v2", || {
        handles().remove(handle as usize).map(|_| ()).ok_or(Status::NOT_INITIALIZED)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cublasGetVersion_v2(_handle: Handle, version: *mut c_int) -> u32 {
    // The real libraries (12.8, 13.0) answer without a handle, too.
    call("cublasGetVersion_v2", || {
        let (major, minor) = world().settings.cuda;
        let number = (major * 10_000 + minor * 100) as c_int;
        // SAFETY: the caller's pointer is valid or null.
        unsafe { driver::put(version, number) }.map_err(|_| Status::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasSetStream_v2(handle: Handle, stream: Handle) -> u32 {
    call("cublasSetStream_v2", || {
        let stream = driver::stream(stream).map_err(|_| Status::INVALID_VALUE)?;
        with(handle, |state| {
            state.stream = Some(stream);
            // As documented, a new stream comes with the default workspace.
            state.workspace = None;
            Ok(())
        })
    })
}

/// The workspace is not used, but counts as written by every product.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasSetWorkspace_v2(
    handle: Handle,
    workspace: Handle,
    bytes: usize,
) -> u32 {
    call("cublasSetWorkspace_v2", || {
        if !(workspace as usize).is_multiple_of(256) {
            return Err(Status::INVALID_VALUE);
        }
        with(handle, |state| {
            // Its first bytes stand for all of it: marking megabytes for every product takes long.
            let marked = bytes.min(256) as u64;
            state.workspace = (bytes > 0).then(|| Span::new(workspace as u64, marked));
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasSetMathMode(handle: Handle, mode: u32) -> u32 {
    // Default, deprecated tensor operations, pedantic, TF32; the flag disallows narrow reductions.
    const NO_REDUCED_PRECISION_REDUCTION: u32 = 16;
    call("cublasSetMathMode", || {
        if mode & !NO_REDUCED_PRECISION_REDUCTION > 3 {
            return Err(Status::INVALID_VALUE);
        }
        with(handle, |_| Ok(()))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasSetPointerMode_v2(handle: Handle, mode: u32) -> u32 {
    call("cublasSetPointerMode_v2", || {
        if mode > 1 {
            return Err(Status::INVALID_VALUE);
        }
        with(handle, |state| {
            state.device_pointers = mode == 1;
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasSetAtomicsMode(handle: Handle, mode: u32) -> u32 {
    call("cublasSetAtomicsMode", || {
        if mode > 1 {
            return Err(Status::INVALID_VALUE);
        }
        with(handle, |_| Ok(()))
    })
}

const STATUSES: &[(u32, &std::ffi::CStr, &std::ffi::CStr)] = &[
    (0, c"CUBLAS_STATUS_SUCCESS", c"success"),
    (1, c"CUBLAS_STATUS_NOT_INITIALIZED", c"the library was not initialized"),
    (3, c"CUBLAS_STATUS_ALLOC_FAILED", c"the resource allocation failed"),
    (
        7,
        c"CUBLAS_STATUS_INVALID_VALUE",
        c"an unsupported value or parameter was passed to the function",
    ),
    (
        8,
        c"CUBLAS_STATUS_ARCH_MISMATCH",
        c"the function requires an architectural feature absent from the device",
    ),
    (11, c"CUBLAS_STATUS_MAPPING_ERROR", c"an access to GPU memory space failed"),
    (13, c"CUBLAS_STATUS_EXECUTION_FAILED", c"the function failed to launch on the GPU"),
    (14, c"CUBLAS_STATUS_INTERNAL_ERROR", c"an internal operation failed"),
    (15, c"CUBLAS_STATUS_NOT_SUPPORTED", c"the requested functionality is not supported"),
    (16, c"CUBLAS_STATUS_LICENSE_ERROR", c"the license check failed"),
];

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasGetStatusName(status: u32) -> *const c_char {
    let found = STATUSES.iter().find(|(code, ..)| *code == status);
    found.map_or(c"unrecognized status", |(_, name, _)| *name).as_ptr()
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasGetStatusString(status: u32) -> *const c_char {
    let found = STATUSES.iter().find(|(code, ..)| *code == status);
    found.map_or(c"unrecognized status", |(.., text)| *text).as_ptr()
}
