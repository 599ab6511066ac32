//! `TestMatchPodFailurePolicy` and `TestMatchSuccessPolicy`.

use serde_json::{Value, json};

use crate::indexes::Indexes;
use crate::job::failure_policy::{self, Verdict};
use crate::job::success_policy;
use crate::json::Json;

fn rule(row: &Value) -> Value {
    let words = row.as_array().unwrap();
    let second = words[1].as_str().unwrap();
    match second.split_once('=') {
        Some((kind, status)) => {
            json!({"action": words[0], "onPodConditions": [{"type": kind, "status": status}]})
        }
        None => {
            json!({"action": words[0], "onExitCodes": {"operator": second, "values": words[2..]}})
        }
    }
}

fn statuses(exits: &Value) -> Value {
    let status = |(name, code): (&String, &Value)| {
        let state =
            if code.is_null() { json!({}) } else { json!({"terminated": {"exitCode": code}}) };
        json!({"name": name, "state": state})
    };
    exits.as_object().into_iter().flatten().map(status).collect()
}

/// 20 of 22 cases; the two with `JobBackoffLimitPerIndex` disabled are left out, because the feature is always on.
/// The original tells a `Count` rule from no rule; both count here.
#[test]
fn pod_failure_policies_judge_as_kubernetes_does() {
    let text = include_str!("../../../tests/tables/pod_failure_policy.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    for case in cases.as_array().unwrap() {
        let rules: Vec<Value> = case.list("rules").iter().map(rule).collect();
        let conditions: Vec<Value> = case
            .text("condition")
            .and_then(|condition| condition.split_once('='))
            .map(|(kind, status)| json!({"type": kind, "status": status}))
            .into_iter()
            .collect();
        let pod = json!({"metadata": {"namespace": "default", "name": "mypod"}, "status": {
            "phase": "Failed", "conditions": conditions, "containerStatuses": statuses(case.at("exits")),
            "initContainerStatuses": statuses(case.at("inits")),
        }});
        let want = match case.str("want") {
            "Count" => Verdict::Count,
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            message => Verdict::FailJob(message.to_owned()),
        };
        let verdict = failure_policy::judge(&json!({"rules": rules}), &pod);
        assert_eq!(verdict, want, "{}", case.str("name"));
    }
}

/// 30 of 32 cases; left out is the one with `JobSuccessPolicy` disabled, and two with empty sets are one.
#[test]
fn success_policies_judge_as_kubernetes_does() {
    let text = include_str!("../../../tests/tables/success_policy.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    for case in cases.as_array().unwrap() {
        let rule = |row: &Value| {
            let mut rule = json!({});
            for (at, field) in ["succeededIndexes", "succeededCount"].iter().enumerate() {
                if !row[at].is_null() {
                    rule.put(field, row[at].clone());
                }
            }
            rule
        };
        let rules: Vec<Value> = case.list("rules").iter().map(rule).collect();
        let policy = if case.has("rules") { json!({"rules": rules}) } else { Value::Null };
        // Indexes at or above the completions occur in the original, so the set is read without that limit.
        let succeeded = Indexes::parse(case.str("succeeded"), u32::MAX);
        let want = case.int("met").map(|index| format!("Matched rules at index {index}"));
        assert_eq!(success_policy::judge(&policy, 10, &succeeded), want, "{}", case.str("name"));
    }
}
