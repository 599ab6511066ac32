//! Collectives: what the ranks of one generation do together. Sums of gradient buckets, the control
//! reduction that commits a step, broadcasts of state.
//!
//! ```text
//!  run thread   reduce(bucket) ─┐ moves      ┌─ Pending::wait() -> the sum over ranks
//!                               ▼            │ moves back
//!  communication thread       bucket ──▶ ring with the neighbours
//! ```
//!
//! Every rank makes the same calls in the same order; calls run in that order, one at a time. A result has
//! the same bits on every rank. Once a call fails, the collective is finished: every pending and later
//! call returns the error, and the owner drops it and waits for the next generation.
//!
//! Two implementations, one conformance suite: [`InProcess`] for ranks that are threads, [`Ring`] for ranks
//! that are processes. Nothing here knows operations, models or steps.

mod abort;
mod error;
mod in_process;
mod ring;

#[cfg(test)]
mod conformance;

use crate::device::{Buffer, WindowMut};
pub use abort::AbortHandle;
pub use error::{Call, Error, Kind};
pub use in_process::InProcess;
pub use ring::{Listener, Membership, Options, Refusal, Ring, SameHost};

/// One rank's end of a collective.
pub trait Collective: Send {
    /// This rank's number, from zero.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world_size(&self) -> usize;

    /// How many calls this rank has made: compared between ranks it tells who never entered call n.
    fn calls(&self) -> u64;

    /// Hands `bucket`, of f32, over to be summed; the sum over all ranks comes back through [`Pending::wait`].
    ///
    /// Returns before the sum is made. Lengths must agree on every rank.
    ///
    /// # Errors
    /// The error that finished this collective, if one has.
    fn reduce(&mut self, bucket: Buffer) -> Result<Pending, Error>;

    /// Replaces `values` with their sums over all ranks, added in rank order, after all reductions launched
    /// before. For a few values: each rank receives those of all others.
    ///
    /// # Errors
    /// The error that finishes this collective; `values` is then unchanged.
    fn control(&mut self, values: &mut [f64]) -> Result<(), Error>;

    /// Replaces `values`, of f32, with those of rank `root`, after all reductions launched before.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`], or the error that finishes this collective; `values` then holds anything.
    fn broadcast(&mut self, root: usize, values: WindowMut<'_>) -> Result<(), Error>;

    /// Returns once every rank has made this call.
    ///
    /// # Errors
    /// The error that finishes this collective.
    fn barrier(&mut self) -> Result<(), Error>;

    /// What ends this collective from another thread.
    fn abort_handle(&self) -> AbortHandle;
}

/// A bucket on its way: the promise of a sum.
#[must_use = "the bucket comes back through `wait`"]
pub struct Pending(Box<dyn FnOnce() -> Result<Buffer, Error> + Send>);

impl Pending {
    fn new(wait: impl FnOnce() -> Result<Buffer, Error> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Blocks until the sum is there; it comes in the allocation that was handed over.
    ///
    /// # Errors
    /// The error that finished the collective first.
    pub fn wait(self) -> Result<Buffer, Error> {
        (self.0)()
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}

fn check_root(root: usize, world_size: usize) -> Result<(), Error> {
    if root < world_size { Ok(()) } else { Err(Error::NoSuchRank { rank: root, world_size }) }
}
