//! Creating and deleting pods until as many are active as the Job wants.

use std::time::Duration;

use crate::error::ApiError;
use crate::job::model::Pod;
use crate::job::state::Sync;
use crate::job::template::{self, Place};
use crate::job::{backoff, per_index, removal};

/// The most pods that one synchronization creates or deletes.
const PODS_PER_SYNC: usize = 500;

/// Creates or deletes pods, never both, and returns how many are active afterwards.
pub(super) fn run(sync: &mut Sync<'_>) -> (u32, Result<(), ApiError>) {
    let job = sync.job;
    let active = sync.active.len();
    if job.suspended {
        let removed = removal::choose(job, &sync.active, active);
        return delete(sync, &removed);
    }
    let wanted = wanted_active(sync);
    let mut removed = removal::choose(job, &sync.active, active.saturating_sub(wanted));
    removed.truncate(PODS_PER_SYNC);
    if !removed.is_empty() {
        return delete(sync, &removed);
    }
    let terminating = if job.replaces_failed_only { sync.terminating as usize } else { 0 };
    let missing = wanted.saturating_sub(terminating + active);
    if missing == 0 {
        return (count(active), Ok(()));
    }
    create(sync, missing.min(PODS_PER_SYNC))
}

fn count(pods: usize) -> u32 {
    u32::try_from(pods).unwrap_or(u32::MAX)
}

fn wanted_active(sync: &Sync<'_>) -> usize {
    let parallelism = sync.job.parallelism as usize;
    match sync.job.completions {
        // Once a pod of a work queue succeeded, the others may finish but are not replaced.
        None if sync.succeeded > 0 => sync.active.len(),
        None => parallelism,
        Some(completions) => (completions.saturating_sub(sync.succeeded) as usize).min(parallelism),
    }
}

fn delete(sync: &mut Sync<'_>, pods: &[&Pod]) -> (u32, Result<(), ApiError>) {
    let mut removed = 0;
    let mut result = Ok(());
    for pod in pods {
        let released = if pod.tracked { sync.effects.release_pod(&pod.name) } else { Ok(()) };
        let deleted = match released {
            Ok(()) => {
                if pod.ready {
                    sync.ready = sync.ready.saturating_sub(1);
                }
                sync.effects.delete_pod(&pod.name)
            }
            Err(error) => Err(error),
        };
        match deleted {
            Err(error) if !error.is_not_found() => result = Err(error),
            Ok(()) | Err(_) => removed += 1,
        }
    }
    sync.terminating += removed;
    (count(sync.active.len()) - removed, result)
}

fn create(sync: &mut Sync<'_>, missing: usize) -> (u32, Result<(), ApiError>) {
    let job = sync.job;
    let mut places: Vec<Option<Place>> = vec![None; missing];
    let mut delay = Duration::ZERO;
    if job.backoff_limit_per_index.is_none() {
        delay = sync.backoff.remaining(backoff::JOB, sync.now);
    }
    if job.indexed {
        let (indexes, index_delay) = creatable_indexes(sync, missing);
        delay = delay.max(index_delay);
        places = indexes.into_iter().map(|index| Some(place(sync, index))).collect();
    }
    if !delay.is_zero() {
        sync.again_in(delay);
        return (0, Ok(()));
    }
    let mut active = count(sync.active.len());
    let mut result = Ok(());
    // Batches double while they succeed, so that a quota does not meet hundreds of attempts.
    let (mut rest, mut batch) = (places.as_slice(), 1);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(batch.min(rest.len()));
        for place in now {
            match sync.effects.create_pod(template::pod(job, *place)) {
                Ok(()) => active += 1,
                // All later creations would fail too, and there is nothing to retry.
                Err(error) if error.has_cause("NamespaceTerminating") => active += 1,
                Err(error) => result = Err(error),
            }
        }
        if result.is_err() {
            break;
        }
        (rest, batch) = (later, batch * 2);
    }
    (active, result)
}

/// The indexes whose pods may be created now, or the time until the first may.
fn creatable_indexes(sync: &Sync<'_>, missing: usize) -> (Vec<u32>, Duration) {
    let job = sync.job;
    let pending = first_pending(sync, missing);
    if job.backoff_limit_per_index.is_none() {
        return (pending, Duration::ZERO);
    }
    let remaining =
        |index: &u32| backoff::JOB.remaining_for_index(sync.delayed.get(index).copied(), sync.now);
    let ready: Vec<u32> =
        pending.iter().copied().filter(|index| remaining(index).is_zero()).collect();
    let delay = if ready.is_empty() {
        pending.iter().map(remaining).min().unwrap_or_default()
    } else {
        Duration::ZERO
    };
    (ready, delay)
}

/// The first indexes without an active pod that neither succeeded nor failed.
fn first_pending(sync: &Sync<'_>, missing: usize) -> Vec<u32> {
    let mut settled = sync.succeeded_indexes.with(&per_index::of(sync.active.iter().copied()));
    if sync.job.replaces_failed_only {
        settled = settled.with(&per_index::of(sync.pods.iter().filter(|pod| pod.is_terminating())));
    }
    if let Some(failed) = &sync.failed_indexes {
        settled = settled.union(failed);
    }
    settled.first_missing(missing, sync.job.index_count())
}

fn place(sync: &Sync<'_>, index: u32) -> Place {
    let limited = sync.job.backoff_limit_per_index.is_some();
    let failures =
        limited.then(|| per_index::counts_after(sync.job, sync.delayed.get(&index).copied()));
    Place { index, failures }
}
