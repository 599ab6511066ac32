//! The thread that owns a communicator. It alone calls NCCL, so no two calls meet, not even an abort and the call that
//! it should end.
//!
//! ```text
//! draw, join                 once, when a generation begins
//! reduce  ─▶  comm stream:   wait for the bucket │ all-reduce │ done
//!             and the answer is `done`, before any of it has happened
//! work outstanding           every few milliseconds: is it done, has NCCL failed, has it stalled?
//! the ring has ended,        ┐ end the ring, abort the communicator, and hold later computations until the stream
//! or NCCL has failed         ┘ has let go of the buckets
//! leave                      finalize and destroy, or abort if work is outstanding
//! ```

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use super::communicator::{Api, Communicator, Id, Progress, Window};
use super::error::Error as Failure;
use super::queue::Queue;
use crate::collective::ring::Lifeline;
use crate::collective::{Call, Error};

/// Interval at which outstanding work is looked at.
const POLL: Duration = Duration::from_millis(5);

/// First interval at which a call in progress is looked at; it doubles up to [`POLL`].
const POLL_FIRST: Duration = Duration::from_micros(50);

/// How long a rank whose NCCL has failed waits for the ring to name a lost rank, which is the better explanation.
const RING_GRACE: Duration = Duration::from_millis(300);

/// Time limits of a communicator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long joining may take.
    pub(crate) join: Duration,
    /// How long finalizing may take.
    pub(crate) leave: Duration,
    /// How long a reduction may take once those before it are done.
    pub(crate) stall: Duration,
}

/// A request to the owner.
pub(super) enum Message<E> {
    /// Draws the id of a new communicator.
    Draw(SyncSender<Id>),
    /// Joins the communicator with this id.
    Join(Id, SyncSender<()>),
    Reduce(Job<E>),
    /// The ring may have ended.
    Look,
    Leave,
}

/// A reduction of a bucket, which stays where it is until `answer` is used or dropped.
pub(super) struct Job<E> {
    pub(super) call: Call,
    pub(super) bucket: Window,
    /// The bucket is complete once this has happened.
    pub(super) complete: E,
    /// Receives the event after which the bucket holds the sum.
    pub(super) answer: SyncSender<Done<E>>,
}

/// An event that both sides watch.
pub(super) type Done<E> = std::sync::Arc<E>;

/// A reduction that was started.
struct Outstanding<E> {
    call: Call,
    done: Done<E>,
}

/// What an owner works with.
pub(super) struct Means<Q> {
    pub(super) api: Api,
    pub(super) queue: Q,
    pub(super) rank: usize,
    pub(super) world_size: usize,
    pub(super) ring: Lifeline,
    pub(super) limits: Limits,
}

/// A communicator and its work. It stays on the thread that it was made on.
pub(super) struct Owner<Q: Queue> {
    means: Means<Q>,
    communicator: Option<Communicator>,
    outstanding: VecDeque<Outstanding<Q::Event>>,
    /// When the first outstanding reduction was started, or the one before it was seen to be done.
    progress: Instant,
    /// The request that failed. It is not answered before the communicator is aborted.
    failed: Option<Message<Q::Event>>,
}

impl<Q: Queue> Owner<Q> {
    pub(super) fn new(means: Means<Q>) -> Self {
        let (outstanding, progress) = (VecDeque::new(), Instant::now());
        Self { means, communicator: None, outstanding, progress, failed: None }
    }

    /// The body of the thread.
    pub(super) fn serve(mut self, messages: &Receiver<Message<Q::Event>>) {
        self.means.queue.bind();
        let ended = self.work(messages).and_then(|()| self.leave());
        if let Err(error) = ended {
            self.fail(error);
        }
    }

