//! Strategic merge patches, with the directives `$patch`, `$deleteFromPrimitiveList` and `$retainKeys`.
//!
//! `$setElementOrder` is accepted and ignored: merged lists keep their order and new entries come last.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::schema::{self, Merge, Shape};

/// Merges a patch into a value of the given shape.
pub(super) fn apply(shape: &Shape, target: &mut Value, patch: &Value) -> Result<(), ApiError> {
    match (shape, patch) {
        (Shape::List { items, merge }, Value::Array(changes)) => {
            merge_list(items, merge, target, changes)
        }
        (Shape::Struct(_) | Shape::Map { .. } | Shape::Any, Value::Object(changes)) => {
            merge_object(shape, target, changes)
        }
        _ => {
            *target = patch.clone();
            Ok(())
        }
    }
}

fn merge_object(
    shape: &Shape,
    target: &mut Value,
    changes: &Map<String, Value>,
) -> Result<(), ApiError> {
    match changes.get("$patch").and_then(Value::as_str) {
        Some("replace") => *target = Value::Object(Map::new()),
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            return Err(ApiError::bad_request(format!("Unknown patch type found: {other}")));
        }
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("the target was just made an object");
    if let Some(retained) = changes.get("$retainKeys").and_then(Value::as_array) {
        fields.retain(|name, _| retained.iter().any(|one| one == name));
    }
    for (name, change) in changes {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let removed = change.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(items) = fields.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !removed.contains(item));
            }
        } else if name.starts_with('$') {
        } else if change.is_null() {
            fields.remove(name);
        } else {
            let child = child_shape(shape, name);
            apply(&child, fields.entry(name).or_insert(Value::Null), change)?;
        }
    }
    Ok(())
}

fn child_shape(shape: &Shape, name: &str) -> Shape {
    match shape {
        Shape::Struct(owner) => schema::field(owner, name).cloned().unwrap_or(Shape::Any),
        Shape::Map { values, .. } => Shape::clone(values),
        _ => Shape::Any,
    }
}

fn merge_list(
    items: &Shape,
    merge: &Merge,
    target: &mut Value,
    changes: &[Value],
) -> Result<(), ApiError> {
    let replaces = changes
        .iter()
        .any(|change| change.get("$patch").and_then(Value::as_str) == Some("replace"));
    if replaces || *merge == Merge::Atomic || !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let list = target.as_array_mut().expect("the target is a list");
    for change in changes {
        let directive = change.get("$patch").and_then(Value::as_str);
        match merge {
            _ if directive == Some("replace") => {}
            Merge::Atomic => list.push(change.clone()),
            Merge::Set => {
                if !list.contains(change) {
                    list.push(change.clone());
                }
            }
            Merge::ByKeys(keys) => {
                let key = &keys[0];
                let Some(id) = change.get(key) else {
                    let message =
                        format!("map: {change} does not contain declared merge key: {key}");
                    return Err(ApiError::new(500, "InternalError", message));
                };
                let position = list.iter().position(|item| item.get(key) == Some(id));
                match (directive, position) {
                    (Some("delete"), Some(position)) => drop(list.remove(position)),
                    (Some("delete"), None) => {}
                    (_, Some(position)) => apply(items, &mut list[position], change)?,
                    (_, None) => {
                        let mut item = Value::Null;
                        apply(items, &mut item, change)?;
                        list.push(item);
                    }
                }
            }
        }
    }
    Ok(())
}
