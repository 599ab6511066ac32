//! Reading and writing JSON objects by dotted path.
//!
//! Paths are made of field names only. Map keys that may hold dots (labels, annotations, resources) are looked up on
//! the map itself.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// Path access on a JSON value.
pub(crate) trait Json {
    /// The value at `path`, or null.
    fn at(&self, path: &str) -> &Value;
    /// Whether a value other than null is at `path`.
    fn has(&self, path: &str) -> bool;
    /// The string at `path`.
    fn text(&self, path: &str) -> Option<&str>;
    /// The string at `path`, empty when absent.
    fn str(&self, path: &str) -> &str;
    /// The integer at `path`.
    fn int(&self, path: &str) -> Option<i64>;
    /// The boolean at `path`, false when absent.
    fn flag(&self, path: &str) -> bool;
    /// The list at `path`, empty when absent.
    fn list(&self, path: &str) -> &[Value];
    /// The entries of the map at `path`.
    fn entries(&self, path: &str) -> impl Iterator<Item = (&String, &Value)>;
    /// The string under `key` in the map at `path`; the key may hold dots.
    fn entry(&self, path: &str, key: &str) -> Option<&str>;
    /// Sets the value at `path`, making the objects on the way.
    fn put(&mut self, path: &str, value: impl Into<Value>);
    /// Sets the value at `path` unless one is there.
    fn put_default(&mut self, path: &str, value: impl Into<Value>);
    /// Sets `key` in the map at `path`; the key may hold dots.
    fn put_entry(&mut self, path: &str, key: &str, value: impl Into<Value>);
    /// Removes and returns the value at `path`.
    fn cut(&mut self, path: &str) -> Option<Value>;
    /// The value at `path`, made as null when absent.
    fn slot(&mut self, path: &str) -> &mut Value;
    /// The list at `path`, made when absent.
    fn list_mut(&mut self, path: &str) -> &mut Vec<Value>;
}

impl Json for Value {
    fn at(&self, path: &str) -> &Value {
        path.split('.').try_fold(self, |value, field| value.get(field)).unwrap_or(&NULL)
    }

    fn has(&self, path: &str) -> bool {
        !self.at(path).is_null()
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.at(path).as_str()
    }

    fn str(&self, path: &str) -> &str {
        self.text(path).unwrap_or_default()
    }

    fn int(&self, path: &str) -> Option<i64> {
        self.at(path).as_i64()
    }

    fn flag(&self, path: &str) -> bool {
        self.at(path).as_bool().unwrap_or(false)
    }

    fn list(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map_or(&[], Vec::as_slice)
    }

    fn entries(&self, path: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.at(path).as_object().into_iter().flatten()
    }

    fn entry(&self, path: &str, key: &str) -> Option<&str> {
        self.at(path).get(key)?.as_str()
    }

    fn put(&mut self, path: &str, value: impl Into<Value>) {
        *self.slot(path) = value.into();
    }

    fn put_default(&mut self, path: &str, value: impl Into<Value>) {
        let slot = self.slot(path);
        if slot.is_null() {
            *slot = value.into();
        }
    }

    fn put_entry(&mut self, path: &str, key: &str, value: impl Into<Value>) {
        object(self.slot(path)).insert(key.to_owned(), value.into());
    }

    fn cut(&mut self, path: &str) -> Option<Value> {
        let (parent, field) = match path.rsplit_once('.') {
            Some((parent, field)) => {
                (self.pointer_mut(&format!("/{}", parent.replace('.', "/")))?, field)
            }
            None => (self, path),
        };
        parent.as_object_mut()?.remove(field)
    }

    fn slot(&mut self, path: &str) -> &mut Value {
        path.split('.').fold(self, |value, field| object(value).entry(field).or_insert(Value::Null))
    }

    fn list_mut(&mut self, path: &str) -> &mut Vec<Value> {
        let slot = self.slot(path);
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        slot.as_array_mut().expect("the slot was just made a list")
    }
}

/// The value as an object; anything else is replaced by an empty one.
pub(crate) fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("the value was just made an object")
}

/// Removes what Kubernetes omits when it encodes an object: nulls, and empty lists and maps of the metadata.
pub(crate) fn omit_empty(object: &mut Value) {
    drop_nulls(object);
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, field| {
            let empty_list = field.as_array().is_some_and(Vec::is_empty);
            let empty_map = field.as_object().is_some_and(Map::is_empty);
            !empty_list && !empty_map
        });
    }
}

/// Removes nulls.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, child| !child.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_read_and_write_nested_fields() {
        let mut value = json!({"spec": {"replicas": 2}});
        value.put("spec.template.name", "a");
        value.put_entry("metadata.labels", "a.b/c", "d");
        value.put_default("spec.replicas", 5);
        assert_eq!(value.int("spec.replicas"), Some(2));
        assert_eq!(value.entry("metadata.labels", "a.b/c"), Some("d"));
        assert_eq!(value.cut("spec.template.name"), Some(json!("a")));
        assert!(!value.has("spec.template.name"));
        assert_eq!(value.list("spec.none"), &[] as &[Value]);
    }
}
