//! A collective among processes: each rank is connected to the next, and values travel around the ring.
//!
//! ```text
//!  mod.rs         a rank's interface: a queue of calls, and the communication thread that processes it
//!  links.rs       one call over the two links, and which rank is to blame when it breaks
//!  transfer.rs    the bytes of a call: sent, received and added as far as the sockets allow
//!  header.rs      PURE: the header that opens each call
//!  notice.rs      PURE: the notice that a rank sends before it closes its links
//!  flow.rs        PURE: which bytes travel in which order, for each kind of call
//!  records.rs     encrypts and authenticates what travels
//!  secret.rs      PURE: the keys of a link
//!  connect.rs     connects to the next rank and accepts the previous one
//!  handshake.rs   PURE: both sides prove run, generation and rank with the generation's key
//!  shortcut.rs    two ranks on one host switch to a Unix socket
//!  stream.rs      one connection
//!  stop.rs        waiting that can be interrupted
//!  wake.rs        wakes the communication thread for a queued call
//! ```
//!
//! One thread serves both links of a rank and never blocks on either of them. On a machine whose cores are busy
//! computing, separate sender and receiver threads would spend more time waking each other than copying. The ring
//! owns its sockets; no async runtime touches them. Between calls, the thread watches for the death of another rank.

mod connect;
mod flow;
mod handshake;
mod header;
mod links;
mod notice;
mod records;
mod secret;
mod shortcut;
mod stop;
mod stream;
mod transfer;
mod wake;

#[cfg(test)]
pub(super) mod tests;

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::device::{Buffer, Dtype, WindowMut};

use super::signal::Signal;
use super::{AbortHandle, Call, Collective, Error, Kind, Pending, check_root};
pub use connect::Listener;
pub use handshake::{Membership, Refusal};
use links::Links;
use stop::Stop;
use wake::Wake;

/// Maximum number of reductions in flight; starting another one waits.
const MAX_BUCKETS_IN_FLIGHT: usize = 1024;

/// Time limits of a ring, and the transport between neighbours.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time limit for [`Ring::connect`] as a whole.
    pub connect_within: Duration,
    /// How long a call may take without a byte moving.
    pub stall: Duration,
    /// Transport between neighbours on one host.
    pub same_host: SameHost,
}

/// The transport between neighbours that share a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameHost {
    /// A Unix socket, at half of TCP's cost per byte.
    UnixSocket,
    /// TCP, as between hosts.
    Tcp,
}

impl Default for Options {
    fn default() -> Self {
        let budget = Duration::from_secs(30);
        Self { connect_within: budget, stall: budget, same_host: SameHost::UnixSocket }
    }
}

/// One process's rank in a ring. The death of another rank is noticed in a call and between calls.
#[derive(Debug)]
pub struct Ring {
    rank: usize,
    world_size: usize,
    calls: u64,
    /// `None` only while the ring is being dropped.
    jobs: Option<SyncSender<Job>>,
    wake: Arc<Wake>,
    fate: Fate,
    stop: Arc<Stop>,
    stall: Duration,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Reduce {
        bucket: Buffer,
        done: SyncSender<Buffer>,
    },
    /// Lends the links to the caller, which uses them on values that it only borrows, and gives them back.
    Lend {
        to: SyncSender<Links>,
        back: Receiver<Links>,
    },
    /// Counts a reduction of this number of values, which travel elsewhere.
    Count(Dtype, usize),
}

/// The error or abort that ended the ring, if it has ended.
#[derive(Debug, Clone)]
struct Fate {
    error: Arc<OnceLock<Error>>,
    /// Raised once there is an error, and the neighbours are notified.
    sealed: Signal,
    abort: AbortHandle,
}

/// Another thread's view of a ring: it learns of the ring's end, and can end it.
#[derive(Debug, Clone)]
pub(super) struct Lifeline {
    fate: Fate,
    stop: Arc<Stop>,
}

