//! Allocation of device and pinned memory, and the caller's announcements of its own blocks.

use std::ffi::c_uint;
use std::sync::atomic::Ordering;

use super::{CUdeviceptr, CUresult, Code, Handle, current, put, space};
use crate::clock::HOST;
use crate::history::{self, Stamp, Touched};
use crate::memory::{Place, Span};
use crate::world::world;
use crate::{fault, ops, report};

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    current("cuMemGetInfo_v2", |device| {
        let budget = world().settings.memory;
        let used = device.used.load(Ordering::SeqCst);
        // SAFETY: the caller's pointers are valid or null.
        unsafe {
            put(free, (budget - used) as usize)?;
            put(total, budget as usize)
        }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) -> CUresult {
    current("cuMemAlloc_v2", |device| {
        if let Some(code) = fault::alloc() {
            return Err(Code(code));
        }
        if address.is_null() || bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let budget = world().settings.memory;
        let raised = |used: u64| used.checked_add(bytes as u64).filter(|sum| *sum <= budget);
        device
            .used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, raised)
            .map_err(|_| Code::OUT_OF_MEMORY)?;
        let start = space::map(bytes, true)?;
        world().memory().add(Span::new(start, bytes as u64), Place::Device(device.index));
        report::count("allocations", 1);
        // SAFETY: the pointer is not null, and the caller vouches for it.
        unsafe { put(address, start) }
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    current("cuMemFree_v2", |_| {
        if address == 0 {
            return Ok(());
        }
        let place = world().memory().place_of(Span::new(address, 1));
        drain(|device| place == Some(Place::Device(device)));
        let freed = world().memory().remove(address, false);
        let Some((span, Place::Device(owner))) = freed else { return Err(Code::INVALID_VALUE) };
        world().devices[owner].used.fetch_sub(span.end - span.start, Ordering::SeqCst);
        release(span);
        report::count("frees", 1);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemHostAlloc(
    address: *mut Handle,
    bytes: usize,
    _: c_uint,
) -> CUresult {
    current("cuMemHostAlloc", |_| {
        if address.is_null() || bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let start = space::map(bytes, false)?;
        world().memory().add(Span::new(start, bytes as u64), Place::Pinned);
        report::count("pinned_allocations", 1);
        // SAFETY: the pointer is not null, and the caller vouches for it.
        unsafe { put(address, start as Handle) }
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFreeHost(address: Handle) -> CUresult {
    current("cuMemFreeHost", |_| {
        let freed = world().memory().remove(address as u64, true);
        let Some((span, _)) = freed else { return Err(Code::INVALID_VALUE) };
        host_touches("free of pinned memory", span, true);
        drain(|_| true);
        release(span);
        Ok(())
    })
}

/// Waits for the streams of some devices, as freeing memory does in a real driver.
fn drain(concerns: impl Fn(usize) -> bool) {
    for stream in world().streams.all() {
        if concerns(stream.device.index) {
            stream.drain();
        }
    }
}

fn release(span: Span) {
    space::unmap(span.start, (span.end - span.start) as usize);
    history::forget(span);
}

fn host_touches(name: &str, span: Span, writes: bool) {
    let (count, clock) = world().host_acts();
    let stamp = Stamp { actor: HOST, count, name: ops::name(name), stream: ops::name("the host") };
    let (reads, writes) = if writes { (vec![], vec![span]) } else { (vec![span], vec![]) };
    history::apply(&stamp, &clock, &Touched { reads, writes });
}

/// Announces that the caller hands out a block of an allocation; its bytes are undefined.
#[unsafe(no_mangle)]
pub(super) extern "C" fn softgpuBlockTaken(address: CUdeviceptr, bytes: usize) {
    world().memory().take(Span::new(address, bytes as u64));
}

/// Announces that a block is free again.
#[unsafe(no_mangle)]
pub(super) extern "C" fn softgpuBlockGiven(address: CUdeviceptr, bytes: usize) {
    world().memory().give(Span::new(address, bytes as u64));
}

/// Announces that the caller itself reads or writes pinned memory.
#[unsafe(no_mangle)]
pub(super) extern "C" fn softgpuHostTouch(
    address: *const libc::c_void,
    bytes: usize,
    is_write: bool,
) {
    let span = Span::new(address as u64, bytes as u64);
    if world().memory().place_of(span) != Some(Place::Pinned) {
        let range = format!("{:#x}..{:#x}", span.start, span.end);
        let message = "the host touches memory that is not live pinned memory";
        report::violation("host.bounds", message, &[("range", range)]);
    }
    host_touches("access by the host", span, is_write);
}
