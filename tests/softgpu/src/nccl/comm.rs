//! A communicator of one rank: its life, its connection and its errors.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use serde_json::Value;

use super::frames::{self, Hello, Kind};
use super::server::{self, ID_BYTES};
use super::{Failure, explain, version};
use crate::driver::Handle;
use crate::fault;
use crate::report::violation;
use crate::settings::{NcclAction, NcclPlace};
use crate::world::{Device, Handles, world};

/// The first version that lets ranks share a device.
const SHARING_VERSION: u32 = 23_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Something goes on in the background.
    Busy,
    Ready,
    Failed(Failure),
    /// Finalized: it may only be destroyed.
    Finalized,
}

/// A communicator.
pub(super) struct Comm {
    pub rank: u32,
    pub ranks: u32,
    pub device: Arc<Device>,
    pub blocking: bool,
    phase: Mutex<Phase>,
    changed: Condvar,
    aborted: AtomicBool,
    socket: OnceLock<UnixStream>,
    /// Collectives enqueued, and collectives finished.
    enqueued: AtomicU64,
    finished: Mutex<u64>,
    /// Held during each call, to find calls of two threads at once.
    caller: Mutex<()>,
}

/// All communicators that are neither destroyed nor aborted.
pub(super) fn comms() -> &'static Handles<Comm> {
    static COMMS: OnceLock<Handles<Comm>> = OnceLock::new();
    COMMS.get_or_init(|| Handles::with_base(0x8_0000_1000))
}

/// The communicator behind a handle.
pub(super) fn find(handle: Handle) -> Result<Arc<Comm>, Failure> {
    let found = comms().find(handle as usize);
    if found.is_none() && !handle.is_null() {
        let name = ("communicator", format!("{handle:?}"));
        violation("nccl.dead", "a call uses a destroyed or aborted communicator", &[name]);
    }
    found.ok_or(Failure::INVALID_ARGUMENT)
}

impl Comm {
    pub(super) fn new(rank: u32, ranks: u32, device: Arc<Device>, blocking: bool) -> Arc<Self> {
        Arc::new(Self {
            rank,
            ranks,
            device,
            blocking,
            phase: Mutex::new(Phase::Busy),
            changed: Condvar::new(),
            aborted: AtomicBool::new(false),
            socket: OnceLock::new(),
            enqueued: AtomicU64::new(0),
            finished: Mutex::new(0),
            caller: Mutex::new(()),
        })
    }

