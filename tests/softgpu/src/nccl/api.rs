//! Entry points of communicators and collectives.
//!
//! Safety of all of them: pointers must be valid as NVIDIA's documentation demands.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::collectives::{Call, Part, What};
use super::comm::{Comm, comms, find};
use super::reduce::Reduction;
use super::server::{self, ID_BYTES};
use super::{Failure, call, explain, group, version};
use crate::driver::{self, Handle};
use crate::ops::Bytes;

const CONFIG_MAGIC: u32 = 0xcafe_beef;
/// `NCCL_CONFIG_UNDEF_INT`.
const UNDEFINED: c_int = c_int::MIN;

/// An `ncclUniqueId`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct UniqueId([u8; ID_BYTES]);

/// The part of `ncclConfig_t` that matters here.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

/// Writes through a caller's pointer.
///
/// # Safety
/// The pointer must be null or valid for a write.
unsafe fn put<T>(at: *mut T, value: T) -> Result<(), Failure> {
    // SAFETY: the caller vouches for the pointer.
    unsafe { driver::put(at, value) }.map_err(|_| Failure::INVALID_ARGUMENT)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclGetVersion(number: *mut c_int) -> u32 {
    // SAFETY: the caller's pointer is valid or null.
    call("ncclGetVersion", || unsafe { put(number, version() as c_int) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> u32 {
    call("ncclGetUniqueId", || {
        let new = server::start().map_err(|error| {
            explain(&format!("socket: {error}"));
            Failure::SYSTEM_ERROR
        })?;
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(id, UniqueId(new)) }
    })
}

fn init(
    to: *mut Handle,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
    blocking: bool,
) -> Result<(), Failure> {
    if to.is_null() || ranks < 1 || !(0..ranks).contains(&rank) {
        explain(&format!("Invalid rank requested : {rank}/{ranks}"));
        return Err(Failure::INVALID_ARGUMENT);
    }
    let device = driver::current_device().ok_or(Failure::UNHANDLED_CUDA_ERROR)?;
    let comm = Comm::new(rank as u32, ranks as u32, device, blocking);
    let handle = comms().insert(Arc::clone(&comm));
    // SAFETY: the pointer is not null, and the caller vouches for it.
    unsafe { put(to, handle as Handle) }?;
    comm.begin(id.0);
    group::made(comm)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclCommInitRank(
    comm: *mut Handle,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
) -> u32 {
    call("ncclCommInitRank", || group::note(init(comm, ranks, id, rank, true)))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut Handle,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
    config: *const Config,
) -> u32 {
    call("ncclCommInitRankConfig", || {
        // SAFETY: the caller's pointer is valid or null.
        let config = unsafe { config.as_ref() };
        let blocking = match config {
            None => true,
            Some(config) if config.magic != CONFIG_MAGIC => {
                explain("ncclConfig_t argument not initialized via NCCL_CONFIG_INITIALIZER");
                return Err(Failure::INVALID_ARGUMENT);
            }
            Some(config) => match config.blocking {
                UNDEFINED | 1 => true,
                0 => false,
                other => {
                    explain(&format!("Invalid config blocking attribute value {other}"));
                    return Err(Failure::INVALID_ARGUMENT);
                }
            },
        };
        group::note(init(comm, ranks, id, rank, blocking))
    })
}

/// A call on a communicator that needs it to be ready.
fn on(name: &str, comm: Handle, act: impl FnOnce(Arc<Comm>) -> Result<(), Failure>) -> u32 {
    call(name, || {
        let comm = find(comm)?;
        let inside = comm.enter();
        comm.ensure_ready()?;
        let result = act(Arc::clone(&comm));
        drop(inside);
        result
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclCommGetAsyncError(comm: Handle, code: *mut u32) -> u32 {
    call("ncclCommGetAsyncError", || {
        if comm.is_null() {
            explain("ncclGetAsyncError : comm argument is NULL");
        }
        let comm = find(comm)?;
        let inside = comm.enter();
        let state = comm.state().err().map_or(0, |Failure(code)| code);
        drop(inside);
        // SAFETY: the caller's pointer is valid or null.
        unsafe { put(code, state) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclCommCount(comm: Handle, count: *mut c_int) -> u32 {
    // SAFETY: the caller's pointer is valid or null.
    on("ncclCommCount", comm, |comm| unsafe { put(count, comm.ranks as c_int) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclCommCuDevice(comm: Handle, device: *mut c_int) -> u32 {
    // SAFETY: the caller's pointer is valid or null.
    on("ncclCommCuDevice", comm, |comm| unsafe { put(device, comm.device.index as c_int) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclCommUserRank(comm: Handle, rank: *mut c_int) -> u32 {
    // SAFETY: the caller's pointer is valid or null.
    on("ncclCommUserRank", comm, |comm| unsafe { put(rank, comm.rank as c_int) })
}

/// Finishes what is enqueued. Unlike NCCL's it does not wait for the other ranks.
#[unsafe(no_mangle)]
pub(super) extern "C" fn ncclCommFinalize(comm: Handle) -> u32 {
    call("ncclCommFinalize", || {
        let comm = find(comm)?;
        let inside = comm.enter();
        comm.ensure_ready()?;
        drop(inside);
        if comm.blocking {
            comm.flush();
            comm.finalize();
            return Ok(());
        }
        comm.finish_in_background();
        Err(Failure::IN_PROGRESS)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ncclCommDestroy(comm: Handle) -> u32 {
    call("ncclCommDestroy", || {
        if comm.is_null() {
            return Ok(());
        }
        let found = find(comm)?;
        drop(found.enter());
        comms().remove(comm as usize);
        found.flush();
        found.abort();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn ncclCommAbort(comm: Handle) -> u32 {
    call("ncclCommAbort", || {
        if comm.is_null() {
            return Ok(());
        }
        let found = find(comm)?;
        drop(found.enter());
        comms().remove(comm as usize);
        found.abort();
        // A call that still runs in the background ends before the communicator does.
        let _ = found.wait();
        Ok(())
    })
}

/// What the caller of a collective passes.
struct Request {
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: u32,
    reduction: u32,
    stream: Handle,
}

fn collective(name: &str, comm: Handle, what: Option<What>, request: &Request) -> u32 {
    on(name, comm, |comm| {
        let result = part(comm, what, request).and_then(|part| match part {
            Some(part) => group::submit(part),
            None => Ok(()),
        });
        group::note(result.or_else(|failure| match failure {
            Failure::IN_PROGRESS => Ok(()),
            failure => Err(failure),
        }))?;
        result
    })
}

fn part(comm: Arc<Comm>, what: Option<What>, request: &Request) -> Result<Option<Part>, Failure> {
    let what = what.ok_or(Failure::INVALID_ARGUMENT)?;
    let call = Call::new(what, request.element, request.reduction, request.count)
        .ok_or(Failure::INVALID_ARGUMENT)?;
    if let What::Broadcast { root } = what
        && root >= comm.ranks
    {
        explain(&format!("Broadcast : invalid root {root} (root should be in the 0..ranks range)"));
        return Err(Failure::INVALID_ARGUMENT);
    }
    if request.count == 0 {
        return Ok(None);
    }
    let sends = !matches!(what, What::Broadcast { root } if root != comm.rank);
    if request.to.is_null() || (sends && request.from.is_null()) {
        return Err(Failure::INVALID_ARGUMENT);
    }
    let stream = driver::stream(request.stream).map_err(|_| Failure::UNHANDLED_CUDA_ERROR)?;
    if stream.device.index != comm.device.index {
        return Err(Failure::UNHANDLED_CUDA_ERROR);
    }
    let (from, to) = (Bytes(request.from.cast_mut().cast()), Bytes(request.to.cast()));
    Ok(Some(Part { comm, stream, call, from, to }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclAllReduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: u32,
    reduction: u32,
    comm: Handle,
    stream: Handle,
) -> u32 {
    let request = Request { from, to, count, element, reduction, stream };
    let what = Reduction::from_code(reduction).map(What::AllReduce);
    collective("ncclAllReduce", comm, what, &request)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclReduceScatter(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: u32,
    reduction: u32,
    comm: Handle,
    stream: Handle,
) -> u32 {
    let request = Request { from, to, count, element, reduction, stream };
    let what = Reduction::from_code(reduction).map(What::ReduceScatter);
    collective("ncclReduceScatter", comm, what, &request)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclBroadcast(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: u32,
    root: c_int,
    comm: Handle,
    stream: Handle,
) -> u32 {
    let request = Request { from, to, count, element, reduction: 0, stream };
    let what = u32::try_from(root).ok().map(|root| What::Broadcast { root });
    collective("ncclBroadcast", comm, what, &request)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclAllGather(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    element: u32,
    comm: Handle,
    stream: Handle,
) -> u32 {
    let request = Request { from, to, count, element, reduction: 0, stream };
    collective("ncclAllGather", comm, Some(What::AllGather), &request)
}
