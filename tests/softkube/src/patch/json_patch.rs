//! RFC 6902.

use serde_json::Value;

use crate::error::ApiError;

/// Applies the operations in order; none takes effect when one fails.
pub(super) fn apply(mut object: Value, patch: &Value) -> Result<Value, ApiError> {
    let operations = patch.as_array().ok_or_else(|| {
        ApiError::bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    })?;
    for operation in operations {
        run(&mut object, operation).map_err(|_| {
            ApiError::new(
                422,
                "Invalid",
                "the server rejected our request due to an error in our request",
            )
        })?;
    }
    Ok(object)
}

/// A path that does not exist, a test that fails, or an operation that is not one.
struct Failed;

fn run(object: &mut Value, operation: &Value) -> Result<(), Failed> {
    let text = |field: &str| operation.get(field).and_then(Value::as_str).ok_or(Failed);
    let value = || operation.get("value").cloned().ok_or(Failed);
    let path = text("path")?;
    match text("op")? {
        "add" => add(object, path, value()?),
        "remove" => remove(object, path).map(drop),
        "replace" => {
            *object.pointer_mut(path).ok_or(Failed)? = value()?;
            Ok(())
        }
        "move" => {
            let moved = remove(object, text("from")?)?;
            add(object, path, moved)
        }
        "copy" => {
            let copied = object.pointer(text("from")?).cloned().ok_or(Failed)?;
            add(object, path, copied)
        }
        "test" => {
            let found = object.pointer(path).unwrap_or(&Value::Null);
            if *found == value()? { Ok(()) } else { Err(Failed) }
        }
        _ => Err(Failed),
    }
}

fn split(path: &str) -> Result<(&str, String), Failed> {
    let (parent, last) = path.rsplit_once('/').ok_or(Failed)?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), Failed> {
    if path.is_empty() {
        *object = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    match object.pointer_mut(parent).ok_or(Failed)? {
        Value::Object(fields) => {
            fields.insert(last, value);
            Ok(())
        }
        Value::Array(items) => {
            let index = if last == "-" { items.len() } else { last.parse().map_err(|_| Failed)? };
            if index > items.len() {
                return Err(Failed);
            }
            items.insert(index, value);
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(Failed),
    }
}

fn remove(object: &mut Value, path: &str) -> Result<Value, Failed> {
    let (parent, last) = split(path)?;
    match object.pointer_mut(parent).ok_or(Failed)? {
        Value::Object(fields) => fields.remove(&last).ok_or(Failed),
        Value::Array(items) => {
            let index: usize = last.parse().map_err(|_| Failed)?;
            if index < items.len() { Ok(items.remove(index)) } else { Err(Failed) }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(Failed),
    }
}
