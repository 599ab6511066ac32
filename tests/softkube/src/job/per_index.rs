//! Indexed Jobs: succeeded and failed indexes, and the pods that carry failure counts over to their replacements.

use std::collections::{BTreeMap, BTreeSet};

use crate::indexes::Indexes;
use crate::job::failure_policy::{self, Verdict};
use crate::job::model::{Job, Phase, Pod};

/// The indexes that the status records as succeeded, and these with those that succeeded since.
pub(crate) fn succeeded(job: &Job, pods: &[Pod]) -> (Indexes, Indexes) {
    let previous = Indexes::parse(&job.status.completed_indexes, job.index_count());
    let new = pods
        .iter()
        .filter(|pod| pod.phase == Phase::Succeeded && pod.tracked)
        .filter_map(|pod| pod.valid_index(job))
        .collect();
    let all = previous.with(&new);
    (previous, all)
}

/// The indexes that failed for good.
pub(crate) fn failed(job: &Job, pods: &[Pod], limit: u32) -> Indexes {
    let previous =
        Indexes::parse(job.status.failed_indexes.as_deref().unwrap_or_default(), job.index_count());
    let new = pods
        .iter()
        .filter(|pod| pod.tracked && exhausts_index(job, pod, limit))
        .filter_map(|pod| pod.valid_index(job))
        .collect();
    previous.with(&new)
}

fn exhausts_index(job: &Job, pod: &Pod, limit: u32) -> bool {
    if !pod.is_failed(job) {
        return false;
    }
    match failure_policy::judge(&job.pod_failure_policy, &pod.object) {
        Verdict::FailIndex => true,
        Verdict::Ignore => false,
        Verdict::Count | Verdict::FailJob(_) => pod.failures >= limit,
    }
}

/// For each index that waits for a replacement, the pod that failed last.
///
/// These pods keep their finalizer until the replacement, which takes over their failure count, exists.
pub(crate) fn delayed<'a>(
    job: &Job,
    pods: &[&'a Pod],
    settled: &[&Indexes],
    active: &BTreeSet<u32>,
) -> BTreeMap<u32, &'a Pod> {
    let mut delayed: BTreeMap<u32, &Pod> = BTreeMap::new();
    for pod in pods.iter().copied().filter(|pod| pod.tracked && pod.is_failed(job)) {
        let Some(index) = pod.valid_index(job) else { continue };
        if active.contains(&index) || settled.iter().any(|indexes| indexes.contains(index)) {
            continue;
        }
        let replaces = delayed.get(&index).is_none_or(|last| {
            last.absolute_failures() <= pod.absolute_failures() && pod.finished >= last.finished
        });
        if replaces {
            delayed.insert(index, pod);
        }
    }
    delayed
}

/// The failure counts (counted, ignored) of the pod that replaces another.
pub(crate) fn counts_after(job: &Job, replaced: Option<&Pod>) -> (u32, u32) {
    let Some(pod) = replaced else { return (0, 0) };
    match failure_policy::judge(&job.pod_failure_policy, &pod.object) {
        Verdict::Ignore => (pod.failures, pod.ignored_failures + 1),
        Verdict::Count | Verdict::FailIndex | Verdict::FailJob(_) => {
            (pod.failures + 1, pod.ignored_failures)
        }
    }
}

/// The indexes of pods.
pub(crate) fn of<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeSet<u32> {
    pods.into_iter().filter_map(|pod| pod.index).collect()
}
