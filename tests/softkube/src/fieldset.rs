//! Sets of field paths, as `managedFields` record them.
//!
//! A path is a list of elements: `f:NAME` for a field or map key, `k:{...}` for a list entry with these keys and
//! `v:VALUE` for an entry of a set. A set holds leaves, and the list entries themselves.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::json::Json;
use crate::schema::{self, Merge, Shape};

/// A path to a field.
pub(crate) type Path = Vec<String>;

/// A set of paths.
pub(crate) type Set = BTreeSet<Path>;

/// Metadata that the server owns and no manager does.
const SERVER_METADATA: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "generateName",
];

/// The fields that an object of a kind sets.
pub(crate) fn of_object(kind: &str, object: &Value) -> Set {
    let mut owned = object.clone();
    for field in ["apiVersion", "kind"] {
        owned.cut(field);
    }
    if let Some(metadata) = owned.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !SERVER_METADATA.contains(&name.as_str()));
        if metadata.is_empty() {
            owned.cut("metadata");
        }
    }
    let mut set = Set::new();
    if owned.as_object().is_some_and(|fields| !fields.is_empty()) {
        collect(&schema::of_kind(kind), &owned, &mut Path::new(), &mut set);
    }
    set
}

fn collect(shape: &Shape, value: &Value, path: &mut Path, set: &mut Set) {
    let children: Vec<(String, Shape, &Value)> = children(shape, value);
    if children.is_empty() {
        set.insert(path.clone());
        return;
    }
    for (element, shape, child) in children {
        path.push(element);
        if path.last().is_some_and(|element| element.starts_with("k:")) {
            set.insert(path.clone());
        }
        collect(&shape, child, path, set);
        path.pop();
    }
}

/// The addressable parts of a value; none for leaves.
fn children<'a>(shape: &Shape, value: &'a Value) -> Vec<(String, Shape, &'a Value)> {
    match (shape, value) {
        (Shape::Struct(owner), Value::Object(fields)) => fields
            .iter()
            .map(|(name, child)| {
                let shape = schema::field(owner, name).cloned().unwrap_or(Shape::Any);
                (format!("f:{name}"), shape, child)
            })
            .collect(),
        (Shape::Map { values, atomic: false }, Value::Object(fields)) => fields
            .iter()
            .map(|(name, child)| (format!("f:{name}"), Shape::clone(values), child))
            .collect(),
        (Shape::List { items, merge: Merge::ByKeys(keys) }, Value::Array(list)) => {
            list.iter().map(|item| (key_element(keys, item), Shape::clone(items), item)).collect()
        }
        (Shape::List { items, merge: Merge::Set }, Value::Array(list)) => {
            list.iter().map(|item| (format!("v:{item}"), Shape::clone(items), item)).collect()
        }
        _ => Vec::new(),
    }
}

fn key_element(keys: &[String], item: &Value) -> String {
    let mut id: Map<String, Value> = Map::new();
    for key in keys {
        let default = if key == "protocol" { Value::from("TCP") } else { Value::Null };
        let value = item.get(key).cloned().unwrap_or(default);
        if !value.is_null() {
            id.insert(key.clone(), value);
        }
    }
    format!("k:{}", Value::Object(id))
}

/// The value at a path, if it is there.
pub(crate) fn get<'a>(kind: &str, object: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut shape = schema::of_kind(kind);
    let mut value = object;
    for element in path {
        let (_, child_shape, child) =
            children(&shape, value).into_iter().find(|(name, _, _)| name == element)?;
        (shape, value) = (child_shape, child);
    }
    Some(value)
}

