//! A world of one rank, and the stand-in for a larger one in which the others have nothing to add.

use super::{AbortHandle, Collective, Error, Pending, check_root};
use crate::device::{Buffer, WindowMut};

/// The collective of a rank without partners: what it hands over comes back unchanged.
pub struct Alone {
    world_size: usize,
    calls: u64,
    abort: AbortHandle,
}

impl Alone {
    /// Rank 0 of `world_size` ranks, which the others never join.
    pub fn of(world_size: usize) -> Self {
        Self { world_size, calls: 0, abort: AbortHandle::new() }
    }
}

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn reduce(&mut self, bucket: Buffer) -> Result<Pending, Error> {
        self.calls += 1;
        Ok(Pending::new(|| Ok(bucket)))
    }

    fn control(&mut self, _: &mut [f64]) -> Result<(), Error> {
        self.calls += 1;
        Ok(())
    }

    fn broadcast(&mut self, root: usize, _: WindowMut<'_>) -> Result<(), Error> {
        check_root(root, self.world_size)?;
        self.calls += 1;
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), Error> {
        self.calls += 1;
        Ok(())
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }
}
