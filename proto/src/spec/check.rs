//! Validates a spec against the published schema, so that limits, names and error texts have a single source.
//!
//! Supports only the part of JSON Schema that the schema of a [`Draft`](super::Draft) uses.

use serde_json::{Map, Value};

use super::error::Problem;
use super::keys;
use super::schema::{self, choices, join, target};

/// Reports everything that the schema refuses. Removes unknown keys from `value`, and keys without a value, which
/// count as absent.
pub(super) fn check(value: &mut Value, problems: &mut Vec<Problem>) {
    visit(value, schema::schema(), "", problems);
}

fn visit(value: &mut Value, node: &Value, path: &str, problems: &mut Vec<Problem>) {
    let node = target(node);
    if let Some(properties) = node["properties"].as_object() {
        match value {
            Value::Object(map) => visit_map(map, node, properties, path, problems),
            _ => problems.push(mismatch(value, node, path)),
        }
    } else if let (Value::Object(map), Some(node @ Value::Object(_))) =
        (&mut *value, node.get("additionalProperties"))
    {
        for (key, value) in map {
            visit(value, node, &join(path, key), problems);
        }
    } else if let (Value::Array(items), Some(of)) = (&mut *value, node.get("items"))
        && size_fits(items.len(), node, ["minItems", "maxItems"])
    {
        for (index, item) in items.iter_mut().enumerate() {
            visit(item, of, &format!("{path}[{index}]"), problems);
        }
    } else if !accepts(value, node) {
        problems.push(mismatch(value, node, path));
    }
}

fn visit_map(
    map: &mut Map<String, Value>,
    node: &Value,
    properties: &Map<String, Value>,
    path: &str,
    problems: &mut Vec<Problem>,
) {
    map.retain(|key, value| {
        let known = properties.contains_key(key);
        if !known {
            let hint = keys::hint(path, key, properties.keys());
            problems.push(Problem::unknown_key(join(path, key), hint));
        }
        known && !value.is_null()
    });
    for (key, value) in map.iter_mut() {
        visit(value, &properties[key], &join(path, key), problems);
    }
    for key in node["required"].as_array().into_iter().flatten() {
        let key = key.as_str().unwrap_or_default();
        if !map.contains_key(key) {
            let wanted = describe(&properties[key]);
            problems.push(
                Problem::new(join(path, key), "is missing").hint(format!("it must be {wanted}")),
            );
        }
    }
}

/// Whether the schema accepts a value that is not a map with known keys.
fn accepts(value: &Value, node: &Value) -> bool {
    let node = target(node);
    if let Some(choices) = choices(node) {
        return choices.iter().any(|choice| accepts(value, choice));
    }
    if let Some(word) = node.get("const") {
        return value == word;
    }
    if let Some(words) = node["enum"].as_array() {
        return words.contains(value);
    }
    let bound = |key: &str| node[key].as_f64();
    match value {
        Value::Bool(_) => has_type(node, "boolean"),
        Value::Number(number) => {
            let whole = number.is_u64() || number.is_i64();
            let number = number.as_f64().unwrap_or(f64::NAN);
            (has_type(node, "number") || whole && has_type(node, "integer"))
                && bound("minimum").is_none_or(|least| number >= least)
                && bound("maximum").is_none_or(|most| number <= most)
                && bound("exclusiveMinimum").is_none_or(|least| number > least)
        }
        Value::String(text) => {
            has_type(node, "string")
                && size_fits(text.chars().count(), node, ["minLength", "maxLength"])
        }
        Value::Array(items) => {
            has_type(node, "array")
                && size_fits(items.len(), node, ["minItems", "maxItems"])
                && items.iter().all(|item| accepts(item, &node["items"]))
        }
        Value::Object(_) => has_type(node, "object"),
        Value::Null => false,
    }
}

fn size_fits(size: usize, node: &Value, [least, most]: [&str; 2]) -> bool {
    let size = size as u64;
    node[least].as_u64().is_none_or(|least| size >= least)
        && node[most].as_u64().is_none_or(|most| size <= most)
}

fn mismatch(value: &Value, node: &Value, path: &str) -> Problem {
    let wanted = describe(node);
    let problem = Problem::new(path, format!("must be {wanted}, got {}", show(value)));
    let Value::String(text) = value else {
        return problem;
    };
    match keys::nearest(text, words(node).iter().map(String::as_str)) {
        Some(word) => problem.hint(format!("did you mean `{word}`?")),
        None => problem,
    }
}

/// What a schema node accepts, as the end of "must be ...".
fn describe(node: &Value) -> String {
    let node = target(node);
    let mut parts: Vec<String> = words(node).iter().map(|word| format!("`{word}`")).collect();
    let choices = choices(node).unwrap_or_else(|| vec![node]);
    parts.extend(choices.into_iter().filter_map(describe_kind));
    match parts.as_slice() {
        [] => "another value".into(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn describe_kind(node: &Value) -> Option<String> {
    let node = target(node);
    if node.get("const").is_some() || node.get("enum").is_some() || choices(node).is_some() {
        return None;
    }
    if let Some(properties) = node["properties"].as_object() {
        let keys: Vec<String> = properties.keys().map(|key| format!("`{key}`")).collect();
        return Some(format!("a map with {}", keys.join(", ")));
    }
    let range = describe_range(node);
    let kinds = ["integer", "number", "boolean", "string", "array", "object"];
    let kind = kinds.into_iter().find(|kind| has_type(node, kind))?;
    Some(match kind {
        "integer" => format!("a whole number{range}"),
        "number" => format!("a number{range}"),
        "boolean" => "`true` or `false`".into(),
        "string" => match node["maxLength"].as_u64() {
            Some(most) => format!("a text of at most {most} characters"),
            None => "a text".into(),
        },
        "array" => match (node["minItems"].as_u64(), node["maxItems"].as_u64()) {
            (Some(least), Some(most)) if least == most => {
                format!("a list of {least} numbers")
            }
            (Some(least), _) => {
                format!("a list of {least} or more, each {}", describe(&node["items"]))
            }
            _ => format!("a list, each {}", describe(&node["items"])),
        },
        _ => "a map".into(),
    })
}

fn describe_range(node: &Value) -> String {
    let bound = |key: &str| node[key].as_f64();
    match (bound("minimum"), bound("exclusiveMinimum"), bound("maximum")) {
        (Some(least), _, Some(most)) => format!(" from {least} to {most}"),
        (Some(least), _, None) => format!(" of {least} or more"),
        (None, Some(least), Some(most)) => format!(" above {least}, at most {most}"),
        (None, Some(least), None) => format!(" above {least}"),
        (None, None, Some(most)) => format!(" of at most {most}"),
        (None, None, None) => String::new(),
    }
}

/// The string constants that a node accepts.
fn words(node: &Value) -> Vec<String> {
    let node = target(node);
    let own = node.get("const").into_iter();
    let own = own.chain(node["enum"].as_array().into_iter().flatten());
    let own = own.filter_map(Value::as_str).map(str::to_owned);
    let inner = choices(node).unwrap_or_default();
    own.chain(inner.into_iter().flat_map(words)).collect()
}

fn has_type(node: &Value, name: &str) -> bool {
    match &node["type"] {
        Value::String(kind) => kind == name,
        Value::Array(kinds) => kinds.iter().any(|kind| kind == name),
        _ => false,
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.chars().count() > 60 => {
            format!("`{}...`", text.chars().take(60).collect::<String>())
        }
        Value::String(text) => format!("`{text}`"),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "a map".into(),
    }
}
