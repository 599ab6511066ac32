//! One GPU as this process uses it: its context, three streams, its memory and its first error.
//!
//! ```text
//! copy      inputs of a micro-batch, from pinned memory
//! compute   all kernels, in program order
//! comm      sums of gradients over the ranks
//! ```
//!
//! Calls do not return errors: the first one is kept, after it nothing is launched, and [`Gpu::check`] reports it. A
//! step asks once, before it is committed, so that operations stay free of errors that only the device can have.

use super::arenas::Memories;
use super::calls::{Handle, driver_result};
use super::counts::{Counters, Counts};
use super::error::Error;
use super::library::{Driver, Libraries};
use super::present::Present;
use cudarc::driver::sys;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A GPU in use. It is used by several threads, but each stream only by one at a time.
pub struct Gpu {
    driver: &'static Driver,
    libraries: Libraries,
    device: sys::CUdevice,
    context: Handle<sys::CUcontext>,
    slice: bool,
    streams: [Handle<sys::CUstream>; 3],
    memories: Mutex<Memories>,
    /// Events that are not in use.
    events: Mutex<Vec<Handle<sys::CUevent>>>,
    fault: Mutex<Option<Error>>,
    pub(super) counters: Counters,
}

/// A queue of work on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// All kernels.
    Compute,
    /// Inputs on their way to the GPU.
    Copy,
    /// Sums of gradients.
    Comm,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Argument<'a> {
    /// An address in device memory.
    Pointer(u64),
    Int(i32),
    Unsigned(u32),
    /// A number of elements.
    Index(i64),
    Float(f32),
    /// A struct, as its bytes.
    Struct(&'a [u8]),
}

/// A kernel of a loaded program.
#[derive(Clone, Copy)]
pub(crate) struct Function(pub(super) Handle<sys::CUfunction>);

/// The shape of a launch: blocks in two dimensions, and threads per block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) blocks: [u32; 2],
    pub(crate) threads: u32,
}

