//! The memory of a GPU, and the pinned host memory from which it is filled.
//!
//! ```text
//! lasting   parameters, moments, gradients: given back rarely
//! passing   activations: taken and given back all the time, always in the same way
//! inputs    tokens, positions, targets: filled on the copy stream while kernels run
//! pinned    host memory for inputs on their way there, and for results on their way back
//! ```
//!
//! Each is an arena that grows by whole segments and keeps them, so that nothing is allocated once every step takes
//! what the step before took. All kernels run in program order on one stream: a block of `passing` may be taken again
//! as soon as it was given back. A block of `inputs` or `pinned` is taken again only when the host knows that the work
//! that used it is done.

use super::arena::{Arena, rounded};
use super::arenas::{Memories, Released, Space, announce};
use super::error::Error;
use super::gpu::{Gpu, Stream};
use crate::device::Dtype;
use cudarc::driver::sys;
use std::ffi::c_void;
use std::sync::Arc;

/// The least that is allocated at one time.
const SEGMENT_BYTES: u64 = 32 << 20;
/// Granularity of the driver's allocations.
const GRANULE_BYTES: u64 = 2 << 20;
/// Pinned memory through which results come back, at most.
const READ_BYTES: usize = 16 << 20;

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Lasting,
    Passing,
    Input,
}

/// Device memory in use; given back when it is dropped.
struct Block {
    gpu: Arc<Gpu>,
    address: u64,
    bytes: u64,
    of: Use,
}

/// Elements of one type in the memory of a GPU.
#[derive(Debug)]
pub struct OnGpu {
    block: Block,
    dtype: Dtype,
    len: usize,
}

impl OnGpu {
    pub(in crate::device) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(in crate::device) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::device) fn address(&self) -> u64 {
        self.block.address
    }

    pub(in crate::device) fn gpu(&self) -> &Gpu {
        &self.block.gpu
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {:#x}", self.bytes, self.address)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        match self.of {
            Use::Lasting => self.gpu.give(Space::Lasting, self.address, self.bytes),
            Use::Passing => self.gpu.give(Space::Passing, self.address, self.bytes),
            Use::Input => {
                self.gpu.release(Stream::Compute, Space::Inputs, self.address, self.bytes)
            }
        }
    }
}

impl Gpu {
    /// Takes memory for elements. If there is none, the error is kept, and the memory must not be used; nothing uses
    /// it, since nothing is launched after an error.
    pub(in crate::device) fn buffer(self: &Arc<Self>, of: Use, dtype: Dtype, len: usize) -> OnGpu {
        let bytes = (len * dtype.size()) as u64;
        let space = match of {
            Use::Lasting => Space::Lasting,
            Use::Passing => Space::Passing,
            Use::Input => Space::Inputs,
        };
        let address = self.take(space, bytes).unwrap_or_else(|error| {
            self.fail(error);
            0
        });
        OnGpu { block: Block { gpu: self.clone(), address, bytes, of }, dtype, len }
    }

    /// Makes sure that there is a segment of `bytes` for activations.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or another error of the driver.
    pub fn reserve(&self, bytes: u64) -> Result<(), Error> {
        if self.memories().passing.largest() >= bytes {
            return Ok(());
        }
        self.trim()?;
        self.grow(Space::Passing, bytes)
    }

