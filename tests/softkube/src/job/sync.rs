//! One synchronization of a Job.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Time;
use crate::error::ApiError;
use crate::indexes::Indexes;
use crate::job::backoff::Backoff;
use crate::job::effects::Effects;
use crate::job::failure_policy::Verdict;
use crate::job::model::{Job, Phase, Pod};
use crate::job::state::Sync;
use crate::job::status::Condition;
use crate::job::{manage, per_index, success_policy, track};

/// What a synchronization works on, besides the Job and its pods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    pub(crate) now: Time,
    pub(crate) backoff: Backoff,
    /// Whether the pods are known to show all earlier creations and deletions of the controller.
    pub(crate) expectations_met: bool,
}

/// What a synchronization leaves behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) backoff: Backoff,
    /// When to synchronize again even if nothing changes.
    pub(crate) again_after: Option<Duration>,
    pub(crate) result: Result<(), ApiError>,
}

fn count(pods: usize) -> u32 {
    u32::try_from(pods).unwrap_or(u32::MAX)
}

/// Brings a Job that is not finished nearer to its goal.
pub(crate) fn sync(job: &Job, pods: &[Pod], input: Input, effects: &mut dyn Effects) -> Outcome {
    let active: Vec<&Pod> = pods.iter().filter(|pod| pod.is_active()).collect();
    let mut sync = Sync {
        job,
        pods,
        now: input.now,
        effects,
        status: job.status.clone(),
        succeeded: 0,
        previous_indexes: Indexes::default(),
        succeeded_indexes: Indexes::default(),
        failed_indexes: None,
        delayed: BTreeMap::new(),
        finished: None,
        terminating: count(pods.iter().filter(|pod| pod.is_terminating()).count()),
        ready: count(active.iter().filter(|pod| pod.ready).count()),
        backoff: input.backoff,
        stored_backoff: input.backoff,
        again_after: None,
        active,
    };
    let result = sync.run(input);
    Outcome { backoff: sync.stored_backoff, again_after: sync.again_after, result }
}

impl<'a> Sync<'a> {
    fn run(&mut self, input: Input) -> Result<(), ApiError> {
        let job = self.job;
        let new_succeeded =
            self.uncounted(&job.status.uncounted_succeeded, |pod| pod.phase == Phase::Succeeded);
        let new_failed = self.uncounted(&job.status.uncounted_failed, |pod| pod.is_failed(job));
        let counted_failed =
            new_failed.iter().filter(|pod| self.verdict(pod) != Verdict::Ignore).count();
        self.succeeded = job.status.succeeded
            + count(new_succeeded.len())
            + count(job.status.uncounted_succeeded.len());
        let failed =
            job.status.failed + count(counted_failed) + count(job.status.uncounted_failed.len());
        if self.status.start_time.is_none() && !job.suspended {
            self.status.start_time = Some(self.now);
        }
        self.backoff = input.backoff.after(&new_succeeded, &new_failed);
        self.decide_end(failed);
        if job.indexed {
            self.count_indexes();
        }
        let mut active = count(self.active.len());
        let mut suspension_changed = false;
        let mut managed = Ok(());
        if self.finished.is_some() {
            let (deleted, result) = self.delete_active();
            if deleted != active || !input.expectations_met {
                // Some pods may not be known yet, so the Job cannot be declared finished.
                self.finished = None;
            }
            active -= deleted;
            self.terminating += deleted;
            managed = result;
        } else {
            let manages = input.expectations_met && !job.deleting;
            if manages {
                (active, managed) = manage::run(self);
            }
            if self.is_complete(active) {
                self.finished = Some(Condition::new(
                    "SuccessCriteriaMet",
                    "CompletionsReached",
                    COMPLETED,
                    self.now,
                ));
            } else if manages {
                suspension_changed = self.note_suspension();
            }
        }
        let counts_changed = active != self.status.active
            || self.status.ready != Some(self.ready)
            || self.status.terminating != Some(self.terminating);
        self.status.active = active;
        self.status.ready = Some(self.ready);
        self.status.terminating = Some(self.terminating);
        track::run(self, suspension_changed || counts_changed)?;
        managed
    }

