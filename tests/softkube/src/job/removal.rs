//! Which active pods are removed when there are too many.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::job::model::{Job, Pod};

/// The pods to remove: those with invalid or repeated indexes, and more until `at_least` are chosen.
///
/// Pods in earlier stages go first: unscheduled, pending, not ready, restarted more often, younger.
pub(crate) fn choose<'a>(job: &Job, active: &[&'a Pod], at_least: usize) -> Vec<&'a Pod> {
    let (mut chosen, mut left) =
        if job.indexed { split_by_index(job, active) } else { (Vec::new(), active.to_vec()) };
    if chosen.len() < at_least {
        left.sort_by_key(|pod| rank(pod));
        chosen.extend(left.into_iter().take(at_least - chosen.len()));
    }
    chosen
}

fn rank(pod: &Pod) -> impl Ord + use<> {
    (
        pod.scheduled,
        pod.phase,
        pod.ready,
        Reverse(pod.restarts),
        Reverse(pod.created),
        pod.name.clone(),
    )
}

fn split_by_index<'a>(job: &Job, active: &[&'a Pod]) -> (Vec<&'a Pod>, Vec<&'a Pod>) {
    let (mut chosen, mut left) = (Vec::new(), Vec::new());
    let mut by_index: BTreeMap<u32, Vec<&Pod>> = BTreeMap::new();
    for pod in active.iter().copied() {
        match pod.valid_index(job) {
            Some(index) => by_index.entry(index).or_default().push(pod),
            None => chosen.push(pod),
        }
    }
    for mut pods in by_index.into_values() {
        pods.sort_by_key(|pod| rank(pod));
        left.extend(pods.pop());
        chosen.extend(pods);
    }
    (chosen, left)
}
