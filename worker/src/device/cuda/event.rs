//! Points in the work of a stream, by which streams of different threads are ordered.
//!
//! Other calls of a [`Gpu`] do nothing after an error. Those on an [`Event`] are made nevertheless: memory that a sum
//! of gradients uses must not be taken again before the sum is done, even if the GPU has run out of memory meanwhile.

use super::calls::Handle;
use super::error::Error;
use super::gpu::{Gpu, Stream};
use cudarc::driver::sys;
use std::ffi::{c_int, c_uint};
use std::ptr::null_mut;
use std::sync::Arc;

/// A point in the work of a stream, which has happened once the stream has done all work before it.
pub(crate) struct Event {
    gpu: Arc<Gpu>,
    /// Null if it could not be recorded. The GPU is then broken, and nothing waits for it.
    handle: Handle<sys::CUevent>,
}

impl Event {
    /// Whether it has happened; also if the GPU is broken, after which nothing happens any more.
    pub(crate) fn has_happened(&self) -> bool {
        if self.handle.0.is_null() {
            return true;
        }
        let happened = self.gpu.bind().and_then(|()| self.gpu.query(self.handle));
        happened.unwrap_or_else(|error| {
            self.gpu.fail(error);
            true
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.gpu.reuse(self.handle);
    }
}

impl Gpu {
    /// The end of the work that `stream` has so far.
    pub(crate) fn mark(self: &Arc<Self>, stream: Stream) -> Event {
        let mut handle = Handle(null_mut());
        if let Err(error) = self.bind().and_then(|()| self.record_into(&mut handle, stream)) {
            self.fail(error);
        }
        Event { gpu: self.clone(), handle }
    }

    /// Makes the later work of `stream` wait for `event`.
    pub(crate) fn wait_for(&self, stream: Stream, event: &Event) {
        if event.handle.0.is_null() {
            return;
        }
        if let Err(error) = self.bind().and_then(|()| self.make_wait(stream, event.handle)) {
            self.fail(error);
        }
    }

    /// Records the work that `stream` has so far into an event that is not in use, or into a new one.
    pub(super) fn record_into(
        &self,
        event: &mut Handle<sys::CUevent>,
        stream: Stream,
    ) -> Result<(), Error> {
        let driver = self.driver();
        let unused = self.events().pop();
        match unused {
            Some(unused) => *event = unused,
            None => {
                let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as c_uint
                    | sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as c_uint;
                // SAFETY: `event` outlives the call.
                let code = unsafe { (driver.cuEventCreate)(&mut event.0, flags) };
                self.result("cuEventCreate", code)?;
            }
        }
        // SAFETY: stream and event are live.
        let code = unsafe { (driver.cuEventRecord)(event.0, self.raw(stream)) };
        self.result("cuEventRecord", code)
    }

    pub(super) fn make_wait(
        &self,
        stream: Stream,
        event: Handle<sys::CUevent>,
    ) -> Result<(), Error> {
        // SAFETY: stream and event are live.
        let code = unsafe { (self.driver().cuStreamWaitEvent)(self.raw(stream), event.0, 0) };
        self.result("cuStreamWaitEvent", code)
    }

    /// Whether an event has happened.
    pub(super) fn query(&self, event: Handle<sys::CUevent>) -> Result<bool, Error> {
        const NOT_READY: c_int = sys::CUresult::CUDA_ERROR_NOT_READY as c_int;
        // SAFETY: the event is live.
        let code = unsafe { (self.driver().cuEventQuery)(event.0) };
        if code == NOT_READY {
            return Ok(false);
        }
        self.result("cuEventQuery", code)?;
        Ok(true)
    }
}
