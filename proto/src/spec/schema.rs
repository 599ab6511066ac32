//! The JSON Schema of the run spec: generated from [`Draft`], published, and used for validation.

use std::sync::LazyLock;

use serde_json::Value;

use super::Draft;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = schemars::schema_for!(Draft).to_value();
    unwrap_descriptions(&mut schema);
    schema
});

/// The JSON Schema of the run spec, with descriptions, defaults and limits.
pub fn schema() -> &'static Value {
    &SCHEMA
}

/// Every key of the spec, as the path of the map that contains it and its name. Items of a list are written `[]`.
pub(super) fn known_keys() -> Vec<(String, String)> {
    let mut keys = Vec::new();
    collect(&SCHEMA, "", &mut keys);
    keys
}

fn collect(node: &Value, path: &str, keys: &mut Vec<(String, String)>) {
    let node = target(node);
    if let Some(properties) = node["properties"].as_object() {
        for (key, node) in properties {
            keys.push((path.to_owned(), key.clone()));
            collect(node, &join(path, key), keys);
        }
    } else if let Some(items) = node.get("items") {
        collect(items, &format!("{path}[]"), keys);
    }
}

/// The alternatives of a node.
pub(super) fn choices(node: &Value) -> Option<Vec<&Value>> {
    let list = node.get("anyOf").or_else(|| node.get("oneOf"))?.as_array()?;
    Some(list.iter().collect())
}

/// Follows references and optional values: returns the definition that a node refers to, the only alternative to
/// null, or the node itself.
pub(super) fn target(node: &Value) -> &Value {
    if let Some(name) = node["$ref"].as_str() {
        let name = name.trim_start_matches("#/$defs/");
        return target(&SCHEMA["$defs"][name]);
    }
    let Some(mut choices) = choices(node) else {
        return node;
    };
    choices.retain(|choice| choice["type"] != "null");
    match choices.as_slice() {
        [only] => target(only),
        _ => node,
    }
}

/// The path of `key` in the map at `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// Replaces the line breaks in descriptions, which come from doc comments, by spaces.
fn unwrap_descriptions(node: &mut Value) {
    match node {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            map.values_mut().for_each(unwrap_descriptions);
        }
        Value::Array(items) => items.iter_mut().for_each(unwrap_descriptions),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
