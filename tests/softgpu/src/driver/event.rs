//! Events: each holds the point of its latest record.

use std::ffi::c_uint;
use std::sync::{Arc, Mutex, PoisonError};

use super::{CUresult, Code, Handle, current, put, stream_of};
use crate::report;
use crate::stream::Point;
use crate::world::world;

const DISABLE_TIMING: c_uint = 2;
const KNOWN_FLAGS: c_uint = 1 | DISABLE_TIMING | 4;

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    pub device: usize,
    timing: bool,
    latest: Mutex<Option<Arc<Point>>>,
}

impl Event {
    /// The point of the latest record, if the event was ever recorded.
    pub(crate) fn latest(&self) -> Option<Arc<Point>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The event behind a handle.
pub(crate) fn find(handle: Handle) -> Result<Arc<Event>, Code> {
    world().events.find(handle as usize).ok_or(Code::INVALID_HANDLE)
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: c_uint) -> CUresult {
    current("cuEventCreate", |device| {
        if event.is_null() || flags & !KNOWN_FLAGS != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let handle = world().events.insert(Arc::new(Event {
            device: device.index,
            timing: flags & DISABLE_TIMING == 0,
            latest: Mutex::new(None),
        }));
        // SAFETY: the pointer is not null, and the caller vouches for it.
        unsafe { put(event, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventDestroy_v2(event: Handle) -> CUresult {
    current("cuEventDestroy_v2", |_| {
        world().events.remove(event as usize).map(|_| ()).ok_or(Code::INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CUresult {
    current("cuEventRecord", |device| {
        let event = find(event)?;
        let stream = stream_of(device, stream)?;
        if event.device != stream.device.index {
            return Err(Code::INVALID_HANDLE);
        }
        report::count("event_records", 1);
        let mut latest = event.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = Some(stream.record());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventQuery(event: Handle) -> CUresult {
    current("cuEventQuery", |device| {
        let event = find(event)?;
        let Some(point) = event.latest() else { return Ok(()) };
        report::count("event_queries", 1);
        if point.reached().is_none() {
            return Err(Code::NOT_READY);
        }
        world().host_learns(&point.clock);
        device.sticky().map_or(Ok(()), |code| Err(Code(code)))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventSynchronize(event: Handle) -> CUresult {
    current("cuEventSynchronize", |device| {
        let event = find(event)?;
        report::count("host_waits", 1);
        if let Some(point) = event.latest() {
            point.wait();
            world().host_learns(&point.clock);
        }
        device.sticky().map_or(Ok(()), |code| Err(Code(code)))
    })
}

fn elapsed(to: *mut f32, start: Handle, end: Handle) -> Result<(), Code> {
    let (start, end) = (find(start)?, find(end)?);
    let (Some(first), Some(last)) = (start.latest(), end.latest()) else {
        return Err(Code::INVALID_HANDLE);
    };
    if !start.timing || !end.timing {
        return Err(Code::INVALID_HANDLE);
    }
    let (Some(first), Some(last)) = (first.reached(), last.reached()) else {
        return Err(Code::NOT_READY);
    };
    let seconds = match last.checked_duration_since(first) {
        Some(after) => after.as_secs_f32(),
        None => -first.duration_since(last).as_secs_f32(),
    };
    // SAFETY: the caller's pointer is valid or null.
    unsafe { put(to, seconds * 1000.0) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuEventElapsedTime(
    to: *mut f32,
    start: Handle,
    end: Handle,
) -> CUresult {
    current("cuEventElapsedTime", |_| elapsed(to, start, end))
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cuEventElapsedTime_v2(
    to: *mut f32,
    start: Handle,
    end: Handle,
) -> CUresult {
    current("cuEventElapsedTime_v2", |_| elapsed(to, start, end))
}
