//! Collective operations among the ranks of one generation: all-reduce of gradient buckets, the control reduction
//! that commits a step, and broadcast of state.
//!
//! ```text
//!  training thread  reduce(bucket) ─┐ moves      ┌─ Pending::wait() -> the sum over ranks
//!                                   ▼            │ moves back
//!  communication thread           bucket ──▶ ring with the neighbours
//! ```
//!
//! Every rank makes the same calls in the same order; calls run in that order, one at a time. A result has the same
//! bits on every rank. Once a call fails, the collective is finished: every pending and later call returns the error,
//! and the owner drops the collective and waits for the next generation.
//!
//! Three implementations pass one conformance suite: [`InProcess`] for ranks that are threads, [`Ring`] for ranks that
//! are processes, and [`Paired`] for processes with GPUs, where NCCL sums the buckets and a ring does the rest.
//! [`Alone`] stands in for a world of which only one rank exists. This module knows nothing about operations, models
//! or steps.

mod abort;
mod alone;
mod error;
mod in_process;
mod nccl;
mod paired;
mod ring;
mod signal;
mod sum;

#[cfg(test)]
mod conformance;

use crate::device::{Buffer, WindowMut};
pub use abort::AbortHandle;
pub use alone::Alone;
pub use error::{Call, Error, Kind};
pub use in_process::InProcess;
pub use nccl::{NcclError, prepare_nccl};
pub use paired::Paired;
pub use ring::{Listener, Membership, Options, Refusal, Ring, SameHost};

/// One rank's end of a collective.
pub trait Collective: Send {
    /// This rank's number, from zero.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world_size(&self) -> usize;

    /// How many calls this rank has made. Comparing this number between ranks shows which rank never entered a call.
    fn calls(&self) -> u64;

    /// Starts an all-reduce (sum) of `bucket`, which holds f32 or bf16; the sum comes back through [`Pending::wait`].
    ///
    /// Returns without waiting for the sum. Length and type must be the same on every rank. Sums of bf16 are rounded to
    /// bf16 with every addition.
    ///
    /// # Errors
    /// The error that finished this collective, if one has.
    fn reduce(&mut self, bucket: Buffer) -> Result<Pending, Error>;

    /// Replaces `values` with their sums over all ranks, added in rank order, after all reductions that were started
    /// earlier. Meant for a few values, since each rank receives those of all others.
    ///
    /// # Errors
    /// The error that finishes this collective; `values` is then unchanged.
    fn control(&mut self, values: &mut [f64]) -> Result<(), Error>;

    /// Replaces `values`, which are f32, with those of rank `root`, after all reductions that were started earlier.
    ///
    /// # Errors
    /// [`Error::NoSuchRank`], or the error that finishes this collective; the contents of `values` are then
    /// undefined.
    fn broadcast(&mut self, root: usize, values: WindowMut<'_>) -> Result<(), Error>;

    /// Returns once every rank has made this call.
    ///
    /// # Errors
    /// The error that finishes this collective.
    fn barrier(&mut self) -> Result<(), Error>;

    /// A handle that ends this collective from another thread.
    fn abort_handle(&self) -> AbortHandle;
}

/// A started all-reduce, from which the summed bucket can be awaited.
#[must_use = "the bucket comes back through `wait`"]
pub struct Pending(Box<dyn FnOnce() -> Result<Buffer, Error> + Send>);

impl Pending {
    fn new(wait: impl FnOnce() -> Result<Buffer, Error> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Blocks until the sum is complete; it is returned in the allocation that was handed over. A sum in the memory of
    /// a GPU is complete for all work that is launched from then on.
    ///
    /// # Errors
    /// The first error that finished the collective.
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