    /// Does what messages ask for, until one of them asks to leave.
    fn work(&mut self, messages: &Receiver<Message<Q::Event>>) -> Result<(), Error> {
        loop {
            let message = if self.outstanding.is_empty() {
                messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                messages.recv_timeout(POLL)
            };
            self.check_ring()?;
            match message {
                Ok(Message::Leave) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(request) => {
                    if let Err(error) = self.answer(&request) {
                        self.failed = Some(request);
                        return Err(error);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.look(Instant::now())?;
        }
    }

    fn answer(&mut self, request: &Message<Q::Event>) -> Result<(), Error> {
        // An answer that cannot be sent is not awaited any more.
        match request {
            Message::Draw(to) => {
                let _ = to.send(self.means.api.unique_id()?);
            }
            Message::Join(id, to) => {
                self.join(id)?;
                let _ = to.send(());
            }
            Message::Reduce(job) => {
                let _ = job.answer.send(self.reduce(job)?);
            }
            Message::Look | Message::Leave => {}
        }
        Ok(())
    }

    fn join(&mut self, id: &Id) -> Result<(), Error> {
        let communicator = self.means.api.init(id, self.means.rank, self.means.world_size)?;
        self.communicator = Some(communicator);
        self.settle(communicator, "ncclCommInitRankConfig", self.means.limits.join)
    }

    /// Puts a reduction into the stream; returns the event after which it is done.
    fn reduce(&mut self, job: &Job<Q::Event>) -> Result<Done<Q::Event>, Error> {
        let communicator = self.communicator.expect("reductions follow after joining");
        let Means { api, queue, limits, .. } = &self.means;
        api.heartbeat.during("cuStreamWaitEvent", || queue.wait_for(&job.complete));
        let progress = api.all_reduce(communicator, job.bucket, queue.stream())?;
        if progress == Progress::InProgress {
            // Until then, it may not be in the stream yet, which nothing else may use.
            self.settle(communicator, "ncclAllReduce", limits.stall)?;
        }
        let done = Done::new(api.heartbeat.during("cuEventRecord", || queue.mark()));
        if self.outstanding.is_empty() {
            self.progress = Instant::now();
        }
        self.outstanding.push_back(Outstanding { call: job.call, done: done.clone() });
        Ok(done)
    }

    /// Looks at the outstanding work.
    fn look(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(first) = self.outstanding.front()
            && self.means.queue.has_happened(&first.done)
        {
            self.outstanding.pop_front();
            self.progress = now;
        }
        let (Some(communicator), Some(first)) = (self.communicator, self.outstanding.front())
        else {
            return Ok(());
        };
        let stall = self.means.limits.stall;
        if now.saturating_duration_since(self.progress) >= stall {
            return Err(Error::Unfinished { call: first.call, stall });
        }
        self.means.api.status(communicator, "ncclAllReduce")?;
        Ok(())
    }

    /// Waits until the call `of`, which is in progress, is done.
    fn settle(
        &self,
        communicator: Communicator,
        of: &'static str,
        within: Duration,
    ) -> Result<(), Error> {
        let began = Instant::now();
        let mut pause = POLL_FIRST;
        while self.means.api.status(communicator, of)? == Progress::InProgress {
            self.check_ring()?;
            if began.elapsed() >= within {
                return Err(Failure::Slow { call: of, within }.into());
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(POLL);
        }
        Ok(())
    }

    fn check_ring(&self) -> Result<(), Error> {
        self.means.ring.error().map_or(Ok(()), Err)
    }

    /// Ends the communicator gracefully, unless work is outstanding, which this rank then no longer waits for. All
    /// ranks have completed all sums by then, so a failure to end harms none of them.
    fn leave(&mut self) -> Result<(), Error> {
        self.look(Instant::now())?;
        if !self.outstanding.is_empty() {
            return Err(Error::Aborted);
        }
        let Some(communicator) = self.communicator else { return Ok(()) };
        let Means { api, limits, .. } = &self.means;
        let finalized = api.finalize(communicator).map_err(Error::from);
        let finalized =
            finalized.and_then(|_| self.settle(communicator, "ncclCommFinalize", limits.leave));
        let destroyed = match finalized {
            Ok(()) => api.destroy(communicator),
            Err(error) => {
                tracing::debug!(%error, "NCCL did not end gracefully");
                api.abort(communicator)
            }
        };
        if let Err(error) = destroyed {
            tracing::debug!(%error, "NCCL did not end");
        }
        Ok(())
    }

    /// Ends the ring with `error`, unless it has ended, and aborts the communicator.
    fn fail(mut self, error: Error) {
        let began = Instant::now();
        let of_nccl = matches!(error, Error::Nccl(_));
        while of_nccl && self.means.ring.error().is_none() && began.elapsed() < RING_GRACE {
            std::thread::sleep(POLL);
        }
        match self.means.ring.error() {
            Some(reason) => tracing::debug!(%error, %reason, "NCCL ends with the ring"),
            None => tracing::debug!(%error, "the ring ends with NCCL"),
        }
        self.means.ring.end(error);
        if let Some(communicator) = self.communicator.take()
            && let Err(error) = self.means.api.abort(communicator)
        {
            tracing::warn!(%error, "NCCL did not abort");
        }
        // A caller whose reduction fails may drop the bucket once its request is dropped, at the end of this.
        let Means { api, queue, .. } = &self.means;
        api.heartbeat.during("cuStreamWaitEvent", || queue.hold_computations());
    }
}
