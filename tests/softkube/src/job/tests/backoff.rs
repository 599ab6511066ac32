//! `TestNewBackoffRecord`, `TestGetFinishedTime`, `TestGetRemainingBackoffTime` and its variant for indexes: all cases.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::fake;
use crate::clock::Time;
use crate::job::backoff::{Backoff, Delays};
use crate::job::model::{FAILURE_COUNT_ANNOTATION, IGNORED_COUNT_ANNOTATION, Pod};
use crate::json::Json;

/// The delays of the original tables.
const DELAYS: Delays = Delays { first: Duration::from_secs(5), longest: Duration::from_secs(700) };

/// The moment this many milliseconds before the reference time.
fn before(milliseconds: u64) -> Time {
    fake::now().before(Duration::from_millis(milliseconds))
}

fn finished(at: Time) -> Pod {
    let mut pod = fake::pod(0, "Failed");
    pod.list_mut("status.containerStatuses")[0]
        .put("state.terminated.finishedAt", at.rfc3339_micro());
    Pod::read(&Arc::new(pod))
}

/// Name, record before, successes and failures in ms before now, failures after, and whether the last is now.
type Case = (&'static str, Backoff, &'static [u64], &'static [u64], u32, bool);

#[test]
fn failures_count_from_the_last_success() {
    let none = Backoff::default();
    let two = Backoff { failures: 2, last_failure: None };
    let cases: [Case; 8] = [
        ("Empty backoff store and one new failure", none, &[], &[0], 1, true),
        ("Empty backoff store and two new failures", none, &[], &[0, 1], 2, true),
        ("Empty backoff store, two failures followed by success", none, &[0], &[2, 1], 0, false),
        ("two failures, one success and two more failures", none, &[2], &[0, 4, 3, 1], 2, true),
        ("Backoff store having failure count 2 and one new failure", two, &[], &[0], 3, true),
        ("success and failure at same timestamp", none, &[0], &[0], 0, false),
        ("Empty backoff store with no success/failure", none, &[], &[], 0, false),
        ("Empty backoff store with one success", none, &[0], &[], 0, false),
    ];
    for (name, record, succeeded, failed, failures, last_is_now) in cases {
        let pods = |times: &[u64]| times.iter().map(|at| finished(before(*at))).collect::<Vec<_>>();
        let (succeeded, failed) = (pods(succeeded), pods(failed));
        let (succeeded, failed): (Vec<&Pod>, Vec<&Pod>) =
            (succeeded.iter().collect(), failed.iter().collect());
        let want = Backoff { failures, last_failure: last_is_now.then(fake::now) };
        assert_eq!(record.after(&succeeded, &failed), want, "{name}");
    }
}

#[test]
fn a_pod_finished_when_its_parts_say_so() {
    let at = |seconds: u64| before(seconds * 1000).rfc3339();
    let ended = |seconds: u64| json!({"state": {"terminated": {"finishedAt": at(seconds)}}});
    let running = json!({"state": {"running": {}}});
    let unknown_end = json!({"state": {"terminated": {}}});
    let ready = |status: &str, seconds: u64| {
        let since = at(seconds);
        json!([{"type": "Ready", "status": status, "lastTransitionTime": since}])
    };
    // (name, metadata, status, seconds before now)
    let cases = [
        (
            "all containers terminated",
            json!({}),
            json!({"containerStatuses": [ended(1), ended(0), ended(2)]}),
            0,
        ),
        (
            "two terminated and one running; fallback to deletionTimestamp",
            json!({"deletionTimestamp": at(0)}),
            json!({"containerStatuses": [ended(1), running, ended(2)]}),
            0,
        ),
        (
            "fallback to deletionTimestamp",
            json!({"deletionTimestamp": at(0)}),
            json!({"containerStatuses": [running]}),
            0,
        ),
        (
            "fallback to deletionTimestamp, decremented by grace period",
            json!({"deletionTimestamp": at(0), "deletionGracePeriodSeconds": 30}),
            json!({"containerStatuses": [running]}),
            30,
        ),
        (
            "fallback to PodReady.LastTransitionTime when the condition is False",
            json!({}),
            json!({"containerStatuses": [unknown_end], "conditions": ready("False", 0)}),
            0,
        ),
        (
            "skip fallback to PodReady.LastTransitionTime when the condition is True",
            json!({"deletionTimestamp": at(0)}),
            json!({"containerStatuses": [unknown_end], "conditions": ready("True", 30)}),
            0,
        ),
        (
            "fallback to creationTimestamp",
            json!({"creationTimestamp": at(0)}),
            json!({"containerStatuses": [unknown_end]}),
            0,
        ),
        (
            "init container and all containers terminated",
            json!({}),
            json!({"containerStatuses": [ended(1)], "initContainerStatuses": [ended(0)]}),
            0,
        ),
    ];
    for (name, metadata, status, seconds) in cases {
        let pod = Pod::read(&Arc::new(json!({"metadata": metadata, "status": status})));
        assert_eq!(pod.finished, before(seconds * 1000), "{name}");
    }
}

#[test]
fn delays_double_up_to_their_limit() {
    // (name, failures, seconds since the last, seconds left)
    let cases = [
        ("one failure; current time and failure time are same", 1, 0, 5),
        ("one failure; current time == 1 second + failure time", 1, 1, 4),
        ("one failure; current time == expected backoff time", 1, 5, 0),
        ("one failure; current time == expected backoff time + 1 Second", 1, 6, 0),
        ("three failures; current time and failure time are same", 3, 0, 20),
        ("eight failures; backoff not exceeding maxBackoff", 8, 0, 640),
        ("nine failures; backoff exceeding maxBackoff", 9, 0, 700),
    ];
    assert_eq!(Backoff::default().remaining(DELAYS, fake::now()), Duration::ZERO, "no failures");
    for (name, failures, since, left) in cases {
        let record = Backoff { failures, last_failure: Some(before(since * 1000)) };
        assert_eq!(record.remaining(DELAYS, fake::now()), Duration::from_secs(left), "{name}");
    }
}

#[test]
fn delays_of_an_index_count_ignored_failures_too() {
    let failed = |counted: &str, ignored: &str| {
        let annotations =
            json!({FAILURE_COUNT_ANNOTATION: counted, IGNORED_COUNT_ANNOTATION: ignored});
        let deleted = fake::now().rfc3339();
        let pod: Value = json!({
            "metadata": {"annotations": annotations, "deletionTimestamp": deleted},
            "status": {"phase": "Failed"},
        });
        Pod::read(&Arc::new(pod))
    };
    let left = |pod: Option<&Pod>| DELAYS.remaining_for_index(pod, fake::now()).as_secs();
    assert_eq!(left(None), 0, "no failures");
    assert_eq!(left(Some(&failed("2", "0"))), 20, "two prev failures");
    assert_eq!(left(Some(&failed("1", "1"))), 20, "one prev failure counted and one ignored");
}
