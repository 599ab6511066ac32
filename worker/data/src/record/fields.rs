//! A record's fields, accessed by the format's names.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Reject, json, kind, malformed};

/// The number of names that an error lists.
const NAMES_SHOWN: usize = 8;

/// A record whose fields are taken one by one; those that a format does not ask for are left.
pub(super) struct Fields<'a> {
    names: &'a BTreeMap<String, String>,
    record: Map<String, Value>,
    /// The names of the fields that were taken.
    taken: Vec<String>,
}

impl<'a> Fields<'a> {
    /// `names` gives the record's own names by the format's.
    pub(super) fn new(names: &'a BTreeMap<String, String>, mut record: Map<String, Value>) -> Self {
        lift(&mut record, names);
        Fields { names, record, taken: Vec::new() }
    }

    /// The record's name for a field.
    pub(super) fn own<'n>(&'n self, name: &'n str) -> &'n str {
        self.names.get(name).map_or(name, String::as_str)
    }

    /// Whether the record has a field, even if it is null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.record.contains_key(self.own(name))
    }

    pub(super) fn is_list(&self, name: &str) -> bool {
        self.record.get(self.own(name)).is_some_and(|value| match value {
            Value::Array(_) => true,
            Value::Object(columns) => is_of_columns(columns, self.names),
            _ => false,
        })
    }

    /// The error for a missing field, which lists the fields that exist.
    pub(super) fn missing(&self, name: &str) -> Reject {
        let own = self.own(name);
        let all = self.taken.iter().chain(self.record.keys());
        let mut found: Vec<String> =
            all.clone().take(NAMES_SHOWN).map(|k| format!("`{k}`")).collect();
        if all.count() > NAMES_SHOWN {
            found.push("more".into());
        }
        match found.is_empty() {
            true => malformed(format!("no field `{own}`")),
            false => malformed(format!("no field `{own}` among {}", found.join(", "))),
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<String, Reject> {
        self.optional_text(name)?.ok_or_else(|| self.missing(name))
    }

    pub(super) fn optional_text(&mut self, name: &str) -> Result<Option<String>, Reject> {
        match self.take(name) {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            other => Err(self.mismatch(name, "a text", &other)),
        }
    }

    /// A list, or a text that contains one as JSON, as in tables that have no type for it. A list
    /// of objects may also be an object of lists, as `datasets` stores a `Sequence`.
    pub(super) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, Reject> {
        match self.decoded(name)? {
            Value::Null => Ok(None),
            Value::Array(list) => Ok(Some(list)),
            Value::Object(columns) if is_of_columns(&columns, self.names) => {
                Ok(Some(rows(columns)))
            }
            other => Err(self.mismatch(name, "a list", &other)),
        }
    }

    /// An object, or a text that contains one as JSON.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Reject> {
        match self.decoded(name)? {
            Value::Null => Ok(None),
            Value::Object(object) => Ok(Some(object)),
            other => Err(self.mismatch(name, "an object", &other)),
        }
    }

    fn decoded(&mut self, name: &str) -> Result<Value, Reject> {
        match self.take(name) {
            Value::String(text) if text.trim().is_empty() => Ok(Value::Null),
            Value::String(text) => json::parse(text.as_bytes()).map_err(|error| {
                malformed(format!("`{}` is a text that is not JSON: {error}", self.own(name)))
            }),
            other => Ok(other),
        }
    }

    fn take(&mut self, name: &str) -> Value {
        let own = self.names.get(name).map_or(name, String::as_str);
        let Some((name, value)) = self.record.shift_remove_entry(own) else {
            return Value::Null;
        };
        self.taken.push(name);
        value
    }

    /// Marks a field as taken, because it says nothing new.
    pub(super) fn forget(&mut self, name: &str) {
        self.take(name);
    }

    /// The first of several synonymous names whose field has content.
    pub(super) fn first_of<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        let is_said = |name: &&&str| self.record.get(self.own(name)).is_some_and(says_something);
        names.iter().find(is_said).copied()
    }

    /// The names of the fields that have content and were not asked for.
    pub(super) fn unread(&self) -> Vec<String> {
        let said = self.record.iter().filter(|(_, value)| says_something(value));
        said.map(|(name, _)| name.clone()).collect()
    }

    fn mismatch(&self, name: &str, wanted: &str, found: &Value) -> Reject {
        malformed(format!("`{}` must be {wanted}, got {}", self.own(name), kind(found)))
    }
}

/// Moves a value that is named by a path, as in `{messages: data.messages}`, to the top level, with
/// the path as its name.
pub(crate) fn lift(record: &mut Map<String, Value>, names: &BTreeMap<String, String>) {
    for path in names.values().filter(|path| path.contains('.')) {
        if record.contains_key(path) {
            continue;
        }
        let mut parts: Vec<&str> = path.split('.').collect();
        let last = parts.pop().unwrap_or_default();
        let mut above = Some(&mut *record);
        for part in parts {
            above = above.and_then(|fields| fields.get_mut(part)?.as_object_mut());
        }
        if let Some(value) = above.and_then(|fields| fields.shift_remove(last)) {
            record.insert(path.clone(), value);
        }
    }
}

/// Whether all fields are lists of one length, and one of them holds the speakers of messages.
pub(crate) fn is_of_columns(
    columns: &Map<String, Value>,
    names: &BTreeMap<String, String>,
) -> bool {
    let mut lengths = columns.values().map(|column| column.as_array().map(Vec::len));
    let first = lengths.next().flatten();
    let own = |name: &str| names.get(name).map_or_else(|| name.to_owned(), String::clone);
    let speaks = ["role", "from"].iter().any(|name| columns.contains_key(&own(name)));
    speaks && first.is_some() && lengths.all(|length| length == first)
}

/// Turns lists of fields into objects. A null stands for a field that the object lacks.
fn rows(columns: Map<String, Value>) -> Vec<Value> {
    let mut rows: Vec<Map<String, Value>> = Vec::new();
    for (name, column) in columns {
        let Value::Array(column) = column else { continue };
        rows.resize_with(column.len(), Map::new);
        for (row, value) in rows.iter_mut().zip(column).filter(|(_, value)| !value.is_null()) {
            row.insert(name.clone(), value);
        }
    }
    rows.into_iter().map(Value::Object).collect()
}

/// Whether a value has any content.
pub(crate) fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => items.iter().any(says_something),
        Value::Object(fields) => fields.values().any(says_something),
    }
}
