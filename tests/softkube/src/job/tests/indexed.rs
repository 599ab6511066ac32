//! The tables of `indexed_job_utils_test.go`: all cases but one.
//!
//! Left out is "failed pod with expected finalizer removal", because the controller sees every removal at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::fake;
use crate::indexes::Indexes;
use crate::job::model::{FAILURE_COUNT_ANNOTATION, Job, Phase, Pod};
use crate::job::template::{self, Place};
use crate::job::{per_index, removal};
use crate::json::Json;

/// Pods from words such as `2:Succeeded`; the index `-` is none.
fn pods(words: &str) -> Vec<Pod> {
    let pod = |(number, word): (usize, &str)| {
        let (index, phase) = word.split_once(':').unwrap();
        let pod = match index {
            "-" => fake::pod(number, phase),
            index => fake::indexed_pod(number, index, phase),
        };
        Pod::read(&Arc::new(pod))
    };
    words.split_whitespace().enumerate().map(pod).collect()
}

fn job(completions: u32, status: Value) -> Job {
    Job::read(&json!({
        "spec": {"completionMode": "Indexed", "completions": completions, "backoffLimitPerIndex": 0},
        "status": status,
    }))
}

#[test]
fn succeeded_indexes_are_those_of_the_status_and_of_pods() {
    // (name, indexes of the status, pods, completions, of the status within range, all)
    let cases = [
        ("one index", "", "1:Succeeded", 2, "", "1"),
        (
            "two separate",
            "",
            "2:Failed 5:Succeeded 5:Succeeded 10:Failed 10:Succeeded",
            11,
            "",
            "5,10",
        ),
        (
            "two intervals",
            "",
            "0:Running 1:Pending 2:Succeeded 3:Succeeded 5:Succeeded 6:Succeeded 7:Succeeded",
            8,
            "",
            "2,3,5-7",
        ),
        (
            "one index and one interval",
            "",
            "0:Succeeded 1:Failed 2:Succeeded 3:Succeeded 4:Succeeded 5:Succeeded -:Succeeded -2:Succeeded",
            6,
            "",
            "0,2-5",
        ),
        (
            "out of range",
            "",
            "0:Succeeded 1:Succeeded 2:Succeeded 3:Failed 4:Succeeded 5:Succeeded -:Succeeded -2:Succeeded",
            5,
            "",
            "0-2,4",
        ),
        ("prev interval out of range", "0-5,8-10", "", 8, "0-5", "0-5"),
        ("prev interval partially out of range", "0-5,8-10", "", 10, "0-5,8,9", "0-5,8,9"),
        (
            "prev and new separate",
            "0,4,5,10-12",
            "2:Succeeded 7:Succeeded 8:Succeeded",
            13,
            "0,4,5,10-12",
            "0,2,4,5,7,8,10-12",
        ),
        ("prev between new", "3,4,6", "2:Succeeded 7:Succeeded 8:Succeeded", 9, "3,4,6", "2-4,6-8"),
        ("new between prev", "2,7,8", "3:Succeeded 4:Succeeded 6:Succeeded", 9, "2,7,8", "2-4,6-8"),
        (
            "new within prev",
            "2-7",
            "0:Succeeded 3:Succeeded 5:Succeeded 9:Succeeded",
            10,
            "2-7",
            "0,2-7,9",
        ),
        ("corrupted interval", "0,1-foo,bar", "3:Succeeded", 4, "0", "0,3"),
    ];
    for (name, status, words, completions, want_previous, want_all) in cases {
        let job = job(completions, json!({"completedIndexes": status}));
        let (previous, all) = per_index::succeeded(&job, &pods(words));
        assert_eq!(
            (previous.to_string().as_str(), all.to_string().as_str()),
            (want_previous, want_all),
            "{name}"
        );
    }
}

/// A failed pod from a word such as `a:0:2`: uid, index and failure count; `!` in front means without finalizer.
fn failed_pod(word: &str) -> Value {
    let (word, tracked) = word.strip_prefix('!').map_or((word, true), |word| (word, false));
    let parts: Vec<&str> = word.split(':').collect();
    let mut pod = fake::indexed_pod(0, parts[1], parts.get(3).unwrap_or(&"Failed"));
    pod.put("metadata.uid", parts[0]);
    pod.put_entry("metadata.annotations", FAILURE_COUNT_ANNOTATION, parts[2]);
    if !tracked {
        pod.cut("metadata.finalizers");
    }
    pod
}