    /// Gives segments without blocks back to the driver, once all work is done.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn trim(&self) -> Result<(), Error> {
        self.bind()?;
        for stream in [Stream::Copy, Stream::Comm, Stream::Compute] {
            // SAFETY: the stream is live.
            let code = unsafe { (self.driver().cuStreamSynchronize)(self.raw(stream)) };
            self.result("cuStreamSynchronize", code)?;
            self.counters.waits.advance();
        }
        self.reap();
        let unused = {
            let mut memories = self.memories();
            let Memories { lasting, passing, inputs, segments, .. } = &mut *memories;
            let unused = [lasting, passing, inputs].map(Arena::remove_unused).concat();
            segments.retain(|segment| !unused.contains(segment));
            unused
        };
        for segment in unused {
            // SAFETY: the segment has no block, and all work is done.
            self.result("cuMemFree", unsafe { (self.driver().cuMemFree_v2)(segment) })?;
        }
        Ok(())
    }

    fn take(&self, space: Space, bytes: u64) -> Result<u64, Error> {
        self.reap();
        let address = loop {
            let found = self.memories().arena(space).take(bytes);
            match found {
                Some(address) => break address,
                None => self.grow(space, bytes)?,
            }
        };
        announce(self.driver().softgpuBlockTaken, space, address, bytes);
        Ok(address)
    }

    fn give(&self, space: Space, start: u64, bytes: u64) {
        announce(self.driver().softgpuBlockGiven, space, start, bytes);
        self.memories().arena(space).give(start, bytes);
    }

    /// Gives a block back once the work that `stream` has so far is done.
    fn release(&self, stream: Stream, space: Space, start: u64, bytes: u64) {
        let after = self.record(stream);
        self.memories().released.push_back(Released { after, space, start, bytes });
    }

    /// Gives back the released blocks whose work is done. After an error, that is not known.
    fn reap(&self) {
        while !self.has_failed() {
            let first = self.memories().released.pop_front();
            let Some(released) = first else { return };
            if !released.after.0.is_null() && !self.happened(released.after) {
                self.memories().released.push_front(released);
                return;
            }
            self.reuse(released.after);
            self.give(released.space, released.start, released.bytes);
        }
    }

    /// Allocates a segment with room for `bytes`.
    fn grow(&self, space: Space, bytes: u64) -> Result<(), Error> {
        self.bind()?;
        self.counters.allocations.advance();
        let bytes = rounded(bytes).max(SEGMENT_BYTES).next_multiple_of(GRANULE_BYTES);
        let start = if space == Space::Pinned {
            let mut address = std::ptr::null_mut();
            let allocate = self.driver().cuMemHostAlloc;
            // SAFETY: `address` outlives the call.
            let code = unsafe { allocate(&mut address, bytes as usize, 0) };
            self.result("cuMemHostAlloc", code)?;
            self.memories().pinned_segments.push(address as u64);
            address as u64
        } else {
            const NO_MEMORY: i32 = sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as i32;
            let mut address = 0;
            // SAFETY: `address` outlives the call.
            let mut allocate =
                || unsafe { (self.driver().cuMemAlloc_v2)(&mut address, bytes as usize) };
            let mut code = allocate();
            if code == NO_MEMORY {
                self.trim()?;
                code = allocate();
            }
            if code == NO_MEMORY {
                let [free, total] = self.memory()?;
                return Err(Error::OutOfMemory { wanted: bytes, free, total });
            }
            self.result("cuMemAlloc", code)?;
            self.memories().segments.push(address);
            address
        };
        self.memories().arena(space).add(start, bytes);
        Ok(())
    }

    /// Bytes that short-lived buffers have taken at most.
    pub fn height(&self) -> u64 {
        self.memories().passing.height()
    }

    /// Bytes of the GPU's memory that this process uses or could use, and bytes of all of it.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn usable(&self) -> Result<[u64; 2], Error> {
        let [free, total] = self.memory()?;
        Ok([free + self.reserved(), total])
    }

    /// Bytes of the GPU's memory that this process has reserved.
    pub fn reserved(&self) -> u64 {
        let memories = self.memories();
        let arenas = [&memories.lasting, &memories.passing, &memories.inputs];
        arenas.map(Arena::reserved).iter().sum()
    }

    /// Bytes of the GPU's memory that no process uses, and bytes of all of it.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn memory(&self) -> Result<[u64; 2], Error> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both outlive the call.
        let code = unsafe { (self.driver().cuMemGetInfo_v2)(&mut free, &mut total) };
        self.result("cuMemGetInfo", code)?;
        Ok([free as u64, total as u64])
    }

    /// Sends `bytes` to a block on the copy stream, by way of pinned memory; kernels that are launched from now on wait
    /// for them.
    pub(in crate::device) fn send(&self, to: u64, bytes: &[u8]) {
        if bytes.is_empty() || self.has_failed() {
            return;
        }
        let pinned = match self.take(Space::Pinned, bytes.len() as u64) {
            Ok(pinned) => pinned,
            Err(error) => return self.fail(error),
        };
        self.touch(pinned, bytes.len(), true);
        // SAFETY: the pinned block has room for the bytes, and no work uses it.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), pinned as *mut u8, bytes.len());
        }
        self.attempt(|| {
            let copy = self.driver().cuMemcpyHtoDAsync_v2;
            let from = pinned as *const c_void;
            // SAFETY: both blocks have room for the bytes, and stay untouched until the copy is done.
            let code = unsafe { copy(to, from, bytes.len(), self.raw(Stream::Copy)) };
            self.result("cuMemcpyHtoDAsync", code)
        });
        self.release(Stream::Copy, Space::Pinned, pinned, bytes.len() as u64);
        self.order(Stream::Compute, Stream::Copy);
    }

    /// Writes `bytes` to device memory after all work that was launched before, and waits until they are there.
    pub(in crate::device) fn write(&self, to: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.attempt(|| {
            let copy = self.driver().cuMemcpyHtoDAsync_v2;
            let from = bytes.as_ptr().cast();
            // SAFETY: the device memory has room for the bytes, which live until the wait below has returned.
            let code = unsafe { copy(to, from, bytes.len(), self.raw(Stream::Compute)) };
            self.result("cuMemcpyHtoDAsync", code)
        });
        self.wait(Stream::Compute);
    }

    /// Reads from device memory, from each address as many bytes as there is room for, as they are after all work that
    /// was launched before. Waits once per [`READ_BYTES`]. After an error, the bytes are unchanged.
    pub(in crate::device) fn read(&self, parts: Vec<(u64, &mut [u8])>) {
        let mut batch = Vec::new();
        let mut held = 0;
        for (address, to) in parts {
            for (chunk, at) in to.chunks_mut(READ_BYTES).zip((address..).step_by(READ_BYTES)) {
                if held + chunk.len() > READ_BYTES {
                    self.read_batch(std::mem::take(&mut batch));
                    held = 0;
                }
                held += chunk.len();
                batch.push((chunk, at));
            }
        }
        self.read_batch(batch);
    }

    fn read_batch(&self, batch: Vec<(&mut [u8], u64)>) {
        let bytes: usize = batch.iter().map(|(to, _)| to.len().next_multiple_of(8)).sum();
        if bytes == 0 {
            return;
        }
        let pinned = match self.take(Space::Pinned, bytes as u64) {
            Ok(pinned) => pinned,
            Err(error) => return self.fail(error),
        };
        let mut places = Vec::with_capacity(batch.len());
        let mut at = pinned;
        for (to, from) in &batch {
            self.attempt(|| {
                let copy = self.driver().cuMemcpyDtoHAsync_v2;
                let stream = self.raw(Stream::Compute);
                // SAFETY: the pinned block has room for all parts, and stays untouched until the wait below.
                let code = unsafe { copy(at as *mut c_void, *from, to.len(), stream) };
                self.result("cuMemcpyDtoHAsync", code)
            });
            places.push(at);
            at += to.len().next_multiple_of(8) as u64;
        }
        self.wait(Stream::Compute);
        if !self.has_failed() {
            for ((to, _), at) in batch.into_iter().zip(places) {
                self.touch(at, to.len(), false);
                // SAFETY: the copies are done, and the block is this function's.
                let from = unsafe { std::slice::from_raw_parts(at as *const u8, to.len()) };
                to.copy_from_slice(from);
            }
        }
        self.give(Space::Pinned, pinned, bytes as u64);
    }

    /// Sets device memory to zero.
    pub(crate) fn clear(&self, address: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.attempt(|| {
            let set = self.driver().cuMemsetD8Async;
            // SAFETY: the bytes lie within a block that the caller holds.
            let code = unsafe { set(address, 0, bytes, self.raw(Stream::Compute)) };
            self.result("cuMemsetD8Async", code)
        });
    }

    /// Copies device memory.
    pub(crate) fn copy(&self, to: u64, from: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.attempt(|| {
            let copy = self.driver().cuMemcpyDtoDAsync_v2;
            // SAFETY: the bytes lie within blocks that the caller holds.
            let code = unsafe { copy(to, from, bytes, self.raw(Stream::Compute)) };
            self.result("cuMemcpyDtoDAsync", code)
        });
    }

    /// Tells the software GPU of tests that the host uses pinned memory.
    fn touch(&self, address: u64, bytes: usize, write: bool) {
        if let Some(touch) = self.driver().softgpuHostTouch {
            // SAFETY: a function of tests, which only notes the numbers.
            unsafe { touch(address as *const c_void, bytes, write.into()) };
        }
    }
}
