//! The interface between a training thread and the agent of its process.

use crate::collective::{AbortHandle, Collective};
use crate::replica::{Room, Snapshot};
use proto::protocol::{Phase, SourceSum, StepDone};
use proto::receipt::Skipped;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// A report from the training thread.
pub enum ThreadReport {
    /// A step was committed.
    Stepped(StepDone),
    /// A step that changed nothing, with the samples of all ranks in it.
    Skipped(Skipped),
    /// This rank's share of the held-out loss, after this number of steps.
    Evaluated(u64, Vec<SourceSum>),
    /// This rank's part of a checkpoint, ready to be stored.
    Snapshot(Snapshot),
}

/// Instructions to the training thread, and its progress as visible from outside.
#[derive(Clone)]
pub struct Controls {
    /// Ends the thread at once.
    pub abort: AbortHandle,
    /// Set to stop the thread after the current step.
    pub stop: Arc<AtomicBool>,
    /// Holds a snapshot until it is stored.
    pub room: Room,
    /// The thread's progress.
    pub gauges: Arc<Gauges>,
}

/// The progress of a training thread: written by the thread, read for heartbeats.
#[derive(Default)]
pub struct Gauges(Mutex<Gauge>);

/// One reading of the [`Gauges`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Steps committed.
    pub step: u64,
    /// What the thread is doing.
    pub phase: Phase,
    /// Number of its current or last collective call.
    pub collective: u64,
}

impl Gauges {
    /// The current reading.
    pub fn read(&self) -> Gauge {
        *self.0.lock().expect("held only to copy")
    }

    pub(crate) fn at(&self, step: u64, phase: Phase, collective: &dyn Collective) {
        let collective = collective.calls();
        *self.0.lock().expect("held only to copy") = Gauge { step, phase, collective };
    }
}
