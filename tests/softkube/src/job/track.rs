//! Counting ended pods exactly once.
//!
//! ```text
//! ended pod with finalizer -> uid in status.uncountedTerminatedPods -> finalizer removed -> counter + 1, uid dropped
//! ```
//! Every arrow is a write; a controller that stops between two of them finds its place again.

use std::collections::BTreeSet;

use crate::error::ApiError;
use crate::job::failure_policy::Verdict;
use crate::job::model::{Phase, Pod};
use crate::job::state::Sync;
use crate::job::status::{Condition, Status};

/// The most uids that the status holds.
const UNCOUNTED_LIMIT: usize = 500;

/// Counts ended pods, removes their finalizers, writes the status and ends the Job when nothing is left to count.
pub(super) fn run(sync: &mut Sync<'_>, mut dirty: bool) -> Result<(), ApiError> {
    let mut with_finalizer: BTreeSet<String> =
        sync.pods.iter().filter(|pod| pod.tracked).map(|pod| pod.uid.clone()).collect();
    dirty |= count_released(&mut sync.status, &with_finalizer);
    let counted = count_ended(sync);
    dirty |= counted.dirty;
    if sync.job.indexed {
        dirty |= write_indexes(sync, &counted.succeeded_indexes);
    }
    dirty |= announce_end(sync);
    if dirty {
        sync.effects.write_status(&sync.status)?;
        sync.stored_backoff = sync.backoff;
        dirty = false;
    }
    let mut released = Ok(());
    for pod in &counted.release {
        match sync.effects.release_pod(&pod.name) {
            Err(error) if !error.is_not_found() => released = Err(error),
            Ok(()) | Err(_) => drop(with_finalizer.remove(&pod.uid)),
        }
    }
    dirty |= count_released(&mut sync.status, &with_finalizer);
    if released.is_err() {
        if dirty {
            sync.effects.write_status(&sync.status)?;
        }
        return released;
    }
    let ended = !counted.limited && end(sync);
    if dirty || ended {
        sync.effects.write_status(&sync.status)?;
    }
    if ended {
        report_end(sync);
    }
    Ok(())
}

struct Counted<'a> {
    release: Vec<&'a Pod>,
    succeeded_indexes: BTreeSet<u32>,
    dirty: bool,
    /// The status is full; the rest is counted by the next synchronization.
    limited: bool,
}

fn count_ended<'a>(sync: &mut Sync<'a>) -> Counted<'a> {
    let job = sync.job;
    let mut counted = Counted {
        release: Vec::new(),
        succeeded_indexes: BTreeSet::new(),
        dirty: false,
        limited: false,
    };
    let mut pods: Vec<&'a Pod> = sync.pods.iter().filter(|pod| pod.tracked).collect();
    if job.indexed {
        pods.sort_by_key(|pod| pod.index);
    }
    for pod in pods {
        let failed = pod.is_failed(job);
        if !may_release(sync, pod, failed) {
            continue;
        }
        counted.release.push(pod);
        let known_failed = job.status.uncounted_failed.contains(&pod.uid);
        let job_fails =
            sync.finished.as_ref().is_some_and(|condition| !condition.is("SuccessCriteriaMet"));
        let index_is_valid = !job.indexed || pod.valid_index(job).is_some();
        if pod.phase == Phase::Succeeded && !known_failed {
            if job.indexed {
                let new =
                    pod.valid_index(job).filter(|index| !sync.previous_indexes.contains(*index));
                counted.dirty |= new.is_some();
                counted.succeeded_indexes.extend(new);
            } else if !job.status.uncounted_succeeded.contains(&pod.uid) {
                sync.status.uncounted_succeeded.push(pod.uid.clone());
                counted.dirty = true;
            }
        } else if (failed || job_fails)
            && !known_failed
            && index_is_valid
            && sync.verdict(pod) != Verdict::Ignore
        {
            sync.status.uncounted_failed.push(pod.uid.clone());
            counted.dirty = true;
        }
        let uncounted = sync.status.uncounted_succeeded.len() + sync.status.uncounted_failed.len();
        if counted.succeeded_indexes.len() + uncounted >= UNCOUNTED_LIMIT {
            counted.limited = true;
            break;
        }
    }
    counted
}

/// Whether the finalizer of a pod may be removed: it ended, or the Job did, and no replacement waits for its counts.
fn may_release(sync: &Sync<'_>, pod: &Pod, failed: bool) -> bool {
    if sync.job.deleting || sync.finished.is_some() || pod.phase == Phase::Succeeded {
        return true;
    }
    let awaits_replacement = pod
        .index
        .and_then(|index| sync.delayed.get(&index))
        .is_some_and(|delayed| delayed.uid == pod.uid);
    failed && !awaits_replacement
}

/// Moves uids whose pods have lost their finalizer into the counters.
fn count_released(status: &mut Status, with_finalizer: &BTreeSet<String>) -> bool {
    let mut changed = false;
    for (uids, counter) in [
        (&mut status.uncounted_succeeded, &mut status.succeeded),
        (&mut status.uncounted_failed, &mut status.failed),
    ] {
        let before = uids.len();
        uids.retain(|uid| with_finalizer.contains(uid));
        *counter += u32::try_from(before - uids.len()).unwrap_or(u32::MAX);
        changed |= before != uids.len();
    }
    changed
}

fn write_indexes(sync: &mut Sync<'_>, new: &BTreeSet<u32>) -> bool {
    let succeeded = sync.succeeded_indexes.with(new);
    let completed = succeeded.to_string();
    let failed = sync.failed_indexes.as_ref().map(ToString::to_string);
    let changed =
        completed != sync.status.completed_indexes || failed != sync.status.failed_indexes;
    sync.status.succeeded = succeeded.len();
    sync.status.completed_indexes = completed;
    sync.status.failed_indexes = failed;
    sync.succeeded_indexes = succeeded;
    changed
}

/// Adds the interim condition of a decided end and prepares the final one.
fn announce_end(sync: &mut Sync<'_>) -> bool {
    let Some(interim) = sync.finished.clone() else { return false };
    let last = match interim.kind.as_str() {
        "FailureTarget" => "Failed",
        "SuccessCriteriaMet" => "Complete",
        _ => return false,
    };
    sync.finished = Some(Condition::new(last, &interim.reason, &interim.message, sync.now));
    let new = !sync.status.is(&interim.kind);
    if new {
        sync.status.conditions.push(interim);
    }
    new
}

/// Adds the final condition once no pod is uncounted or terminating.
fn end(sync: &mut Sync<'_>) -> bool {
    let uncounted =
        !sync.status.uncounted_succeeded.is_empty() || !sync.status.uncounted_failed.is_empty();
    let Some(condition) = sync.finished.clone().filter(|_| !uncounted && sync.terminating == 0)
    else {
        return false;
    };
    if condition.kind == "Complete" {
        sync.status.completion_time = Some(condition.since);
    }
    sync.status.ensure(condition);
    true
}

fn report_end(sync: &mut Sync<'_>) {
    let Some(condition) = sync.finished.clone() else { return };
    if condition.kind == "Failed" {
        sync.effects.event("Warning", &condition.reason, &condition.message);
        return;
    }
    if sync.job.completions.is_some_and(|completions| sync.status.succeeded > completions) {
        let message = "Too many succeeded pods running after completion count reached";
        sync.effects.event("Warning", "TooManySucceededPods", message);
    }
    sync.effects.event("Normal", "Completed", "Job completed");
}
