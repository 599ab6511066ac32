//! An NCCL and a GPU that do as a test says, and note what is asked of them.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUstream;
use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};

use crate::collective::nccl::communicator::{ID_BYTES, Id};
use crate::collective::nccl::queue::Queue;
use crate::device::cuda::library::nccl::Functions;

const SUCCESS: c_int = 0;
pub(super) const INVALID_USAGE: c_int = 5;
pub(super) const REMOTE_ERROR: c_int = 6;
const IN_PROGRESS: c_int = 7;

/// How a communicator behaves. After each call, its status is "in progress" for a number of polls.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    pub(super) join_polls: usize,
    pub(super) reduce_polls: usize,
    pub(super) finalize_polls: usize,
    /// The result of each reduction.
    pub(super) reduce_code: c_int,
    /// The number of the reduction after which the status is this error.
    pub(super) status_after: Option<(usize, c_int)>,
}

/// Everything that happened, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace(Arc<Mutex<Vec<&'static str>>>);

impl Trace {
    fn note(&self, what: &'static str) {
        lock(&self.0).push(what);
    }

    pub(super) fn all(&self) -> Vec<&'static str> {
        lock(&self.0).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The scripts and traces of all ids.
static WORLDS: LazyLock<Mutex<HashMap<u64, (Script, Trace)>>> = LazyLock::new(Mutex::default);

/// A new id, whose communicators behave as in `script`.
pub(super) fn world(script: Script, trace: Trace) -> Id {
    let mut worlds = lock(&WORLDS);
    let number = worlds.len() as u64;
    worlds.insert(number, (script, trace));
    let mut id = [0xa5; ID_BYTES];
    id[..8].copy_from_slice(&number.to_le_bytes());
    id
}

/// What a pointer to a communicator points to.
struct Fake {
    script: Script,
    trace: Trace,
    polls: usize,
    reductions: usize,
}

impl Fake {
    fn start(&mut self, what: &'static str, polls: usize) -> c_int {
        assert_eq!(self.polls, 0, "{what} although a call is in progress");
        self.trace.note(what);
        self.polls = polls;
        if polls == 0 { SUCCESS } else { IN_PROGRESS }
    }

    fn status(&mut self) -> c_int {
        match self.script.status_after {
            Some((after, code)) if self.reductions >= after => code,
            _ if self.polls == 0 => SUCCESS,
            _ => {
                self.polls -= 1;
                IN_PROGRESS
            }
        }
    }
}

fn fake(communicator: ncclComm_t) -> &'static mut Fake {
    // SAFETY: it was made by `init` below, is not freed, and is used by one thread.
    unsafe { &mut *communicator.cast::<Fake>() }
}

unsafe extern "C" fn version(to: *mut c_int) -> c_int {
    // SAFETY: the caller passes a valid pointer.
    unsafe { *to = 22_809 };
    SUCCESS
}

unsafe extern "C" fn unique_id(to: *mut ncclUniqueId) -> c_int {
    let id = world(Script::default(), Trace::default());
    // SAFETY: the caller passes a valid pointer.
    unsafe { *to = ncclUniqueId { internal: id.map(|byte| byte as c_char) } };
    SUCCESS
}

unsafe extern "C" fn init(
    to: *mut ncclComm_t,
    _ranks: c_int,
    id: ncclUniqueId,
    _rank: c_int,
    config: *mut ncclConfig_t,
) -> c_int {
    // SAFETY: the caller passes a valid pointer.
    let config = unsafe { *config };
    assert_eq!((config.blocking, config.size), (0, size_of::<ncclConfig_t>()));
    let number = std::array::from_fn(|index| id.internal[index] as u8);
    let worlds = lock(&WORLDS);
    let (script, trace) = worlds.get(&u64::from_le_bytes(number)).expect("every byte arrives");
    let (script, trace) = (script.clone(), trace.clone());
    drop(worlds);
    let polls = script.join_polls;
    let mut fake = Box::new(Fake { script, trace, polls: 0, reductions: 0 });
    let code = fake.start("init", polls);
    // SAFETY: the caller passes a valid pointer.
    unsafe { *to = Box::into_raw(fake).cast() };
    code
}

unsafe extern "C" fn status(communicator: ncclComm_t, to: *mut c_int) -> c_int {
    // SAFETY: the caller passes a valid pointer.
    unsafe { *to = fake(communicator).status() };
    SUCCESS
}

unsafe extern "C" fn all_reduce(
    from: *const c_void,
    to: *mut c_void,
    _count: usize,
    _data_type: ncclDataType_t,
    _operation: ncclRedOp_t,
    communicator: ncclComm_t,
    _stream: CUstream,
) -> c_int {
    assert_eq!(from, to.cast_const(), "sums are made in place");
    let fake = fake(communicator);
    let started = fake.start("all-reduce", fake.script.reduce_polls);
    fake.reductions += 1;
    if fake.script.reduce_code == SUCCESS { started } else { fake.script.reduce_code }
}

unsafe extern "C" fn finalize(communicator: ncclComm_t) -> c_int {
    let fake = fake(communicator);
    fake.start("finalize", fake.script.finalize_polls)
}

unsafe extern "C" fn destroy(communicator: ncclComm_t) -> c_int {
    fake(communicator).start("destroy", 0)
}

unsafe extern "C" fn abort(communicator: ncclComm_t) -> c_int {
    fake(communicator).trace.note("abort");
    SUCCESS
}

unsafe extern "C" fn error_string(code: c_int) -> *const c_char {
    match code {
        INVALID_USAGE => c"invalid usage".as_ptr(),
        REMOTE_ERROR => c"remote process exited".as_ptr(),
        _ => c"unknown".as_ptr(),
    }
}

unsafe extern "C" fn last_error(_: ncclComm_t) -> *const c_char {
    c"the peer hung up\n".as_ptr()
}

pub(super) fn functions() -> Functions {
    Functions {
        ncclGetVersion: version,
        ncclGetUniqueId: unique_id,
        ncclCommInitRankConfig: init,
        ncclCommGetAsyncError: status,
        ncclAllReduce: all_reduce,
        ncclCommFinalize: finalize,
        ncclCommDestroy: destroy,
        ncclCommAbort: abort,
        ncclGetErrorString: error_string,
        ncclGetLastError: last_error,
    }
}

/// A stream whose work is done when the test says so.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeQueue {
    pub(super) trace: Trace,
    pub(super) is_done: Arc<AtomicBool>,
}

impl Queue for FakeQueue {
    type Event = ();

    fn bind(&self) {}

    fn stream(&self) -> CUstream {
        null_mut()
    }

    fn wait_for(&self, (): &()) {
        self.trace.note("wait");
    }

    fn mark(&self) {
        self.trace.note("mark");
    }

    fn has_happened(&self, (): &()) -> bool {
        self.is_done.load(Ordering::SeqCst)
    }

    fn hold_computations(&self) {
        self.trace.note("hold");
    }
}