impl Gpu {
    /// Takes a GPU into use.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn open(
        driver: &'static Driver,
        libraries: Libraries,
        present: &Present,
    ) -> Result<Arc<Self>, Error> {
        let check = |call, code| driver_result(driver, call, code);
        let mut device = 0;
        // SAFETY: `device` outlives the call.
        check("cuDeviceGet", unsafe { (driver.cuDeviceGet)(&mut device, present.number) })?;
        let mut context = null_mut();
        // SAFETY: `context` outlives the call.
        let code = unsafe { (driver.cuDevicePrimaryCtxRetain)(&mut context, device) };
        check("cuDevicePrimaryCtxRetain", code)?;
        // SAFETY: the context was just retained.
        check("cuCtxSetCurrent", unsafe { (driver.cuCtxSetCurrent)(context) })?;
        let mut streams = [Handle(null_mut()); 3];
        // The driver takes a number beyond its range for the greatest priority. Sums should not wait for products.
        for (stream, priority) in streams.iter_mut().zip([0, 0, -100]) {
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
            // SAFETY: `stream` outlives the call, and a context is current.
            let code =
                unsafe { (driver.cuStreamCreateWithPriority)(&mut stream.0, flags, priority) };
            check("cuStreamCreateWithPriority", code)?;
        }
        Ok(Arc::new(Self {
            driver,
            libraries,
            device,
            context: Handle(context),
            slice: present.is_slice(),
            streams,
            memories: Mutex::default(),
            events: Mutex::default(),
            fault: Mutex::default(),
            counters: Counters::default(),
        }))
    }

    pub(crate) fn driver(&self) -> &'static Driver {
        self.driver
    }

    pub(crate) fn libraries(&self) -> &Libraries {
        &self.libraries
    }

    /// Whether it is a slice of a GPU (MIG).
    pub(crate) fn is_slice(&self) -> bool {
        self.slice
    }

    /// Whether it is a stand-in for a GPU, as tests have, whose times mean nothing.
    pub fn is_simulated(&self) -> bool {
        self.driver.softgpuBlockTaken.is_some()
    }

    /// What this process has asked it for so far.
    pub fn counts(&self) -> Counts {
        self.counters.counts()
    }

    /// Counts a call for products.
    pub(crate) fn count_product(&self) {
        self.counters.products.advance();
    }

    /// The driver's handle of a stream.
    pub(crate) fn raw(&self, stream: Stream) -> sys::CUstream {
        self.streams[stream as usize].0
    }

    /// The value of an attribute of the device.
    ///
    /// # Errors
    /// Those of the driver.
    pub(crate) fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<i32, Error> {
        let mut value = 0;
        let get = self.driver.cuDeviceGetAttribute;
        // SAFETY: `value` outlives the call.
        let code = unsafe { get(&mut value, attribute, self.device) };
        self.result("cuDeviceGetAttribute", code)?;
        Ok(value)
    }

    /// The first error since the last call, if there was one. A lack of memory is forgotten, since the caller can do
    /// with less; any other error stays.
    ///
    /// # Errors
    /// That error.
    pub fn check(&self) -> Result<(), Error> {
        let fault = self.fault().clone();
        let Some(error) = fault else { return Ok(()) };
        if matches!(error, Error::OutOfMemory { .. }) {
            // Blocks that were released meanwhile have no event that says when they are free.
            self.bind()?;
            for stream in [Stream::Copy, Stream::Compute] {
                // SAFETY: the stream is live.
                let code = unsafe { (self.driver.cuStreamSynchronize)(self.raw(stream)) };
                self.result("cuStreamSynchronize", code)?;
                self.counters.waits.advance();
            }
            *self.fault() = None;
        }
        Err(error)
    }

    /// Makes the context current on this thread, and runs `call`, unless an error has occurred; keeps its error.
    pub(crate) fn attempt(&self, call: impl FnOnce() -> Result<(), Error>) {
        if self.fault().is_some() {
            return;
        }
        if let Err(error) = self.bind().and_then(|()| call()) {
            self.fail(error);
        }
    }

    /// The error after which this process can no longer use the GPU, if there was one.
    pub fn lost(&self) -> Option<Error> {
        self.fault().clone().filter(|error| !matches!(error, Error::OutOfMemory { .. }))
    }

    /// Whether an error has occurred that was not reported.
    pub(crate) fn has_failed(&self) -> bool {
        self.fault().is_some()
    }

    /// Makes the context current on this thread.
    pub(crate) fn bind(&self) -> Result<(), Error> {
        // SAFETY: the context is retained for as long as this value lives.
        let code = unsafe { (self.driver.cuCtxSetCurrent)(self.context.0) };
        self.result("cuCtxSetCurrent", code)
    }

    /// Keeps an error, unless there was one before.
    pub(crate) fn fail(&self, error: Error) {
        tracing::debug!(%error, "the GPU failed");
        self.fault().get_or_insert(error);
    }

    /// The result of a call of the driver.
    pub(super) fn result(&self, call: &'static str, code: c_int) -> Result<(), Error> {
        driver_result(self.driver, call, code)
    }

    /// Starts a kernel on the compute stream.
    pub(crate) fn launch(&self, function: Function, grid: Grid, arguments: &[Argument<'_>]) {
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::address).collect();
        let Grid { blocks: [x, y], threads } = grid;
        self.attempt(|| {
            self.counters.launches.advance();
            let launch = self.driver.cuLaunchKernel;
            let (stream, function) = (self.raw(Stream::Compute), function.0.0);
            // SAFETY: the arguments have the types of the kernel's parameters, which is for the caller to see to, and
            // are copied before the call returns.
            let code = unsafe {
                launch(
                    function,
                    x,
                    y,
                    1,
                    threads,
                    1,
                    1,
                    0,
                    stream,
                    pointers.as_mut_ptr(),
                    null_mut(),
                )
            };
            self.result("cuLaunchKernel", code)
        });
    }

    /// Makes the later work of `stream` wait for the work that `of` has so far.
    pub(crate) fn order(&self, stream: Stream, of: Stream) {
        let event = self.record(of);
        self.attempt(|| self.make_wait(stream, event));
        self.reuse(event);
    }

    /// An event that has happened once the work that `stream` has so far is done. [`Gpu::reuse`] ends its use.
    pub(super) fn record(&self, stream: Stream) -> Handle<sys::CUevent> {
        let mut event = Handle(null_mut());
        self.attempt(|| self.record_into(&mut event, stream));
        event
    }

    /// Whether an event has happened; also if there was an error, after which nothing happens any more.
    pub(super) fn happened(&self, event: Handle<sys::CUevent>) -> bool {
        let mut happened = true;
        self.attempt(|| {
            happened = self.query(event)?;
            Ok(())
        });
        happened
    }

    /// Blocks until the work that `stream` has so far is done, or an error has occurred.
    pub(crate) fn wait(&self, stream: Stream) {
        let event = self.record(stream);
        self.attempt(|| {
            self.counters.waits.advance();
            // SAFETY: the event is live.
            let code = unsafe { (self.driver.cuEventSynchronize)(event.0) };
            self.result("cuEventSynchronize", code)
        });
        self.reuse(event);
    }

    /// Keeps an event for its next use.
    pub(super) fn reuse(&self, event: Handle<sys::CUevent>) {
        if !event.0.is_null() {
            self.events().push(event);
        }
    }

    /// Events that are not in use.
    pub(super) fn events(&self) -> MutexGuard<'_, Vec<Handle<sys::CUevent>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn memories(&self) -> MutexGuard<'_, Memories> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> MutexGuard<'_, Option<Error>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Argument<'_> {
    /// Where the driver reads the argument.
    fn address(&self) -> *mut c_void {
        match self {
            Self::Pointer(x) => std::ptr::from_ref(x).cast_mut().cast(),
            Self::Int(x) => std::ptr::from_ref(x).cast_mut().cast(),
            Self::Unsigned(x) => std::ptr::from_ref(x).cast_mut().cast(),
            Self::Index(x) => std::ptr::from_ref(x).cast_mut().cast(),
            Self::Float(x) => std::ptr::from_ref(x).cast_mut().cast(),
            Self::Struct(bytes) => bytes.as_ptr().cast_mut().cast(),
        }
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Gpu {}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gpu").field(&self.device).finish()
    }
}

impl Drop for Gpu {
    /// Waits for the GPU's work, and frees everything. Errors do not matter any more; after one, waiting might not end.
    fn drop(&mut self) {
        if self.lost().is_some() || self.bind().is_err() {
            return;
        }
        let driver = self.driver;
        // SAFETY: the handles are live and not used after this; memory is freed after all work that uses it.
        unsafe {
            for stream in self.streams {
                (driver.cuStreamSynchronize)(stream.0);
                (driver.cuStreamDestroy_v2)(stream.0);
            }
            let events = self.events.get_mut().unwrap_or_else(PoisonError::into_inner);
            for event in events.drain(..) {
                (driver.cuEventDestroy_v2)(event.0);
            }
            let memories = self.memories.get_mut().unwrap_or_else(PoisonError::into_inner);
            memories.free(driver);
            (driver.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}
