//! Primary contexts: retained by device, current by thread.

use std::cell::Cell;
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CUresult, Code, Handle, current, device, put, ready};
use crate::report;
use crate::world::{Device, world};

/// Shared memory of a block without opting in for more.
pub(super) const STATIC_SHARED_BYTES: c_int = 49_152;
/// Shared memory of a block at most.
pub(super) const OPTIN_SHARED_BYTES: c_int = 232_448;

/// Context handles are this plus the device's number, a multiple of 16.
const CONTEXTS: usize = 0x5_0000_1000;
const PROHIBITED: u32 = 2;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

fn handle(device: &Device) -> Handle {
    (CONTEXTS + device.index * 16) as Handle
}

fn by_handle(handle: usize) -> Option<&'static Arc<Device>> {
    let offset = handle.checked_sub(CONTEXTS)?;
    world().devices.get(offset / 16).filter(|_| offset.is_multiple_of(16))
}

/// The device of the thread's current context.
pub(super) fn current_device() -> Result<Arc<Device>, Code> {
    let device = by_handle(CURRENT.get()).ok_or(Code::INVALID_CONTEXT)?;
    if device.retained.load(Ordering::SeqCst) == 0 {
        return Err(Code::INVALID_CONTEXT);
    }
    Ok(Arc::clone(device))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDevicePrimaryCtxRetain(
    context: *mut Handle,
    ordinal: c_int,
) -> CUresult {
    ready("cuDevicePrimaryCtxRetain", || {
        let device = device::by_ordinal(ordinal)?;
        if world().settings.compute_mode == PROHIBITED {
            return Err(Code::UNKNOWN);
        }
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(context, handle(device)) }?;
        device.retained.fetch_add(1, Ordering::SeqCst);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxRelease_v2(ordinal: c_int) -> CUresult {
    ready("cuDevicePrimaryCtxRelease_v2", || {
        let device = device::by_ordinal(ordinal)?;
        let lower = |count: u32| count.checked_sub(1);
        let before = device.retained.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lower);
        match before {
            Ok(1) => world().destroy_context(device),
            Ok(_) => {}
            Err(_) => return Err(Code::INVALID_CONTEXT),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuDevicePrimaryCtxSetFlags_v2(ordinal: c_int, _flags: c_uint) -> CUresult {
    ready("cuDevicePrimaryCtxSetFlags_v2", || device::by_ordinal(ordinal).map(|_| ()))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSetCurrent(context: Handle) -> CUresult {
    ready("cuCtxSetCurrent", || {
        if !context.is_null() {
            let device = by_handle(context as usize).ok_or(Code::INVALID_CONTEXT)?;
            if device.retained.load(Ordering::SeqCst) == 0 {
                return Err(Code::INVALID_CONTEXT);
            }
        }
        CURRENT.set(context as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuCtxGetCurrent(context: *mut Handle) -> CUresult {
    ready("cuCtxGetCurrent", || {
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(context, CURRENT.get() as Handle) }
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuCtxSynchronize() -> CUresult {
    current("cuCtxSynchronize", |device| {
        report::count("host_waits", 1);
        for stream in world().streams.all() {
            if stream.device.index == device.index {
                stream.synchronize();
            }
        }
        device.sticky().map_or(Ok(()), |code| Err(Code(code)))
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuCtxGetStreamPriorityRange(
    least: *mut c_int,
    greatest: *mut c_int,
) -> CUresult {
    current("cuCtxGetStreamPriorityRange", |_| {
        // SAFETY: the caller's pointers are valid or null, and null is allowed here.
        unsafe {
            if !least.is_null() {
                put(least, 0)?;
            }
            if !greatest.is_null() {
                put(greatest, -5)?;
            }
        }
        Ok(())
    })
}
