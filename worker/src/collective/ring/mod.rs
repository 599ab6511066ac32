//! A collective between processes: every rank is linked to the next, and values travel round.
//!
//! ```text
//!  mod.rs         the rank's face: a queue of calls, and the communication thread that works it off
//!  links.rs       one call over the two links, and who is to blame when it breaks
//!  transfer.rs    its bytes: sent, received and added as far as either side allows
//!  header.rs      PURE: what opens each call   notice.rs   PURE: a rank's last words
//!  flow.rs        PURE: which bytes go round in which order, for each kind of call
//!  connect.rs     the next rank is reached, the previous one let in
//!  handshake.rs   PURE: both prove run, generation and rank with the generation's key
//!  shortcut.rs    two ranks on one host change over to a Unix socket
//!  stream.rs      one connection     stop.rs   waiting that can be cut short
//! ```
//!
//! One thread serves both links of a rank, and never blocks on one of them: on a machine whose cores are
//! busy computing, a sender and a receiver thread per rank spend more on waking each other than on copying.
//! Sockets are its own, no async runtime touches them.

mod connect;
mod flow;
mod handshake;
mod header;
mod links;
mod notice;
mod shortcut;
mod stop;
mod stream;
mod transfer;

#[cfg(test)]
pub(super) mod tests;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::device::{Buffer, WindowMut};

use super::{AbortHandle, Collective, Error, Pending, check_root};
pub use connect::Listener;
pub use handshake::{Membership, Refusal};
use links::Links;
use stop::Stop;

/// Buckets that may be under way at once; a launch beyond them waits.
const MAX_BUCKETS_IN_FLIGHT: usize = 1024;

/// How a ring waits, and by which way its neighbours talk.
#[derive(Debug, Clone)]
pub struct Options {
    /// For [`Ring::connect`] as a whole.
    pub connect_within: Duration,
    /// How long a call may go without a byte moving.
    pub stall: Duration,
    /// Between neighbours on one host.
    pub same_host: SameHost,
}

/// What carries the values between neighbours that share a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameHost {
    /// A Unix socket: half of TCP's cost per byte.
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

/// One process's rank in a ring. A neighbour's death shows in the call that needs it, not between calls.
#[derive(Debug)]
pub struct Ring {
    rank: usize,
    world_size: usize,
    calls: u64,
    /// `None` only while the ring is dropped.
    jobs: Option<SyncSender<Job>>,
    fate: Fate,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Reduce {
        bucket: Buffer,
        done: SyncSender<Buffer>,
    },
    /// The caller works the links itself, on values that it only borrows, and gives them back.
    Lend {
        to: SyncSender<Links>,
        back: Receiver<Links>,
    },
}

/// What ended the ring, once something has.
#[derive(Debug, Clone)]
struct Fate {
    error: Arc<OnceLock<Error>>,
    abort: AbortHandle,
}

impl Ring {
    /// Joins the ring of one generation; every member calls this at about the same time.
    ///
    /// The listener serves any number of generations in turn. An abort cuts this short too.
    ///
    /// # Errors
    /// [`Error::Refused`] where this rank is not what the next one expects (it is in a stale generation, or
    /// has another key), [`Error::Unreachable`] and [`Error::Absent`] where a neighbour did not come in time.
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

        let fate = Fate { error: Arc::default(), abort };
        let (jobs, queue) = sync_channel(MAX_BUCKETS_IN_FLIGHT);
        let thread = std::thread::Builder::new()
            .name(format!("ring-{rank}"))
            .spawn({
                let fate = fate.clone();
                move || work_off(&queue, links, &fate)
            })
            .map_err(Error::host("start the communication thread"))?;
        Ok(Self { rank, world_size, calls: 0, jobs: Some(jobs), fate, stop, thread: Some(thread) })
    }

    /// Runs one call on this thread, once everything launched before is through.
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
            // The thread is gone only if this ring is.
            Ok(()) => give_back.send(links).map_err(|_| self.fate.error()),
            Err(error) => Err(self.fate.seal(links, error)),
        }
    }

    fn queue(&self, job: Job) -> Result<(), Error> {
        let jobs = self.jobs.as_ref().expect("the queue lasts as long as the ring");
        jobs.send(job).map_err(|_| self.fate.error())
    }
}

/// The communication thread. Whatever ends it, `fate` is sealed before a waiting caller is let go.
fn work_off(queue: &Receiver<Job>, mut links: Links, fate: &Fate) {
    while let Ok(job) = queue.recv() {
        match job {
            Job::Reduce { mut bucket, done } => match links.reduce(bucket.all_mut().host()) {
                // Nobody may be waiting any more: that is the caller's affair.
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
        }
    }
    links.leave();
}

impl Fate {
    /// Ends the ring: neighbours are told of `error`, everybody here gets it.
    fn seal(&self, links: Links, error: Error) -> Error {
        let error = self.error.get_or_init(|| error).clone();
        links.close(&error);
        if self.abort.is_aborted() { Error::Aborted } else { error }
    }

    fn error(&self) -> Error {
        match self.error.get() {
            Some(error) if !self.abort.is_aborted() => error.clone(),
            _ => Error::Aborted,
        }
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
    /// What is still under way is aborted, so that a rank that fails between two calls holds nobody up.
    fn drop(&mut self) {
        drop(self.jobs.take());
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // It panics only on a broken invariant of its own, which has been reported by the panic.
            let _ = thread.join();
        }
    }
}
