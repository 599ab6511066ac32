//! The functions of NCCL, `libnccl.so.2`.

use super::functions::{Opened, Table, functions};
use super::reason::Reason;
use super::version::Version;
use cudarc::driver::sys::CUstream;
use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};
use std::ffi::{c_char, c_int, c_void};

functions! {
    fn ncclGetVersion(version: *mut c_int) -> c_int;
    fn ncclGetUniqueId(id: *mut ncclUniqueId) -> c_int;
    fn ncclCommInitRankConfig(
        communicator: *mut ncclComm_t,
        ranks: c_int,
        id: ncclUniqueId,
        rank: c_int,
        config: *mut ncclConfig_t,
    ) -> c_int;
    fn ncclCommGetAsyncError(communicator: ncclComm_t, status: *mut c_int) -> c_int;
    fn ncclAllReduce(
        from: *const c_void,
        to: *mut c_void,
        count: usize,
        data_type: ncclDataType_t,
        operation: ncclRedOp_t,
        communicator: ncclComm_t,
        stream: CUstream,
    ) -> c_int;
    fn ncclCommFinalize(communicator: ncclComm_t) -> c_int;
    fn ncclCommDestroy(communicator: ncclComm_t) -> c_int;
    fn ncclCommAbort(communicator: ncclComm_t) -> c_int;
    fn ncclGetErrorString(status: c_int) -> *const c_char;
    fn ncclGetLastError(communicator: ncclComm_t) -> *const c_char;
}

impl Table for Functions {
    const MINIMUM: Version = Version::new(2, 18);
    const VERSION_FUNCTION: &'static str = "ncclGetVersion";

    fn version(library: &Opened) -> Result<Version, Reason> {
        type GetVersion = unsafe extern "C" fn(*mut c_int) -> c_int;
        // SAFETY: the type is the header's.
        let get_version: GetVersion = unsafe { library.function(Self::VERSION_FUNCTION) }?;
        let mut code = 0;
        // SAFETY: the pointer is valid for the call.
        let status = unsafe { get_version(&mut code) };
        library.check(Self::VERSION_FUNCTION, status)?;
        Ok(Version::of_nccl(code))
    }
}
