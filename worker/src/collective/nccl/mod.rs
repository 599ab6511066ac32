//! Sums of gradient buckets in the memory of GPUs, by NCCL.
//!
//! ```text
//!  training thread ── bucket, complete ──▶ owner.rs ──▶ communicator.rs ──▶ NCCL
//!                  ◀──────── done ────────    │  ▲            │ announces its calls
//!                                    queue.rs ▼  │ ring.end   ▼
//!                                    CUDA events │ on_end   watchdog.rs ──▶ exit code 70
//!
//!  agreement.rs     all ranks have one version, and learn the id     error.rs   why NCCL fails
//!  environment.rs   NCCL's settings and messages
//! ```
//!
//! NCCL does not notice by itself that another rank is gone, and then its sum never ends. The ring notices. Whichever
//! of the two ends first ends the other.

#![allow(unsafe_code)] // Calls C functions.

mod agreement;
mod communicator;
mod environment;
pub(super) mod error;
mod owner;
mod queue;
mod watchdog;

#[cfg(test)]
mod tests;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ring::{Lifeline, Ring};
use super::{Call, Collective, Error};
use crate::device::cuda::library::Version;
use crate::device::cuda::library::nccl::Functions;
use communicator::Api;
pub(super) use communicator::Window;
pub use environment::prepare as prepare_nccl;
pub use error::Error as NcclError;
use owner::{Done, Job, Limits, Means, Message, Owner};
use queue::Queue;
use watchdog::{Heartbeat, Watchdog};

/// How long one call of NCCL or CUDA may take. None of them waits for other ranks.
const CALL_BUDGET: Duration = Duration::from_secs(60);

/// Maximum number of requests that the owner has not looked at; another one waits.
const MAX_REQUESTS: usize = 1024;

/// How long joining a communicator may take; less than NCCL's own limits.
const JOIN_WITHIN: Duration = Duration::from_secs(120);

/// How long finalizing a communicator without work may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// A rank's end of a communicator, whose owner is another thread.
pub(super) struct Nccl<Q: Queue> {
    messages: SyncSender<Message<Q::Event>>,
    ring: Lifeline,
    owner: Option<JoinHandle<()>>,
    _watchdog: Watchdog,
}

/// A started reduction.
pub(super) struct Started<E> {
    done: Receiver<Done<E>>,
    ring: Lifeline,
}

impl<E> Started<E> {
    /// Blocks until the reduction is in the stream, which does not wait for other ranks; returns the event after which
    /// the bucket holds the sum.
    ///
    /// # Errors
    /// The error that ended the ring. The stream has then let go of the bucket.
    pub(super) fn done(&self) -> Result<Done<E>, Error> {
        self.done.recv().map_err(|_| reason(&self.ring))
    }
}

impl<Q: Queue> Nccl<Q> {
    /// Joins the ranks of `ring` in a communicator; all of them call this.
    ///
    /// # Errors
    /// [`NcclError::Versions`], or the error that ends the ring.
    pub(super) fn join(
        ring: &mut Ring,
        functions: Functions,
        version: Version,
        queue: Q,
    ) -> Result<Self, Error> {
        let limits = Limits { join: JOIN_WITHIN, leave: LEAVE_WITHIN, stall: ring.stall() };
        let nccl = Self::start(ring, functions, queue, limits)?;
        let id = if ring.rank() == 0 { Some(nccl.ask(Message::Draw)?) } else { None };
        let id = agreement::agree(ring, version, id.as_ref())?;
        nccl.ask(|joined| Message::Join(id, joined))?;
        Ok(nccl)
    }

    fn start(ring: &Ring, functions: Functions, queue: Q, limits: Limits) -> Result<Self, Error> {
        let heartbeat = Heartbeat::default();
        let watchdog = Watchdog::start(heartbeat.clone(), CALL_BUDGET, watchdog::end_process)
            .map_err(Error::host("start the watchdog's thread"))?;
        let (messages, inbox) = sync_channel(MAX_REQUESTS);
        let lifeline = ring.lifeline();
        let means = Means {
            api: Api { functions, heartbeat },
            queue,
            rank: ring.rank(),
            world_size: ring.world_size(),
            ring: lifeline.clone(),
            limits,
        };
        let owner = std::thread::Builder::new()
            .name(format!("nccl-{}", ring.rank()))
            .spawn(move || Owner::new(means).serve(&inbox))
            .map_err(Error::host("start NCCL's thread"))?;
        lifeline.on_end({
            let messages = messages.clone();
            // If it has other requests, it looks by itself; if it is gone, it has failed.
            move || drop(messages.try_send(Message::Look))
        });
        Ok(Self { messages, ring: lifeline, owner: Some(owner), _watchdog: watchdog })
    }

    /// Starts the reduction `call` of a bucket, which is complete once `complete` has happened. The bucket stays where
    /// it is until [`Started::done`] has returned.
    pub(super) fn reduce(
        &self,
        call: Call,
        bucket: Window,
        complete: Q::Event,
    ) -> Started<Q::Event> {
        let (answer, done) = sync_channel(1);
        // If the owner is gone, so is the answer.
        let _ = self.messages.send(Message::Reduce(Job { call, bucket, complete, answer }));
        Started { done, ring: self.ring.clone() }
    }

    /// Sends a request, and waits for the answer.
    fn ask<T>(&self, request: impl FnOnce(SyncSender<T>) -> Message<Q::Event>) -> Result<T, Error> {
        let (to, answer) = sync_channel(1);
        let _ = self.messages.send(request(to));
        answer.recv().map_err(|_| reason(&self.ring))
    }
}

/// Why the owner is gone: it ends the ring before it ends itself.
fn reason(ring: &Lifeline) -> Error {
    ring.error().unwrap_or(Error::Aborted)
}

impl<Q: Queue> Drop for Nccl<Q> {
    /// Leaves gracefully if no reduction is outstanding, and otherwise aborts.
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Leave);
        if let Some(owner) = self.owner.take() {
            // It panics only on a broken invariant, and the panic has then already been reported.
            let _ = owner.join();
        }
    }
}
