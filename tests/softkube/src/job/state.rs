//! The state of one synchronization, which its steps share.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Time;
use crate::indexes::Indexes;
use crate::job::backoff::Backoff;
use crate::job::effects::Effects;
use crate::job::failure_policy::{self, Verdict};
use crate::job::model::{Job, Pod};
use crate::job::status::{Condition, Status};

/// The state of a synchronization.
pub(super) struct Sync<'a> {
    pub(super) job: &'a Job,
    pub(super) pods: &'a [Pod],
    pub(super) now: Time,
    pub(super) effects: &'a mut dyn Effects,
    pub(super) status: Status,
    pub(super) active: Vec<&'a Pod>,
    pub(super) succeeded: u32,
    pub(super) previous_indexes: Indexes,
    pub(super) succeeded_indexes: Indexes,
    pub(super) failed_indexes: Option<Indexes>,
    pub(super) delayed: BTreeMap<u32, &'a Pod>,
    /// The condition that ends the Job, once it is decided.
    pub(super) finished: Option<Condition>,
    pub(super) terminating: u32,
    pub(super) ready: u32,
    pub(super) backoff: Backoff,
    pub(super) stored_backoff: Backoff,
    pub(super) again_after: Option<Duration>,
}

impl Sync<'_> {
    pub(super) fn verdict(&self, pod: &Pod) -> Verdict {
        failure_policy::judge(&self.job.pod_failure_policy, &pod.object)
    }

    /// Asks for another synchronization after a delay, or earlier.
    pub(super) fn again_in(&mut self, delay: Duration) {
        self.again_after = Some(self.again_after.map_or(delay, |earlier| earlier.min(delay)));
    }
}
