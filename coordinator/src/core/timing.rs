//! How long things may take.

use proto::protocol::Duty;
use std::time::Duration;

/// Beats, leases, graces and holds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often a worker beats that has something to do.
    pub beat: Duration,
    /// How often a worker with nothing to do beats: at least twice within its lease.
    pub idle_beat: Duration,
    /// A worker that has been silent for so long is dead.
    pub lease: Duration,
    /// How long a worker whose connection closed has to be back on another.
    pub hangup_grace: Duration,
    /// Once enough workers are there, how long others may still join.
    pub last_call: Duration,
    /// After a restart, how long the members of a generation have to come back.
    pub reattach_grace: Duration,
    /// Memberships that may end without a new step before the run fails.
    pub fruitless_generations: u32,
    /// How long a run that has never trained keeps workers that are too few for it, while another could use them.
    pub start_hold: Duration,
    /// The same of a run that has lost some of its workers: they are often back before another run would be done.
    pub regroup_hold: Duration,
}

impl Timing {
    /// How often a worker with this duty beats.
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