impl Ring {
    /// Joins the ring of one generation; every member calls this at about the same time.
    ///
    /// The listener serves any number of generations, one after another. An abort interrupts connecting, too.
    ///
    /// # Errors
    /// [`Error::Refused`] if this rank is not what the next one expects (for example, it is in a stale generation or
    /// has another key); [`Error::Unreachable`] or [`Error::Absent`] if a neighbour did not connect in time.
    pub fn connect(
        listener: &Listener,
        membership: &Membership,
        options: &Options,
        abort: AbortHandle,
    ) -> Result<Self, Error> {
        let (rank, world_size) = (membership.rank, membership.addresses.len());
        check_root(rank, world_size)?;
        let stop = Arc::new(Stop::new().map_err(Error::host("open a socket pair"))?);
        abort.on_abort({
            let stop = stop.clone();
            move || stop.stop()
        });
        let (next, previous) = connect::neighbours(listener, membership, options, &stop)?;
        let links = Links::new(membership, next, previous, stop.clone(), options.stall);
        links.close_on(&abort);

        let fate = Fate { error: Arc::default(), sealed: Signal::default(), abort };
        let (jobs, queue) = sync_channel(MAX_BUCKETS_IN_FLIGHT);
        let wake = Arc::new(Wake::new().map_err(Error::host("open a socket pair"))?);
        let thread = std::thread::Builder::new()
            .name(format!("ring-{rank}"))
            .spawn({
                let (fate, wake) = (fate.clone(), wake.clone());
                move || work_off(&queue, &wake, links, &fate)
            })
            .map_err(Error::host("start the communication thread"))?;
        let (jobs, thread, stall) = (Some(jobs), Some(thread), options.stall);
        Ok(Self { rank, world_size, calls: 0, jobs, wake, fate, stop, stall, thread })
    }

    /// How long a call may take without progress.
    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    pub(super) fn lifeline(&self) -> Lifeline {
        Lifeline { fate: self.fate.clone(), stop: self.stop.clone() }
    }

    /// Counts a reduction of `len` values that travel elsewhere as a call of this ring. If ranks made different
    /// numbers of them, their next calls do not match, and a rank that left without having made them has not left
    /// gracefully.
    pub(super) fn count(&mut self, dtype: Dtype, len: usize) -> Result<Call, Error> {
        let call = Call { number: self.calls, kind: Kind::Reduce(dtype), len: len as u64 };
        self.calls += 1;
        self.queue(Job::Count(dtype, len))?;
        Ok(call)
    }

    /// Runs one call on this thread, after all calls that were queued earlier.
    fn with_links(
        &mut self,
        call: impl FnOnce(&mut Links) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.calls += 1;
        let (to, lent) = sync_channel(1);
        let (give_back, back) = sync_channel(1);
        self.queue(Job::Lend { to, back })?;
        let mut links: Links = lent.recv().map_err(|_| self.fate.error())?;
        match call(&mut links) {
            // The communication thread lives as long as this ring.
            Ok(()) => give_back.send(links).map_err(|_| self.fate.error()),
            Err(error) => Err(self.fate.seal(links, error)),
        }
    }

    fn queue(&self, job: Job) -> Result<(), Error> {
        let jobs = self.jobs.as_ref().expect("the queue lasts as long as the ring");
        jobs.send(job).map_err(|_| self.fate.error())?;
        self.wake.wake();
        Ok(())
    }
}

/// The body of the communication thread. If a call fails, `fate` is sealed before any waiting caller is released.
fn work_off(queue: &Receiver<Job>, wake: &Wake, mut links: Links, fate: &Fate) {
    loop {
        let job = match next_job(queue, wake, &mut links) {
            Ok(Some(job)) => job,
            Ok(None) => return fate.leave(links),
            Err(error) => return drop(fate.seal(links, error)),
        };
        match job {
            Job::Reduce { mut bucket, done } => match links.reduce(&mut bucket) {
                // The caller may have dropped its `Pending`, which is its own business.
                Ok(()) => drop(done.send(bucket)),
                Err(error) => return drop(fate.seal(links, error)),
            },
            Job::Lend { to, back } => {
                if to.send(links).is_err() {
                    return;
                }
                match back.recv() {
                    Ok(returned) => links = returned,
                    Err(_) => return,
                }
            }
            Job::Count(dtype, len) => {
                if let Err(error) = links.count(dtype, len) {
                    return drop(fate.seal(links, error));
                }
            }
        }
    }
}

