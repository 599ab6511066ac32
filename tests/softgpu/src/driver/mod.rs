//! The CUDA driver API: one file for each family of calls.
//!
//! Safety of all entry points: pointers must be valid as CUDA's documentation demands; null is
//! refused with `CUDA_ERROR_INVALID_VALUE`. Handles are looked up, so a stale one is only an error.

mod context;
mod copy;
pub(crate) mod device;
mod error;
pub(crate) mod event;
mod launch;
mod memory;
pub(crate) mod module;
mod space;
mod streams;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::fault;
use crate::stream::Stream;
use crate::world::{Device, world};

pub(crate) use error::Code;

/// A `CUresult` in the caller's hands.
pub(crate) type CUresult = u32;
/// An address of device memory.
pub(crate) type CUdeviceptr = u64;
/// An opaque handle.
pub(crate) type Handle = *mut libc::c_void;

/// A call that works before `cuInit`.
fn plain(name: &str, act: impl FnOnce() -> Result<(), Code>) -> CUresult {
    if let Some(code) = fault::call(name) {
        return code;
    }
    match act() {
        Ok(()) => 0,
        Err(Code(code)) => code,
    }
}

/// A call that needs `cuInit`.
fn ready(name: &str, act: impl FnOnce() -> Result<(), Code>) -> CUresult {
    plain(name, || {
        if !world().initialized.load(Ordering::SeqCst) {
            return Err(Code::NOT_INITIALIZED);
        }
        act()
    })
}

/// A call that needs a current context without a sticky error.
fn current(name: &str, act: impl FnOnce(&Arc<Device>) -> Result<(), Code>) -> CUresult {
    ready(name, || {
        let device = context::current_device()?;
        if let Some(code) = device.sticky() {
            return Err(Code(code));
        }
        act(&device)?;
        Ok(())
    })
}

/// The device of the current context, for the libraries built upon the driver.
pub(crate) fn current_device() -> Option<Arc<Device>> {
    context::current_device().ok()
}

/// The stream behind a handle.
pub(crate) fn stream(handle: Handle) -> Result<Arc<Stream>, Code> {
    if (handle as usize) < 3 {
        crate::report::violation(
            "stream.default",
            "the default stream was used, which this software GPU does not offer",
            &[("handle", format!("{handle:?}"))],
        );
        return Err(Code::INVALID_HANDLE);
    }
    world().streams.find(handle as usize).ok_or(Code::INVALID_HANDLE)
}

/// The stream behind a handle, which must belong to the current context.
fn stream_of(device: &Arc<Device>, handle: Handle) -> Result<Arc<Stream>, Code> {
    let stream = stream(handle)?;
    if stream.device.index != device.index {
        return Err(Code::INVALID_HANDLE);
    }
    Ok(stream)
}

/// Writes a result through a caller's pointer.
///
/// # Safety
/// The pointer must be null or valid for a write.
pub(crate) unsafe fn put<T>(at: *mut T, value: T) -> Result<(), Code> {
    if at.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller vouches for the pointer.
    unsafe { at.write_unaligned(value) };
    Ok(())
}
