//! `managedFields`: who set which field, and server-side apply.
//!
//! Simplified against Kubernetes: sets are kept in one API version, and defaulted fields of created objects belong to
//! the creator.

use serde_json::{Value, json};

use crate::clock::Time;
use crate::error::ApiError;
use crate::fieldset::{self, Set};
use crate::json::Json;
use crate::kinds::Kind;
use crate::schema;

/// Who writes, how, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) now: Time,
}

struct Entry {
    manager: String,
    operation: String,
    subresource: String,
    time: Value,
    fields: Set,
}

fn read(object: &Value) -> Vec<Entry> {
    let entry = |entry: &Value| Entry {
        manager: entry.str("manager").to_owned(),
        operation: entry.str("operation").to_owned(),
        subresource: entry.str("subresource").to_owned(),
        time: entry.at("time").clone(),
        fields: fieldset::from_fields_v1(entry.at("fieldsV1")),
    };
    object.list("metadata.managedFields").iter().map(entry).collect()
}

fn write(kind: &Kind, object: &mut Value, entries: Vec<Entry>) {
    let encode = |entry: Entry| {
        let mut encoded = json!({
            "manager": entry.manager, "operation": entry.operation, "apiVersion": kind.api_version(),
            "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": fieldset::to_fields_v1(&entry.fields),
        });
        if !entry.subresource.is_empty() {
            encoded.put("subresource", entry.subresource);
        }
        encoded
    };
    let encoded: Vec<Value> =
        entries.into_iter().filter(|entry| !entry.fields.is_empty()).map(encode).collect();
    if encoded.is_empty() {
        object.cut("metadata.managedFields");
    } else {
        object.put("metadata.managedFields", encoded);
    }
}

/// Records that a writer changed `old` (null for a creation) into `new`, whose `managedFields` are those of `old`.
pub(crate) fn track_update(kind: &Kind, old: &Value, new: &mut Value, writer: Writer<'_>) {
    let before = fieldset::of_object(kind.kind, old);
    let after = fieldset::of_object(kind.kind, new);
    let differs = |path: &&Vec<String>| {
        fieldset::get(kind.kind, old, path) != fieldset::get(kind.kind, new, path)
    };
    let is_entry =
        |path: &Vec<String>| path.last().is_some_and(|element| element.starts_with("k:"));
    let changed: Set = after
        .iter()
        .filter(|path| !before.contains(*path) || (!is_entry(path) && differs(path)))
        .cloned()
        .collect();
    let removed: Set = before.difference(&after).cloned().collect();
    let mut entries = read(new);
    let mine = |entry: &Entry| {
        entry.manager == writer.manager
            && entry.operation == "Update"
            && entry.subresource == writer.subresource
    };
    for entry in &mut entries {
        let keeps_changed = mine(entry);
        entry
            .fields
            .retain(|path| !removed.contains(path) && (keeps_changed || !changed.contains(path)));
    }
    if !changed.is_empty() {
        let time = Value::from(writer.now.rfc3339());
        match entries.iter_mut().find(|entry| mine(entry)) {
            Some(entry) => {
                entry.fields.extend(changed);
                entry.time = time;
            }
            None => entries.push(Entry {
                manager: writer.manager.to_owned(),
                operation: "Update".to_owned(),
                subresource: writer.subresource.to_owned(),
                time,
                fields: changed,
            }),
        }
    }
    write(kind, new, entries);
}

/// What server-side apply makes of a live object.
///
/// # Errors
/// 409 with one cause for each field that another manager owns with a different value, unless `force` is set.
pub(crate) fn apply(
    kind: &Kind,
    live: &Value,
    config: &Value,
    force: bool,
    writer: Writer<'_>,
) -> Result<Value, ApiError> {
    let wanted = fieldset::of_object(kind.kind, config);
    let mut entries = read(live);
    let is_mine = |entry: &Entry| {
        entry.manager == writer.manager
            && entry.operation == "Apply"
            && entry.subresource == writer.subresource
    };
    let differs = |path: &Vec<String>| {
        fieldset::get(kind.kind, live, path) != fieldset::get(kind.kind, config, path)
    };
    let is_entry =
        |path: &Vec<String>| path.last().is_some_and(|element| element.starts_with("k:"));
    let contested: Set =
        wanted.iter().filter(|path| !is_entry(path) && differs(path)).cloned().collect();
    let mut conflicts = Vec::new();
    for entry in entries.iter().filter(|entry| !is_mine(entry)) {
        conflicts.extend(
            entry.fields.intersection(&contested).map(|path| (owner(entry, kind), path.clone())),
        );
    }
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    let mut applied = live.clone();
    fieldset::overlay(&schema::of_kind(kind.kind), &mut applied, config);
    applied.put("metadata.managedFields", live.at("metadata.managedFields").clone());
    let previous = entries
        .iter()
        .find(|entry| is_mine(entry))
        .map(|entry| entry.fields.clone())
        .unwrap_or_default();
    for entry in entries.iter_mut().filter(|entry| !is_mine(entry)) {
        entry.fields.retain(|path| !contested.contains(path));
    }
    let abandoned = previous.difference(&wanted);
    let kept = |path: &&Vec<String>| {
        entries.iter().any(|entry| !is_mine(entry) && entry.fields.contains(*path))
    };
    for path in abandoned.filter(|path| !kept(path)) {
        fieldset::remove(kind.kind, &mut applied, path);
    }
    entries.retain(|entry| !is_mine(entry));
    entries.push(Entry {
        manager: writer.manager.to_owned(),
        operation: "Apply".to_owned(),
        subresource: writer.subresource.to_owned(),
        time: writer.now.rfc3339().into(),
        fields: wanted,
    });
    write(kind, &mut applied, entries);
    Ok(applied)
}

fn owner(entry: &Entry, kind: &Kind) -> String {
    let subresource = if entry.subresource.is_empty() {
        String::new()
    } else {
        format!(" with subresource \"{}\"", entry.subresource)
    };
    let using = if entry.operation == "Apply" {
        String::new()
    } else {
        format!(" using {}", kind.api_version())
    };
    format!("conflict with \"{}\"{subresource}{using}", entry.manager)
}

fn conflict(conflicts: &[(String, Vec<String>)]) -> ApiError {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(owner, path)| {
            json!({"reason": "FieldManagerConflict", "message": owner, "field": fieldset::display(path)})
        })
        .collect();
    let summary = match conflicts {
        [(owner, path)] => format!("1 conflict: {owner}: {}", fieldset::display(path)),
        _ => {
            let lines: Vec<String> = conflicts
                .iter()
                .map(|(owner, path)| format!("{owner}: {}", fieldset::display(path)))
                .collect();
            format!("{} conflicts: {}", conflicts.len(), lines.join("\n"))
        }
    };
    let mut error = ApiError::new(409, "Conflict", format!("Apply failed with {summary}"));
    error.details = json!({"causes": causes}).into();
    error
}