fn failed_pods(words: &str) -> Vec<Pod> {
    words.split_whitespace().map(|word| Pod::read(&Arc::new(failed_pod(word)))).collect()
}

#[test]
fn indexes_fail_at_their_limit() {
    // (name, indexes of the status, pods, limit, failed indexes)
    let cases = [
        ("one new index failed", None, "a:0:0 b:1:1", 1, "1"),
        ("pod without finalizer is ignored", None, "!a:0:0", 0, ""),
        ("pod outside completions is ignored", None, "!a:3:0", 0, ""),
        ("extend the failed indexes", Some("0"), "a:1:0", 0, "0,1"),
        ("prev failed indexes empty", Some(""), "a:1:0", 0, "1"),
        ("prev failed indexes outside the completions", Some("9"), "a:1:0", 0, "1"),
        ("exceeding backoffLimitPerIndex, when backoffLimitPerIndex=0", None, "a:0:0", 0, "0"),
        ("exceeding backoffLimitPerIndex, when backoffLimitPerIndex=1", None, "a:1:1", 1, "1"),
    ];
    for (name, status, words, limit, want) in cases {
        let job = job(2, status.map_or(json!({}), |text| json!({"failedIndexes": text})));
        let failed = per_index::failed(&job, &failed_pods(words), limit);
        assert_eq!(failed.to_string(), want, "{name}");
    }
    let mut pod = failed_pod("a:0:0");
    pod.list_mut("status.containerStatuses")[0].put("state.terminated.exitCode", 3);
    let mut job = job(2, json!({}));
    let requirement = json!({"operator": "In", "values": [3]});
    job.pod_failure_policy =
        json!({"rules": [{"action": "FailIndex", "onExitCodes": requirement}]});
    let failed = per_index::failed(&job, &[Pod::read(&Arc::new(pod))], 1);
    assert_eq!(failed.to_string(), "0", "matching FailIndex pod failure policy");
}

#[test]
fn pods_that_wait_for_their_replacement_are_kept() {
    // (name, pods, limit, uids)
    let cases = [
        ("corresponding to non-failed indexes are kept", "a:0:0 b:1:1 c:2:0", 1, "a c"),
        ("failed pod without finalizer", "!a:0:0", 0, ""),
        ("failed pod with index outside of completions", "a:4:0", 0, ""),
        ("failed pod for active index", "a1:0:0 a2:0:1:Running", 1, ""),
        ("failed pod for succeeded index", "a1:0:0 a2:0:1:Succeeded", 1, ""),
        ("only the pod with highest failure count is kept", "a1:0:0 a3:0:2 a2:0:1", 4, "a3"),
    ];
    let kept = |pods: &[Pod], limit: u32| {
        let job = job(3, json!({}));
        let (_, succeeded) = per_index::succeeded(&job, pods);
        let failed = per_index::failed(&job, pods, limit);
        let active: BTreeSet<u32> = per_index::of(pods.iter().filter(|pod| pod.is_active()));
        let all: Vec<&Pod> = pods.iter().collect();
        let delayed = per_index::delayed(&job, &all, &[&succeeded, &failed], &active);
        delayed.values().map(|pod| pod.uid.clone()).collect::<Vec<_>>().join(" ")
    };
    for (name, words, limit, want) in cases {
        assert_eq!(kept(&failed_pods(words), limit), want, "{name}");
    }
    let deleted = |word: &str, seconds: u64| {
        let mut pod = failed_pod(word);
        pod.cut("status.containerStatuses");
        let at = fake::now().before(std::time::Duration::from_secs(seconds));
        pod.put("metadata.deletionTimestamp", at.rfc3339());
        Pod::read(&Arc::new(pod))
    };
    let pods = [deleted("a1:0:1", 1), deleted("a3:0:1", 0), deleted("a2:0:1", 2)];
    assert_eq!(kept(&pods, 4), "a3", "only the last failed pod is kept");
}

#[test]
fn membership_follows_the_intervals() {
    let cases = [
        ("", 4, false),
        ("2-4,5-7", 1, false),
        ("2-4,6-8", 9, false),
        ("2-4,6-8", 5, false),
        ("2-4,6-8", 2, true),
        ("2-4,6-8", 8, true),
    ];
    for (text, index, want) in cases {
        assert_eq!(Indexes::parse(text, 100).contains(index), want, "{text} has {index}");
    }
}

