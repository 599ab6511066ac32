//! The calls of CUDA that the owner of a communicator makes.

use std::sync::Arc;

use cudarc::driver::sys::CUstream;

use crate::device::cuda::{Event, Gpu, Stream};

/// The stream on which sums are computed. Tests replace it where there is no GPU.
pub(crate) trait Queue: Send + 'static {
    /// A point in a stream's work.
    type Event: Send + Sync + 'static;

    /// Makes the GPU the one that NCCL uses on this thread.
    fn bind(&self);

    /// The driver's handle of the stream.
    fn stream(&self) -> CUstream;

    /// Makes later sums wait for `event`.
    fn wait_for(&self, event: &Self::Event);

    /// The end of the sums so far.
    fn mark(&self) -> Self::Event;

    /// Whether the work before `event` is done, or will never be.
    fn has_happened(&self, event: &Self::Event) -> bool;

    /// Makes later computations wait for the sums so far, so that they can use the same memory.
    fn hold_computations(&self);
}

impl Queue for Arc<Gpu> {
    type Event = Event;

    fn bind(&self) {
        // An error comes back from NCCL, which then finds no GPU.
        let _ = Gpu::bind(self);
    }

    fn stream(&self) -> CUstream {
        self.raw(Stream::Comm)
    }

    fn wait_for(&self, event: &Event) {
        Gpu::wait_for(self, Stream::Comm, event);
    }

    fn mark(&self) -> Event {
        Gpu::mark(self, Stream::Comm)
    }

    fn has_happened(&self, event: &Event) -> bool {
        event.has_happened()
    }

    fn hold_computations(&self) {
        let sums = Queue::mark(self);
        Gpu::wait_for(self, Stream::Compute, &sums);
    }
}
