//! A collective of ranks with GPUs: NCCL sums gradient buckets, and the ring carries everything else.
//!
//! ```text
//! reduce                        NCCL, from GPU to GPU     a call of the ring, too, which only counts it
//! control, broadcast, barrier   ring                      values of a GPU pass through host memory
//! death, abort, NCCL's failure  ring, which ends NCCL     and NCCL's failure ends the ring
//! ```
//!
//! The sum of a bucket is awaited by the GPU and not by the host. After a failure the GPU therefore goes on with
//! undefined values, and so does the host until its next call of the ring, which fails.

use std::sync::Arc;

use super::nccl::{Nccl, NcclError, Started, Window};
use super::ring::Ring;
use super::{AbortHandle, Collective, Error, Pending};
use crate::device::cuda::{Event, Gpu, Stream};
use crate::device::{Buffer, Device, WindowMut};

/// One rank of a ring of which every rank has a GPU.
pub struct Paired {
    /// `None` if there are no other ranks. It ends before the ring does.
    nccl: Option<Nccl<Arc<Gpu>>>,
    ring: Ring,
    /// Calls of the ring by which the GPUs were connected.
    calls_before: u64,
    gpu: Arc<Gpu>,
}

impl Paired {
    /// Connects the GPUs of all ranks of `ring`; all of them call this. A single rank does not need NCCL.
    ///
    /// # Errors
    /// [`Error::Nccl`] if this host has no usable NCCL, if the ranks' versions differ, or if NCCL fails; or the error
    /// that ended the ring meanwhile.
    pub fn new(mut ring: Ring, gpu: Arc<Gpu>) -> Result<Self, Error> {
        let nccl = if ring.world_size() == 1 {
            None
        } else if gpu.is_slice() {
            return Err(NcclError::Slice.into());
        } else {
            let library = gpu.libraries().nccl().map_err(NcclError::from)?;
            Some(Nccl::join(&mut ring, **library, library.version(), gpu.clone())?)
        };
        let calls_before = ring.calls();
        Ok(Self { nccl, ring, calls_before, gpu })
    }
}

impl Collective for Paired {
    fn rank(&self) -> usize {
        self.ring.rank()
    }

    fn world_size(&self) -> usize {
        self.ring.world_size()
    }

    fn calls(&self) -> u64 {
        self.ring.calls() - self.calls_before
    }

    /// Buckets in the memory of the GPU are summed by NCCL; their sums are awaited by the GPU's compute stream.
    fn reduce(&mut self, bucket: Buffer) -> Result<Pending, Error> {
        if !matches!(bucket.device(), Device::Cuda(_)) {
            return self.ring.reduce(bucket);
        }
        if self.gpu.has_failed() {
            // Nothing may be computed any more, and the bucket may have no memory. This rank reports the error before
            // its next call of the ring, and leaves; the others notice that it has made fewer calls.
            return Ok(Pending::new(|| Ok(bucket)));
        }
        let (elements, dtype) = (bucket.len(), bucket.dtype());
        let call = self.ring.count(dtype, elements)?;
        let (Some(nccl), false) = (&self.nccl, bucket.is_empty()) else {
            return Ok(Pending::new(|| Ok(bucket)));
        };
        let window = Window { address: bucket.all().address(), elements, dtype };
        let started = nccl.reduce(call, window, self.gpu.mark(Stream::Compute));
        let lent = Lent { bucket: Some(bucket), started, gpu: self.gpu.clone() };
        Ok(Pending::new(move || lent.back()))
    }

    fn control(&mut self, values: &mut [f64]) -> Result<(), Error> {
        self.ring.control(values)
    }

    fn broadcast(&mut self, root: usize, values: WindowMut<'_>) -> Result<(), Error> {
        if !matches!(values.device(), Device::Cuda(_)) {
            return self.ring.broadcast(root, values);
        }
        let is_root = root == self.rank();
        let known =
            if is_root { values.shared().read().into_owned() } else { vec![0f32; values.len()] };
        let mut passing = Buffer::from(known);
        self.ring.broadcast(root, passing.all_mut())?;
        if !is_root {
            values.write::<f32>(&passing.read());
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), Error> {
        self.ring.barrier()
    }

    fn abort_handle(&self) -> AbortHandle {
        self.ring.abort_handle()
    }
}

/// A bucket that NCCL uses.
struct Lent {
    /// `None` once it is no longer lent.
    bucket: Option<Buffer>,
    started: Started<Event>,
    gpu: Arc<Gpu>,
}

impl Lent {
    /// Returns the bucket, for work that is launched from now on.
    fn back(mut self) -> Result<Buffer, Error> {
        self.hold_computations()?;
        Ok(self.bucket.take().expect("it comes back once"))
    }

    /// Makes later computations wait for the sum.
    fn hold_computations(&self) -> Result<(), Error> {
        let done = self.started.done()?;
        self.gpu.wait_for(Stream::Compute, &done);
        Ok(())
    }
}

impl Drop for Lent {
    /// Its memory may be taken again only by work that waits for the sum.
    fn drop(&mut self) {
        if self.bucket.is_some() {
            // After an error, the owner of the communicator has already made computations wait.
            let _ = self.hold_computations();
        }
    }
}