/// Name, count, completions, active pods, succeeded, failed and pending indexes.
type Pending = (&'static str, usize, u32, &'static str, &'static str, &'static str, &'static [u32]);

#[test]
fn the_first_pending_indexes_have_no_pod_and_no_result() {
    let cases: [Pending; 6] = [
        ("cnt greater than completions", 5, 3, "", "", "", &[0, 1, 2]),
        ("cnt less than completions", 2, 5, "", "", "", &[0, 1]),
        ("first pods active", 3, 10, "0:Running 1:Pending", "", "", &[2, 3, 4]),
        ("last pods active or succeeded", 6, 6, "6:Pending", "4,5", "", &[0, 1, 2, 3]),
        (
            "mixed",
            5,
            20,
            "3:Pending 5:Running 8:Pending -:Running -3:Running",
            "2-4,9",
            "",
            &[0, 1, 6, 7, 10],
        ),
        ("with failed indexes", 5, 20, "3:Pending 9:Pending", "1,5,9", "2,6,7", &[0, 4, 8, 10, 11]),
    ];
    for (name, count, completions, words, succeeded, failed, want) in cases {
        let settled = Indexes::parse(succeeded, 100).with(&per_index::of(&pods(words)));
        let settled = settled.union(&Indexes::parse(failed, 100));
        assert_eq!(settled.first_missing(count, completions), want, "{name}");
    }
}

#[test]
fn pods_with_repeated_or_invalid_indexes_are_removed() {
    // (name, pods, removed)
    let cases = [
        ("all unique", "-:Pending 2:Pending 5:Running 6:Running", "-:Pending 6:Running"),
        (
            "all with index",
            "5:Pending 0:Running 3:Pending 0:Running 3:Running 0:Pending 6:Running 6:Pending",
            "0:Pending 0:Running 3:Pending 6:Running 6:Pending",
        ),
        (
            "mixed",
            "-:Pending invalid:Running -2:Running 0:Pending 1:Pending 1:Pending 1:Running",
            "-:Pending invalid:Running -2:Running 1:Pending 1:Pending",
        ),
    ];
    let describe = |pod: &Pod| {
        let index = pod.object.entry("metadata.annotations", crate::job::model::INDEX_ANNOTATION);
        let phase = if pod.phase == Phase::Pending { "Pending" } else { "Running" };
        format!("{}:{phase}", index.unwrap_or("-"))
    };
    for (name, words, want) in cases {
        let pods = pods(words);
        let active: Vec<&Pod> = pods.iter().collect();
        let mut removed: Vec<String> =
            removal::choose(&job(6, json!({})), &active, 0).into_iter().map(describe).collect();
        let mut want: Vec<String> = want.split_whitespace().map(str::to_owned).collect();
        // The original also fixes the order, which has no effect.
        removed.sort();
        want.sort();
        assert_eq!(removed, want, "{name}");
    }
}

#[test]
fn generated_names_keep_their_index() {
    let long = "hhhhhooooo".repeat(7);
    let cut = &long[..55];
    let cases = [
        ("indexed-job", "indexed-job-1-".to_owned()),
        (long.as_str(), format!("{cut}-1-")),
        (&long[..57], format!("{cut}-1-")),
    ];
    for (name, want) in cases {
        let mut job = job(2, json!({}));
        name.clone_into(&mut job.name);
        let pod = template::pod(&job, Some(Place { index: 1, failures: None }));
        assert_eq!(pod.str("metadata.generateName"), want);
    }
}

#[test]
fn failure_counts_that_cannot_be_are_zero() {
    let cases = [("2", 2), ("2147483647", 2_147_483_647), ("2147483648", 0), ("-1", 0), ("xyz", 0)];
    for (text, want) in cases {
        let annotations = json!({FAILURE_COUNT_ANNOTATION: text});
        let pod = Pod::read(&Arc::new(json!({"metadata": {"annotations": annotations}})));
        assert_eq!(pod.failures, want, "{text}");
    }
    assert_eq!(Pod::read(&Arc::new(json!({}))).failures, 0, "no annotation");
}
