//! Moments in the work of a device, to measure how long work takes.

use super::Device;
use super::cuda::Stamp;
use std::time::{Duration, Instant};

/// The end of the work that a device had at some time.
#[derive(Debug)]
pub enum Moment {
    /// Host memory and rehearsals: work is done when its call returns.
    Host(Instant),
    /// A GPU's compute stream.
    Cuda(Stamp),
}

impl Device {
    /// The end of the work that was launched so far.
    pub fn moment(&self) -> Moment {
        match self {
            Self::Host | Self::Rehearsal(_) => Moment::Host(Instant::now()),
            Self::Cuda(gpu) => Moment::Cuda(gpu.stamp()),
        }
    }
}

impl Moment {
    /// The time from `earlier` until this moment, for which this waits. After an error of the device it is zero.
    ///
    /// # Panics
    /// If `earlier` is a moment of a device of another kind.
    pub fn since(&self, earlier: &Self) -> Duration {
        match (self, earlier) {
            (Self::Host(end), Self::Host(start)) => end.saturating_duration_since(*start),
            (Self::Cuda(end), Self::Cuda(start)) => end.since(start),
            _ => panic!("moments of different devices"),
        }
    }
}
