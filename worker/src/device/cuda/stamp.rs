//! Times of a GPU's work, by events that record them.

use super::calls::Handle;
use super::error::Error;
use super::gpu::{Gpu, Stream};
use cudarc::driver::sys;
use std::ffi::c_uint;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

/// The time at which the compute stream has done the work that it had.
pub struct Stamp {
    gpu: Arc<Gpu>,
    /// Null if it could not be recorded.
    event: Handle<sys::CUevent>,
}

impl Gpu {
    /// The time at which the work that was launched so far is done.
    pub(in crate::device) fn stamp(self: &Arc<Self>) -> Stamp {
        let mut event = Handle(null_mut());
        self.attempt(|| {
            let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as c_uint;
            // SAFETY: `event` outlives the call.
            let code = unsafe { (self.driver().cuEventCreate)(&mut event.0, flags) };
            self.result("cuEventCreate", code)?;
            // SAFETY: stream and event are live.
            let code = unsafe { (self.driver().cuEventRecord)(event.0, self.raw(Stream::Compute)) };
            self.result("cuEventRecord", code)
        });
        Stamp { gpu: self.clone(), event }
    }
}

impl Stamp {
    /// The time since `earlier`. Waits until both are known; after an error it is zero.
    pub(in crate::device) fn since(&self, earlier: &Self) -> Duration {
        let mut milliseconds = 0f32;
        self.gpu.attempt(|| {
            self.wait()?;
            earlier.wait()?;
            let elapsed = self.gpu.driver().cuEventElapsedTime;
            // SAFETY: `milliseconds` outlives the call, and both events are live and have happened.
            let code = unsafe { elapsed(&mut milliseconds, earlier.event.0, self.event.0) };
            self.gpu.result("cuEventElapsedTime", code)
        });
        Duration::from_secs_f32(milliseconds.max(0.) / 1e3)
    }

    fn wait(&self) -> Result<(), Error> {
        // SAFETY: the event is live; there is none only after an error, when this is not called.
        let code = unsafe { (self.gpu.driver().cuEventSynchronize)(self.event.0) };
        self.gpu.result("cuEventSynchronize", code)
    }
}

impl std::fmt::Debug for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stamp")
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        if !self.event.0.is_null() && self.gpu.bind().is_ok() {
            // SAFETY: the event is live and not used after this. An error does not matter any more.
            unsafe { (self.gpu.driver().cuEventDestroy_v2)(self.event.0) };
        }
    }
}
