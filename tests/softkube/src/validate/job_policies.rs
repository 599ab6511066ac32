//! Validation of a Job's pod failure policy, success policy and pod replacement policy.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::indexes;
use crate::json::Json;
use crate::names;

const RULES_LIMIT: usize = 20;
const EXIT_CODES_LIMIT: usize = 255;
const PATTERNS_LIMIT: usize = 20;
const SUCCEEDED_INDEXES_LIMIT_BYTES: usize = 64 * 1024;

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];

/// Validates the policies of a Job's spec.
pub(crate) fn validate(spec: &Value, errors: &mut FieldErrors) {
    if spec.has("podFailurePolicy") {
        pod_failure_policy(spec, errors);
    }
    if spec.has("successPolicy") {
        if spec.text("completionMode") == Some("Indexed") {
            success_policy(spec, errors);
        } else {
            let policy = spec.at("successPolicy").clone();
            errors.invalid("spec.successPolicy", policy, "requires indexed completion mode");
        }
    }
    if let Some(policy) = spec.text("podReplacementPolicy") {
        let supported: &[&str] = if spec.has("podFailurePolicy") {
            &["Failed"]
        } else {
            &["Failed", "TerminatingOrFailed"]
        };
        if !supported.contains(&policy) {
            errors.not_supported("spec.podReplacementPolicy", policy, supported);
        }
    }
}

fn valid_values(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn pod_failure_policy(spec: &Value, errors: &mut FieldErrors) {
    let rules = spec.list("podFailurePolicy.rules");
    if rules.len() > RULES_LIMIT {
        errors.too_many("spec.podFailurePolicy.rules", rules.len(), RULES_LIMIT);
    }
    let containers = spec
        .list("template.spec.containers")
        .iter()
        .chain(spec.list("template.spec.initContainers"));
    let containers: BTreeSet<&str> = containers.map(|container| container.str("name")).collect();
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("spec.podFailurePolicy.rules[{index}]");
        action(rule, spec.has("backoffLimitPerIndex"), &path, errors);
        let (on_exit_codes, on_conditions) =
            (rule.has("onExitCodes"), !rule.list("onPodConditions").is_empty());
        if on_exit_codes {
            exit_codes(rule.at("onExitCodes"), &containers, &format!("{path}.onExitCodes"), errors);
        }
        if on_conditions {
            pod_conditions(
                rule.list("onPodConditions"),
                &format!("{path}.onPodConditions"),
                errors,
            );
        }
        if on_exit_codes && on_conditions {
            let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.invalid_without_value(&path, detail);
        }
        if !on_exit_codes && !on_conditions {
            let detail = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.invalid_without_value(&path, detail);
        }
    }
}

fn action(rule: &Value, per_index: bool, path: &str, errors: &mut FieldErrors) {
    let path = format!("{path}.action");
    match rule.str("action") {
        "" => errors.required(&path, &valid_values(ACTIONS)),
        "FailIndex" if !per_index => {
            errors.invalid(&path, "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        action if !ACTIONS.contains(&action) => errors.not_supported(&path, action, ACTIONS),
        _ => {}
    }
}

fn exit_codes(
    requirement: &Value,
    containers: &BTreeSet<&str>,
    path: &str,
    errors: &mut FieldErrors,
) {
    let operator = requirement.str("operator");
    match operator {
        "" => errors.required(&format!("{path}.operator"), &valid_values(OPERATORS)),
        operator if !OPERATORS.contains(&operator) => {
            errors.not_supported(&format!("{path}.operator"), operator, OPERATORS);
        }
        _ => {}
    }
    if let Some(name) = requirement.text("containerName").filter(|name| !containers.contains(name))
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&format!("{path}.containerName"), name, detail);
    }
    let path = format!("{path}.values");
    let values: Vec<i64> = requirement.list("values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.invalid(&path, requirement.at("values").clone(), "at least one value is required");
    } else if values.len() > EXIT_CODES_LIMIT {
        errors.too_many(&path, values.len(), EXIT_CODES_LIMIT);
    }
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            errors.invalid(
                &format!("{path}[{index}]"),
                *value,
                "must not be 0 for the In operator",
            );
        }
        if !seen.insert(value) {
            errors.duplicate(&format!("{path}[{index}]"), *value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(&path, values, "must be ordered");
    }
}

fn pod_conditions(patterns: &[Value], path: &str, errors: &mut FieldErrors) {
    if patterns.len() > PATTERNS_LIMIT {
        errors.too_many(path, patterns.len(), PATTERNS_LIMIT);
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let kind = pattern.str("type");
        errors.invalid_each(&format!("{path}[{index}].type"), kind, names::qualified(kind));
        let path = format!("{path}[{index}].status");
        match pattern.str("status") {
            "" => errors.required(&path, &valid_values(STATUSES)),
            status if !STATUSES.contains(&status) => errors.not_supported(&path, status, STATUSES),
            _ => {}
        }
    }
}

fn success_policy(spec: &Value, errors: &mut FieldErrors) {
    let rules = spec.list("successPolicy.rules");
    let path = "spec.successPolicy.rules";
    if rules.is_empty() {
        errors.required(
            path,
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    if rules.len() > RULES_LIMIT {
        errors.too_many(path, rules.len(), RULES_LIMIT);
    }
    let completions = spec.int("completions").unwrap_or(0);
    for (index, rule) in rules.iter().enumerate() {
        success_rule(rule, completions, &format!("{path}[{index}]"), errors);
    }
}

fn success_rule(rule: &Value, completions: i64, path: &str, errors: &mut FieldErrors) {
    let (count, indexes) = (rule.int("succeededCount"), rule.text("succeededIndexes"));
    if count.is_none() && indexes.is_none() {
        errors
            .required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let path = format!("{path}.succeededIndexes");
        if indexes.len() > SUCCEEDED_INDEXES_LIMIT_BYTES {
            errors.too_long(&path, SUCCEEDED_INDEXES_LIMIT_BYTES);
        }
        match indexes::check_format(indexes, completions) {
            Ok(found) => total = found,
            Err(detail) => {
                errors.invalid(&path, indexes, &format!("error parsing succeededIndexes: {detail}"))
            }
        }
    }
    let Some(count) = count else { return };
    let path = format!("{path}.succeededCount");
    errors.nonnegative(&path, Some(count));
    if count > completions {
        let detail = format!(
            "must be less than or equal to {completions} (the number of specified completions)"
        );
        errors.invalid(&path, count, &detail);
    }
    if indexes.is_some() && count > total {
        let detail = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.invalid(&path, count, &detail);
    }
}
