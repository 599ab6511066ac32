//! Entry points of streams.

use std::ffi::{c_int, c_uint};

use super::{CUresult, Code, Handle, current, event, put, stream_of};
use crate::report;
use crate::stream::Stream;
use crate::world::{Device, world};

const NON_BLOCKING: c_uint = 1;

fn create(device: &std::sync::Arc<Device>, to: *mut Handle, flags: c_uint) -> Result<(), Code> {
    if to.is_null() || flags > NON_BLOCKING {
        return Err(Code::INVALID_VALUE);
    }
    let stream = Stream::start(device, world().new_actor());
    let handle = world().streams.insert(stream);
    // SAFETY: the pointer is not null, and the caller vouches for it.
    unsafe { put(to, handle as Handle) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, flags: c_uint) -> CUresult {
    current("cuStreamCreate", |device| create(device, stream, flags))
}

/// The priority is accepted and has no effect.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut Handle,
    flags: c_uint,
    _priority: c_int,
) -> CUresult {
    current("cuStreamCreateWithPriority", |device| create(device, stream, flags))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CUresult {
    current("cuStreamDestroy_v2", |device| {
        let found = stream_of(device, stream)?;
        world().streams.remove(stream as usize);
        found.close();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamWaitEvent(
    stream: Handle,
    event: Handle,
    flags: c_uint,
) -> CUresult {
    current("cuStreamWaitEvent", |device| {
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        let stream = stream_of(device, stream)?;
        if let Some(point) = event::find(event)?.latest() {
            stream.wait_for(&point);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamSynchronize(stream: Handle) -> CUresult {
    current("cuStreamSynchronize", |device| {
        let stream = stream_of(device, stream)?;
        report::count("host_waits", 1);
        stream.synchronize();
        device.sticky().map_or(Ok(()), |code| Err(Code(code)))
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamQuery(stream: Handle) -> CUresult {
    current("cuStreamQuery", |device| {
        let finished = stream_of(device, stream)?.query();
        if let Some(code) = device.sticky() {
            return Err(Code(code));
        }
        if finished { Ok(()) } else { Err(Code::NOT_READY) }
    })
}
