//! The exponential back-off between the failure of a pod and its replacement.

use std::time::Duration;

use crate::clock::Time;
use crate::job::model::Pod;

/// How the delay grows: it doubles from the first to the longest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delays {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// The delays of the Job controller.
pub(crate) const JOB: Delays =
    Delays { first: Duration::from_secs(10), longest: Duration::from_secs(600) };

/// The failures of a Job since its last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) failures: u32,
    pub(crate) last_failure: Option<Time>,
}

impl Backoff {
    /// The record after pods succeeded and failed.
    pub(crate) fn after(self, succeeded: &[&Pod], failed: &[&Pod]) -> Self {
        let last_failure = failed.iter().map(|pod| pod.finished).max();
        let Some(last_success) = succeeded.iter().map(|pod| pod.finished).max() else {
            return match last_failure {
                Some(at) => {
                    Self { failures: self.failures + count(failed), last_failure: Some(at) }
                }
                None => self,
            };
        };
        let later: Vec<&Pod> =
            failed.iter().copied().filter(|pod| pod.finished > last_success).collect();
        Self { failures: count(&later), last_failure: later.iter().map(|pod| pod.finished).max() }
    }

    /// The time left until a replacement may be created.
    pub(crate) fn remaining(self, delays: Delays, now: Time) -> Duration {
        match self.last_failure {
            Some(last_failure) => delays.remaining(self.failures, last_failure, now),
            None => Duration::ZERO,
        }
    }
}

fn count(pods: &[&Pod]) -> u32 {
    u32::try_from(pods.len()).unwrap_or(u32::MAX)
}

impl Delays {
    /// The time left of the delay after `failures` failures, the last at `last_failure`.
    fn remaining(self, failures: u32, last_failure: Time, now: Time) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        let doublings = (failures - 1).min(16);
        let delay = self.first.saturating_mul(1 << doublings).min(self.longest);
        delay.saturating_sub(now.since(last_failure))
    }

    /// The time left until the pod that failed last within an index may be replaced.
    pub(crate) fn remaining_for_index(self, last_failed: Option<&Pod>, now: Time) -> Duration {
        last_failed.map_or(Duration::ZERO, |pod| {
            self.remaining(pod.absolute_failures() + 1, pod.finished, now)
        })
    }
}