    /// Marks that the calling thread is in a call, until the guard is dropped.
    pub(super) fn enter(&self) -> Option<MutexGuard<'_, ()>> {
        match self.caller.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => {
                let names = [("rank", self.rank.to_string())];
                violation("nccl.threads", "two threads call one communicator at once", &names);
                None
            }
        }
    }

    /// Connects to the other ranks in the background.
    pub(super) fn begin(self: &Arc<Self>, id: [u8; ID_BYTES]) {
        let comm = Arc::clone(self);
        self.in_background(move || comm.connect(&id));
    }

    /// Is busy while `act` runs in a thread, and then ready or failed.
    pub(super) fn in_background(
        self: &Arc<Self>,
        act: impl FnOnce() -> Result<(), Failure> + Send + 'static,
    ) {
        self.set(Phase::Busy);
        let comm = Arc::clone(self);
        std::thread::spawn(move || match act() {
            Ok(()) => comm.set(Phase::Ready),
            Err(failure) => comm.set(Phase::Failed(failure)),
        });
    }

    fn connect(&self, id: &[u8; ID_BYTES]) -> Result<(), Failure> {
        match fault::nccl(self.rank, NcclPlace::Init) {
            Some(NcclAction::Hang) => self.wait_for_abort(),
            Some(NcclAction::Kill) => fault::kill_process(),
            Some(NcclAction::Slow(delay_ms)) => {
                std::thread::sleep(Duration::from_millis(delay_ms));
            }
            Some(NcclAction::Error(code)) => {
                explain("an injected error");
                return Err(Failure(code));
            }
            None => {}
        }
        let connected = server::connect(id).ok_or(Failure::INVALID_ARGUMENT)?;
        let socket = connected.map_err(|error| self.lost(&error))?;
        let stop = || self.is_aborted();
        socket
            .set_read_timeout(Some(frames::POLL))
            .and_then(|()| socket.set_write_timeout(Some(frames::POLL)))
            .and_then(|()| frames::send(&socket, Kind::Hello, &self.hello().to_bytes(), &stop))
            .map_err(|error| self.lost(&error))?;
        let answer = frames::receive(&socket, &stop).map_err(|error| self.lost(&error))?;
        match answer {
            Some((Kind::Welcome, _)) => {}
            Some((Kind::Refused, bytes)) => {
                let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                explain(value["text"].as_str().unwrap_or_default());
                let code = value["code"].as_u64().and_then(|code| u32::try_from(code).ok());
                return Err(code.map_or(Failure::SYSTEM_ERROR, Failure));
            }
            Some(_) | None => return Err(Failure::SYSTEM_ERROR),
        }
        self.socket.set(socket).map_err(|_| Failure::INVALID_USAGE)
    }

    fn lost(&self, error: &std::io::Error) -> Failure {
        explain(&format!("socket of rank {}: {error}", self.rank));
        Failure::SYSTEM_ERROR
    }

    fn hello(&self) -> Hello {
        let machine = || format!("machine {}", world().settings.machine);
        let sharing = std::env::var("NCCL_MULTI_RANK_GPU_ENABLE").is_ok_and(|value| value == "1");
        Hello {
            rank: self.rank,
            ranks: self.ranks,
            version: version(),
            host: std::env::var("NCCL_HOSTID").unwrap_or_else(|_| machine()),
            pci_bus: self.device.pci_bus,
            may_share: sharing && version() >= SHARING_VERSION,
        }
    }

    /// What `ncclCommGetAsyncError` reports.
    pub(super) fn state(&self) -> Result<(), Failure> {
        match *self.phase() {
            Phase::Busy => Err(Failure::IN_PROGRESS),
            Phase::Ready | Phase::Finalized => Ok(()),
            Phase::Failed(failure) => Err(failure),
        }
    }

    /// Refuses calls unless the communicator is ready for them.
    pub(super) fn ensure_ready(&self) -> Result<(), Failure> {
        let phase = *self.phase();
        let failure = match phase {
            Phase::Ready => return Ok(()),
            Phase::Busy => Failure::INVALID_ARGUMENT,
            Phase::Failed(failure) => failure,
            Phase::Finalized => Failure::INVALID_USAGE,
        };
        explain("Attempt to use communicator before the previous operation returned ncclSuccess");
        Err(failure)
    }

    /// Waits until nothing goes on in the background.
    pub(super) fn wait(&self) -> Result<(), Failure> {
        let busy = |phase: &mut Phase| *phase == Phase::Busy;
        let waited = self.changed.wait_while(self.phase(), busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.state()
    }

    /// Reports an asynchronous error.
    pub(super) fn fail(&self, code: u32, text: &str) {
        explain(text);
        self.set(Phase::Failed(Failure(code)));
    }

    /// Waits until all enqueued collectives are finished or the communicator is aborted.
    pub(super) fn flush(&self) {
        let target = self.enqueued.load(Ordering::SeqCst);
        while *self.finished() < target && !self.is_over() {
            std::thread::sleep(frames::POLL);
        }
    }

    /// Finalizes when all collectives are finished.
    pub(super) fn finish_in_background(self: &Arc<Self>) {
        self.set(Phase::Busy);
        let comm = Arc::clone(self);
        std::thread::spawn(move || {
            comm.flush();
            comm.set(Phase::Finalized);
        });
    }

    /// Whether a collective was already enqueued.
    pub(super) fn is_set_up(&self) -> bool {
        self.enqueued.load(Ordering::SeqCst) > 0
    }

    /// Allows no call any more except the last.
    pub(super) fn finalize(&self) {
        self.set(Phase::Finalized);
    }

    /// Ends everything that waits.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }

    /// Whether enqueued collectives will not be carried out any more.
    fn is_over(&self) -> bool {
        self.is_aborted() || self.device.sticky().is_some()
    }

    /// Does nothing until the communicator is aborted.
    pub(super) fn wait_for_abort(&self) {
        while !self.is_aborted() {
            std::thread::sleep(frames::POLL);
        }
    }

    /// The number of the next collective, from 1.
    pub(super) fn next_collective(&self) -> u64 {
        self.enqueued.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Runs a collective when those before it are finished, in whatever streams they are.
    pub(super) fn in_turn(&self, sequence: u64, act: impl FnOnce()) {
        while *self.finished() + 1 < sequence && !self.is_over() {
            std::thread::sleep(Duration::from_micros(100));
        }
        if !self.is_aborted() {
            act();
        }
        *self.finished() += 1;
    }

    /// Sends a rank's part and waits for the answer; `None` if it cannot come any more.
    pub(super) fn exchange(&self, part: &[u8]) -> Option<(Kind, Vec<u8>)> {
        let socket = self.socket.get()?;
        let stop = || self.is_aborted();
        let sent = frames::send(socket, Kind::Part, part, &stop).ok()?;
        if sent { frames::receive(socket, &stop).ok()? } else { None }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finished(&self) -> MutexGuard<'_, u64> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.phase() = phase;
        self.changed.notify_all();
    }
}