/// Removes the value at a path; containers that become empty stay.
pub(crate) fn remove(kind: &str, object: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut shape = schema::of_kind(kind);
    let mut value = object;
    for element in parents {
        let found = children(&shape, value).into_iter().position(|(name, _, _)| name == *element);
        let Some(position) = found else { return };
        shape = children(&shape, value).swap_remove(position).1;
        let Some(child) = child_mut(value, element, position) else { return };
        value = child;
    }
    let Some(position) = children(&shape, value).iter().position(|(name, _, _)| name == last)
    else {
        return;
    };
    match value {
        Value::Object(fields) => drop(fields.remove(&last[2..])),
        Value::Array(items) => drop(items.remove(position)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn child_mut<'a>(value: &'a mut Value, element: &str, position: usize) -> Option<&'a mut Value> {
    match value {
        Value::Object(fields) => fields.get_mut(&element[2..]),
        Value::Array(items) => items.get_mut(position),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Lays a configuration over a value of the same shape: fields are replaced, maps and keyed lists are merged.
pub(crate) fn overlay(shape: &Shape, target: &mut Value, config: &Value) {
    match (shape, config) {
        (Shape::Struct(_) | Shape::Map { atomic: false, .. }, Value::Object(fields)) => {
            let target = crate::json::object(target);
            for (name, child) in fields {
                let shape = match shape {
                    Shape::Struct(owner) => {
                        schema::field(owner, name).cloned().unwrap_or(Shape::Any)
                    }
                    Shape::Map { values, .. } => Shape::clone(values),
                    _ => Shape::Any,
                };
                overlay(&shape, target.entry(name).or_insert(Value::Null), child);
            }
        }
        (Shape::List { items, merge }, Value::Array(list)) if *merge != Merge::Atomic => {
            if !target.is_array() {
                *target = Value::Array(Vec::new());
            }
            for item in list {
                let id = |item: &Value| match merge {
                    Merge::ByKeys(keys) => key_element(keys, item),
                    Merge::Atomic | Merge::Set => item.to_string(),
                };
                let existing = target.as_array_mut().expect("the target was just made a list");
                match existing.iter_mut().find(|one| id(one) == id(item)) {
                    Some(one) => overlay(items, one, item),
                    None => existing.push(item.clone()),
                }
            }
        }
        _ => *target = config.clone(),
    }
}

/// Writes a set as `fieldsV1`.
pub(crate) fn to_fields_v1(set: &Set) -> Value {
    let mut fields = Value::Object(Map::new());
    for path in set {
        let mut at = &mut fields;
        for element in path {
            at = crate::json::object(at)
                .entry(element.clone())
                .or_insert_with(|| Value::Object(Map::new()));
        }
        let is_entry = path.last().is_some_and(|element| element.starts_with("k:"));
        if is_entry {
            crate::json::object(at).insert(".".to_owned(), Value::Object(Map::new()));
        }
    }
    fields
}

/// Reads `fieldsV1`.
pub(crate) fn from_fields_v1(fields: &Value) -> Set {
    fn walk(fields: &Value, path: &mut Path, set: &mut Set) {
        let entries = fields.as_object();
        if entries.is_none_or(Map::is_empty) {
            set.insert(path.clone());
        }
        for (element, child) in entries.into_iter().flatten() {
            if element == "." {
                set.insert(path.clone());
            } else {
                path.push(element.clone());
                walk(child, path, set);
                path.pop();
            }
        }
    }
    let mut set = Set::new();
    if fields.as_object().is_some_and(|entries| !entries.is_empty()) {
        walk(fields, &mut Path::new(), &mut set);
    }
    set
}

/// `.spec.template.spec.containers[name="c"].image`, as conflicts name fields.
pub(crate) fn display(path: &[String]) -> String {
    let mut text = String::new();
    for element in path {
        let (kind, rest) = element.split_at(2);
        match kind {
            "f:" => text.push_str(&format!(".{rest}")),
            "k:" => {
                let keys: Value = serde_json::from_str(rest).unwrap_or_default();
                let parts: Vec<String> = keys
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                text.push_str(&format!("[{}]", parts.join(",")));
            }
            _ => text.push_str(&format!("[={rest}]")),
        }
    }
    text
}