    /// Pods for which the test holds and which the status does not count yet.
    fn uncounted(&self, uncounted: &[String], holds: impl Fn(&Pod) -> bool) -> Vec<&'a Pod> {
        let valid = |pod: &&Pod| {
            pod.tracked
                && !uncounted.contains(&pod.uid)
                && (!self.job.indexed || pod.valid_index(self.job).is_some())
                && holds(pod)
        };
        self.pods.iter().filter(valid).collect()
    }

    /// Decides whether the Job has ended by an earlier decision, a policy, its failures or its deadline.
    fn decide_end(&mut self, failed: u32) {
        let job = self.job;
        let decided = |kind: &str| {
            self.status.conditions.iter().find(|condition| condition.is(kind)).cloned()
        };
        if let Some(condition) = decided("SuccessCriteriaMet") {
            self.finished = Some(condition);
        } else if let Some(target) = decided("FailureTarget") {
            self.finished =
                Some(Condition::new("Failed", &target.reason, &target.message, self.now));
        } else if let Some(message) = self.failing_pod() {
            self.finished =
                Some(Condition::new("FailureTarget", "PodFailurePolicy", &message, self.now));
        } else if failed > job.backoff_limit || self.restarted_too_often() {
            self.fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        } else if let (Some(deadline), Some(started), false) =
            (job.active_deadline, self.status.start_time, job.suspended)
        {
            let elapsed = self.now.since(started);
            if elapsed >= deadline {
                self.fail("DeadlineExceeded", "Job was active longer than specified deadline");
            } else {
                self.again_in(deadline.saturating_sub(elapsed));
            }
        }
    }

    fn failing_pod(&self) -> Option<String> {
        self.pods.iter().filter(|pod| pod.is_failed(self.job)).find_map(|pod| {
            match self.verdict(pod) {
                Verdict::FailJob(message) => Some(message),
                Verdict::Count | Verdict::Ignore | Verdict::FailIndex => None,
            }
        })
    }

    /// Whether the restarts of containers reach the limit of a Job with `restartPolicy: OnFailure`.
    fn restarted_too_often(&self) -> bool {
        let running =
            self.pods.iter().filter(|pod| matches!(pod.phase, Phase::Running | Phase::Pending));
        let restarts: u32 = running.map(|pod| pod.restarts).sum();
        self.job.restarts_on_failure && restarts > 0 && restarts >= self.job.backoff_limit
    }

    fn fail(&mut self, reason: &str, message: &str) {
        self.finished = Some(Condition::new("FailureTarget", reason, message, self.now));
    }

    fn count_indexes(&mut self) {
        let job = self.job;
        (self.previous_indexes, self.succeeded_indexes) = per_index::succeeded(job, self.pods);
        self.succeeded = self.succeeded_indexes.len();
        if let Some(limit) = job.backoff_limit_per_index {
            let failed = per_index::failed(job, self.pods, limit);
            let (failures, done) = (failed.len(), failed.len() + self.succeeded_indexes.len());
            if self.finished.is_none() {
                if job.max_failed_indexes.is_some_and(|max| failures > max) {
                    let message = "Job has exceeded the specified maximal number of failed indexes";
                    self.fail("MaxFailedIndexesExceeded", message);
                } else if failures > 0 && done >= job.index_count() {
                    self.fail("FailedIndexes", "Job has failed indexes");
                }
            }
            let active: BTreeSet<u32> = per_index::of(self.active.iter().copied());
            let all: Vec<&Pod> = self.pods.iter().collect();
            self.delayed =
                per_index::delayed(job, &all, &[&self.succeeded_indexes, &failed], &active);
            self.failed_indexes = Some(failed);
        }
        if self.finished.is_none() {
            let met = success_policy::judge(
                &job.success_policy,
                job.index_count(),
                &self.succeeded_indexes,
            );
            if let Some(message) = met {
                self.finished =
                    Some(Condition::new("SuccessCriteriaMet", "SuccessPolicy", &message, self.now));
            }
        }
    }

    fn delete_active(&mut self) -> (u32, Result<(), ApiError>) {
        let mut deleted = 0;
        let mut result = Ok(());
        for pod in self.active.clone() {
            match self.effects.delete_pod(&pod.name) {
                Err(error) if !error.is_not_found() => result = Err(error),
                Ok(()) | Err(_) => deleted += 1,
            }
            if pod.ready {
                self.ready = self.ready.saturating_sub(1);
            }
        }
        (deleted, result)
    }

    fn is_complete(&self, active: u32) -> bool {
        let enough = match self.job.completions {
            Some(completions) => self.succeeded >= completions,
            None => self.succeeded > 0,
        };
        enough && active == 0
    }

    /// Records that the Job is suspended or resumed, and returns whether that is new.
    fn note_suspension(&mut self) -> bool {
        let (status, reason, message, event) = if self.job.suspended {
            ("True", "JobSuspended", "Job suspended", "Suspended")
        } else {
            ("False", "JobResumed", "Job resumed", "Resumed")
        };
        let condition = Condition {
            status: status.to_owned(),
            ..Condition::new("Suspended", reason, message, self.now)
        };
        let changed = self.status.ensure(condition);
        if changed {
            self.effects.event("Normal", event, message);
            if !self.job.suspended {
                // The active deadline counts from the resumption.
                self.status.start_time = Some(self.now);
            }
        }
        changed
    }
}

const COMPLETED: &str = "Reached expected number of succeeded pods";
