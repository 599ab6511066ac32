//! What passes between a training thread and the agent of its process.

use crate::collective::{AbortHandle, Collective};
use crate::replica::{Room, Snapshot};
use proto::protocol::{Phase, SourceSum, StepDone};
use proto::receipt::Skipped;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// What the training thread says.
pub enum Said {
    /// A step was committed.
    Stepped(StepDone),
    /// A committed step changed nothing: its samples, of all ranks.
    Skipped(Skipped),
    /// This rank's share of the held-out set, after so many steps.
    Evaluated(u64, Vec<SourceSum>),
    /// This rank's part of a checkpoint, to be stored.
    Snapshot(Snapshot),
}

/// What the training thread is told, and what can be seen of it from outside.
#[derive(Clone)]
pub struct Controls {
    /// Ends it now.
    pub abort: AbortHandle,
    /// Lets it stop after the current step.
    pub stop: Arc<AtomicBool>,
    /// Where a snapshot waits to be stored.
    pub room: Room,
    /// Where it is.
    pub gauges: Arc<Gauges>,
}

/// Where a training thread is: written by it, read by the beats.
#[derive(Default)]
pub struct Gauges(Mutex<Gauge>);

/// One reading of the [`Gauges`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Steps committed.
    pub step: u64,
    /// What the thread is at.
    pub phase: Phase,
    /// Number of its present or last collective.
    pub collective: u64,
}

impl Gauges {
    /// What they show now.
    pub fn read(&self) -> Gauge {
        *self.0.lock().expect("held only to copy")
    }

    pub(crate) fn at(&self, step: u64, phase: Phase, collective: &dyn Collective) {
        let collective = collective.calls();
        *self.0.lock().expect("held only to copy") = Gauge { step, phase, collective };
    }
}
