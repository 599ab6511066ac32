//! Durations that the core's decisions depend on.

use proto::protocol::Duty;
use std::time::Duration;

/// Beats, leases, graces and holds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Interval between beats of a worker with a duty.
    pub beat: Duration,
    /// Interval between beats of an idle worker: at most half of its lease.
    pub idle_beat: Duration,
    /// A worker that has been silent for this long is lost.
    pub lease: Duration,
    /// Time for a worker whose connection closed to reconnect.
    pub hangup_grace: Duration,
    /// Time for more workers to become ready once enough are.
    pub last_call: Duration,
    /// Time for the members of a generation to reconnect after a restart of the coordinator.
    pub reattach_grace: Duration,
    /// Number of consecutive generations that may end without a new step before the run fails.
    pub fruitless_generations: u32,
    /// Time for which a run that has never trained keeps too few workers while another run could use them.
    pub start_hold: Duration,
    /// The same for a run that has trained. Its lost workers are often back before another run would be done.
    pub regroup_hold: Duration,
}

impl Timing {
    /// The interval between beats of a worker with this duty.
    pub(super) fn beat_with(&self, duty: &Duty) -> Duration {
        if *duty == Duty::Idle { self.idle_beat } else { self.beat }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            beat: Duration::from_millis(500),
            idle_beat: Duration::from_secs(2),
            lease: Duration::from_secs(5),
            hangup_grace: Duration::from_millis(1500),
            last_call: Duration::from_secs(1),
            reattach_grace: Duration::from_secs(15),
            fruitless_generations: 5,
            start_hold: Duration::from_secs(10),
            regroup_hold: Duration::from_secs(600),
        }
    }
}