/// Waits for a job; `None` once the ring is being dropped.
///
/// # Errors
/// The error that ends the ring between calls.
fn next_job(queue: &Receiver<Job>, wake: &Wake, links: &mut Links) -> Result<Option<Job>, Error> {
    loop {
        wake.arm();
        // Read before the queue, since a ring that is being dropped closes its queue first.
        let stopped = links.is_stopped();
        let slept = match queue.try_recv() {
            Ok(job) => {
                wake.disarm();
                return Ok(Some(job));
            }
            Err(TryRecvError::Disconnected) => return Ok(None),
            Err(TryRecvError::Empty) if stopped => Err(Error::Aborted),
            Err(TryRecvError::Empty) => links.idle(wake.descriptor()),
        };
        wake.disarm();
        slept?;
    }
}

impl Fate {
    /// Ends the ring with `error`: neighbours are notified, and all pending and later calls return it.
    fn seal(&self, links: Links, error: Error) -> Error {
        let error = self.error.get_or_init(|| error).clone();
        links.close(&error);
        self.sealed.raise();
        if self.abort.is_aborted() { Error::Aborted } else { error }
    }

    /// Leaves the ring, gracefully unless it has ended before.
    fn leave(&self, links: Links) {
        match self.error.get() {
            Some(error) => links.close(error),
            None => links.leave(),
        }
    }

    fn error(&self) -> Error {
        match self.error.get() {
            Some(error) if !self.abort.is_aborted() => error.clone(),
            _ => Error::Aborted,
        }
    }
}

impl Lifeline {
    /// The error that ended the ring, if it has ended.
    pub(super) fn error(&self) -> Option<Error> {
        let ended = self.fate.abort.is_aborted() || self.fate.error.get().is_some();
        ended.then(|| self.fate.error())
    }

    /// Calls `wake` when the ring has ended; immediately if it has.
    pub(super) fn on_end(&self, wake: impl Fn() + Clone + Send + Sync + 'static) {
        self.fate.sealed.on_raise(wake.clone());
        self.fate.abort.on_abort(wake);
    }

    /// Ends the ring with `error`, unless it has ended. The other ranks lose this one.
    pub(super) fn end(&self, error: Error) {
        self.fate.error.get_or_init(|| error);
        self.stop.stop();
    }
}

impl Collective for Ring {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn reduce(&mut self, bucket: Buffer) -> Result<Pending, Error> {
        self.calls += 1;
        let (done, sum) = sync_channel(1);
        self.queue(Job::Reduce { bucket, done })?;
        let fate = self.fate.clone();
        Ok(Pending::new(move || sum.recv().map_err(|_| fate.error())))
    }

    fn control(&mut self, values: &mut [f64]) -> Result<(), Error> {
        self.with_links(|links| links.control(values))
    }

    fn broadcast(&mut self, root: usize, values: WindowMut<'_>) -> Result<(), Error> {
        check_root(root, self.world_size)?;
        self.with_links(|links| links.broadcast(root, values.host()))
    }

    fn barrier(&mut self) -> Result<(), Error> {
        self.with_links(Links::barrier)
    }

    fn abort_handle(&self) -> AbortHandle {
        self.fate.abort.clone()
    }
}

impl Drop for Ring {
    /// Aborts calls that are still in flight, so that a rank that fails between two calls holds no other rank up.
    fn drop(&mut self) {
        drop(self.jobs.take());
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // The thread panics only on a broken invariant, and the panic has then already been reported.
            let _ = thread.join();
        }
    }
}
