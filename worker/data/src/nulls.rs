//! Nulls in tools and calls. A table has one type for all of its rows, so that `datasets` gives every tool and every
//! call the keys of all others, as nulls: `{"city": "Rome", "zone": null}`. Templates write them, and models learn to.

use serde_json::Value;

use super::conversation::Conversation;

/// The first null, in a sentence with the way out.
pub(super) fn found(conversation: &Conversation) -> Option<String> {
    let tools = conversation.tools.as_ref().and_then(|tools| path(tools, "tools".into()));
    let calls = || {
        conversation.messages.iter().enumerate().find_map(|(i, message)| {
            let path = path(message.fields.get("tool_calls")?, "tool_calls".into())?;
            Some(format!("`{path}` of message {}", i + 1))
        })
    };
    let place = tools.map(|path| format!("`{path}`")).or_else(calls)?;
    Some(format!(
        "{place} is null: `datasets` writes null for keys that only other rows have, and the chat \
         template may print it\n\
         hint: store tools, and the arguments of calls, as JSON texts"
    ))
}

/// Where a value has its first null under a key. A schema's `default` may well be one.
fn path(value: &Value, at: String) -> Option<String> {
    match value {
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(i, item)| path(item, format!("{at}[{i}]")))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, field)| match field {
            Value::Null if name == "default" => None,
            Value::Null => Some(format!("{at}.{name}")),
            field => path(field, format!("{at}.{name}")),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
