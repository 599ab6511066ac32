//! The pod failure policy: which rule a failed pod matches.

use serde_json::Value;

use crate::json::Json;

/// What the policy makes of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The failure counts towards the back-off limits; also when no rule matches.
    Count,
    /// The failure does not count.
    Ignore,
    /// The index fails.
    FailIndex,
    /// The Job fails, with this message.
    FailJob(String),
}

/// Judges a failed pod by the first rule that matches it.
pub(crate) fn judge(policy: &Value, pod: &Value) -> Verdict {
    for (index, rule) in policy.list("rules").iter().enumerate() {
        let action = rule.str("action");
        let pod_name = format!("{}/{}", pod.str("metadata.namespace"), pod.str("metadata.name"));
        let matched = if rule.has("onExitCodes") {
            exit_code_match(pod, rule.at("onExitCodes")).map(|(container, code)| {
                format!(
                    "Container {container} for pod {pod_name} failed with exit code {code} matching {action} rule at \
                     index {index}"
                )
            })
        } else {
            condition_match(pod, rule.list("onPodConditions")).map(|kind| {
                format!(
                    "Pod {pod_name} has condition {kind} matching {action} rule at index {index}"
                )
            })
        };
        match (matched, action) {
            (Some(message), "FailJob") => return Verdict::FailJob(message),
            (Some(_), "Ignore") => return Verdict::Ignore,
            (Some(_), "FailIndex") => return Verdict::FailIndex,
            (Some(_), "Count") => return Verdict::Count,
            _ => {}
        }
    }
    Verdict::Count
}

/// The first terminated container whose exit code meets the requirement.
fn exit_code_match<'a>(pod: &'a Value, requirement: &Value) -> Option<(&'a str, i64)> {
    let statuses =
        pod.list("status.containerStatuses").iter().chain(pod.list("status.initContainerStatuses"));
    let matching = |status: &'a Value| {
        let name = status.str("name");
        let code = status.int("state.terminated.exitCode").filter(|code| *code != 0)?;
        if requirement.text("containerName").is_some_and(|wanted| wanted != name) {
            return None;
        }
        let listed = requirement.list("values").iter().any(|value| value.as_i64() == Some(code));
        let matches = match requirement.str("operator") {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        matches.then_some((name, code))
    };
    statuses.filter_map(matching).next()
}

fn condition_match<'a>(pod: &'a Value, patterns: &[Value]) -> Option<&'a str> {
    let matches = |condition: &&Value| {
        patterns.iter().any(|pattern| {
            pattern.at("type") == condition.at("type")
                && pattern.at("status") == condition.at("status")
        })
    };
    pod.list("status.conditions").iter().find(matches).map(|condition| condition.str("type"))
}
