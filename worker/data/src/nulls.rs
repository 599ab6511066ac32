//! Finds nulls in tools and calls. A table has one type for all of its rows, so `datasets` gives
//! every tool and every call the keys of all others, as nulls: `{"city": "Rome", "zone": null}`.
//! Templates write these nulls, and models learn to write them.

use serde_json::Value;

use super::conversation::Conversation;

/// Describes the first null, with a hint.
pub(super) fn found(conversation: &Conversation) -> Option<String> {
    let tools = conversation.tools.as_ref().and_then(path);
    let calls = || {
        conversation.messages.iter().zip(1..).find_map(|(message, number)| {
            let path = path(message.fields.get("tool_calls")?)?;
            Some(format!("`tool_calls{path}` of message {number}"))
        })
    };
    let place = tools.map(|path| format!("`tools{path}`")).or_else(calls)?;
    Some(format!(
        "{place} is null: `datasets` writes null for keys that only other rows have, and the chat \
         template may print it\n\
         hint: store tools, and the arguments of calls, as JSON text"
    ))
}

/// The path to a value's first null under a key, to be appended to the value's name. A schema's
/// `default` may legitimately be null.
fn path(value: &Value) -> Option<String> {
    match value {
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(i, item)| Some(format!("[{i}]{}", path(item)?)))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, field)| match field {
            Value::Null if name == "default" => None,
            Value::Null => Some(format!(".{name}")),
            field => Some(format!(".{name}{}", path(field)?)),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
