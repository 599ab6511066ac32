//! The calls of NCCL, with their results as Rust has them. Every call is announced to the watchdog.
//!
//! A communicator is nonblocking: a call that cannot finish at once returns "in progress", and no other call but
//! [`Api::status`] and [`Api::abort`] may follow before the status is "done".
//!
//! Source: NVIDIA's NCCL user guide, "Fault tolerance" and "Creating a communicator with options".

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};

use cudarc::driver::sys::CUstream;
use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};

use super::error::Error;
use super::watchdog::Heartbeat;
use crate::device::Dtype;
use crate::device::cuda::library::nccl::Functions;

/// The number of bytes of an [`Id`].
pub(super) const ID_BYTES: usize = 128;

/// The id of a communicator, which all its ranks know.
pub(super) type Id = [u8; ID_BYTES];

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    InProgress,
}

/// A range of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) address: u64,
    pub(crate) elements: usize,
    pub(crate) dtype: Dtype,
}

/// A communicator of NCCL, used by one thread only.
#[derive(Clone, Copy)]
pub(super) struct Communicator(ncclComm_t);

/// The functions of NCCL, called by one thread only.
pub(super) struct Api {
    pub(super) functions: Functions,
    pub(super) heartbeat: Heartbeat,
}

impl Api {
    pub(super) fn unique_id(&self) -> Result<Id, Error> {
        let mut id = ncclUniqueId { internal: [0; ID_BYTES] };
        // SAFETY: `id` outlives the call.
        self.call("ncclGetUniqueId", || unsafe { (self.functions.ncclGetUniqueId)(&mut id) })?;
        Ok(id.internal.map(|byte| byte as u8))
    }

    /// Starts to join the communicator `id` as `rank` of `ranks`.
    pub(super) fn init(&self, id: &Id, rank: usize, ranks: usize) -> Result<Communicator, Error> {
        let mut communicator = null_mut();
        let mut config = nonblocking();
        let id = ncclUniqueId { internal: id.map(|byte| byte as c_char) };
        let (rank, ranks) = (rank as c_int, ranks as c_int);
        self.call("ncclCommInitRankConfig", || {
            let init = self.functions.ncclCommInitRankConfig;
            // SAFETY: both pointers outlive the call.
            unsafe { init(&mut communicator, ranks, id, rank, &mut config) }
        })?;
        Ok(Communicator(communicator))
    }

    /// What became of the last call, which was `of`, and of all work of this communicator.
    pub(super) fn status(
        &self,
        communicator: Communicator,
        of: &'static str,
    ) -> Result<Progress, Error> {
        let mut status = 0;
        self.call("ncclCommGetAsyncError", || {
            // SAFETY: the communicator is live, and `status` outlives the call.
            unsafe { (self.functions.ncclCommGetAsyncError)(communicator.0, &mut status) }
        })?;
        self.result(of, status)
    }

    /// Starts to replace the values of a window by their sums over all ranks, on `stream`.
    pub(super) fn all_reduce(
        &self,
        communicator: Communicator,
        window: Window,
        stream: CUstream,
    ) -> Result<Progress, Error> {
        let at = window.address as *mut c_void;
        let (data_type, sum) = (data_type(window.dtype), ncclRedOp_t::ncclSum);
        let all_reduce = self.functions.ncclAllReduce;
        // SAFETY: communicator and stream are live, and the window's memory stays taken until its work is done.
        self.call("ncclAllReduce", || unsafe {
            all_reduce(at, at, window.elements, data_type, sum, communicator.0, stream)
        })
    }

    /// Starts to end a communicator without work.
    pub(super) fn finalize(&self, communicator: Communicator) -> Result<Progress, Error> {
        // SAFETY: the communicator is live.
        let finalize = || unsafe { (self.functions.ncclCommFinalize)(communicator.0) };
        self.call("ncclCommFinalize", finalize)
    }

    /// Frees a finalized communicator, which must not be used again.
    pub(super) fn destroy(&self, communicator: Communicator) -> Result<Progress, Error> {
        // SAFETY: the communicator is live.
        let destroy = || unsafe { (self.functions.ncclCommDestroy)(communicator.0) };
        self.call("ncclCommDestroy", destroy)
    }

    /// Ends a communicator's work wherever it is, and frees it. It must not be used again.
    pub(super) fn abort(&self, communicator: Communicator) -> Result<Progress, Error> {
        // SAFETY: the communicator is live.
        let abort = || unsafe { (self.functions.ncclCommAbort)(communicator.0) };
        self.call("ncclCommAbort", abort)
    }

    fn call(&self, name: &'static str, call: impl FnOnce() -> c_int) -> Result<Progress, Error> {
        let code = self.heartbeat.during(name, call);
        self.result(name, code)
    }

    fn result(&self, call: &'static str, code: c_int) -> Result<Progress, Error> {
        const SUCCESS: c_int = 0;
        const IN_PROGRESS: c_int = 7;
        match code {
            SUCCESS => Ok(Progress::Done),
            IN_PROGRESS => Ok(Progress::InProgress),
            code => {
                // SAFETY: it accepts any code.
                let text = text_at(unsafe { (self.functions.ncclGetErrorString)(code) });
                // SAFETY: the argument is not used.
                let last = text_at(unsafe { (self.functions.ncclGetLastError)(null_mut()) });
                Err(Error::Call { call, code, text, last })
            }
        }
    }
}

fn text_at(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: NCCL's texts end in a zero and are not freed.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
}

fn data_type(dtype: Dtype) -> ncclDataType_t {
    match dtype {
        Dtype::F32 => ncclDataType_t::ncclFloat32,
        Dtype::Bf16 => ncclDataType_t::ncclBfloat16,
        Dtype::F64 => ncclDataType_t::ncclFloat64,
        Dtype::U32 => ncclDataType_t::ncclUint32,
    }
}

/// The configuration of a nonblocking communicator, which leaves all else to NCCL.
///
/// Source: `NCCL_CONFIG_INITIALIZER` in `nccl.h`.
fn nonblocking() -> ncclConfig_t {
    const MAGIC: c_uint = 0xcafe_beef;
    /// The version whose fields are listed here. An older library reads only those that it knows.
    const VERSION: c_uint = 23_000;
    const UNDEFINED: c_int = c_int::MIN;
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: MAGIC,
        version: VERSION,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
        graphUsageMode: UNDEFINED,
        numRmaCtx: UNDEFINED,
        maxP2pPeers: UNDEFINED,
    }
}
