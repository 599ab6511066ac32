//! Tools, and calls to them.
//!
//! Chat templates are written for typed tools, and for calls whose arguments are an *object*:
//! `transformers` documents both, and vLLM gives templates the same when it serves. Data sets often
//! hold arguments as a JSON text, as OpenAI's interface sends them. A template would quote such a
//! text once more, so it is parsed.

use serde_json::{Map, Value, json};

use super::{Reject, json as exact, kind, malformed};

/// A record's tools in the form that templates get; none if the list is empty.
pub(super) fn listed(tools: Option<Vec<Value>>) -> Result<Option<Value>, Reject> {
    let Some(tools) = tools.filter(|tools| !tools.is_empty()) else {
        return Ok(None);
    };
    match tools.iter().position(|tool| !tool.is_object()) {
        Some(i) => Err(malformed(format!("tools[{i}] must be an object, got {}", kind(&tools[i])))),
        None => Ok(Some(Value::Array(tools))),
    }
}

/// Wraps bare functions as tools of the type `function`.
pub(super) fn typed(tools: Vec<Value>) -> Vec<Value> {
    let is_bare = |tool: &Value| tool.get("name").is_some() && tool.get("function").is_none();
    let typed = |tool: Value| match is_bare(&tool) {
        true => json!({"type": "function", "function": tool}),
        false => tool,
    };
    tools.into_iter().map(typed).collect()
}

/// Turns ShareGPT's `function_call`, whose text is one call or a list of calls, into `tool_calls`.
pub(super) fn call_from_content(fields: &mut Map<String, Value>, at: &str) -> Result<(), Reject> {
    let Some(Value::String(text)) = fields.get("content") else {
        let found = fields.get("content").map_or("nothing", kind);
        return Err(malformed(format!("{at} must be a call as a text, got {found}")));
    };
    let calls = match exact::parse(text.as_bytes()) {
        Ok(Value::Array(calls)) => calls,
        Ok(call @ Value::Object(_)) => vec![call],
        Ok(other) => return Err(malformed(format!("{at} must be a call, got {}", kind(&other)))),
        Err(error) => return Err(malformed(format!("{at} is not a call as JSON: {error}"))),
    };
    if let Some(call) = calls.iter().find(|call| !call.get("name").is_some_and(Value::is_string)) {
        return Err(malformed(format!("{at}: the call {call} has no `name`")));
    }
    fields.insert("content".into(), Value::from(""));
    fields.insert("tool_calls".into(), Value::Array(typed(calls)));
    Ok(())
}

/// Makes `tool_calls` a list of calls whose arguments are objects; the older `function_call`
/// becomes one of them.
pub(super) fn settle_calls(fields: &mut Map<String, Value>, at: &str) -> Result<(), Reject> {
    if let Some(call) = fields.shift_remove("function_call").filter(|call| !call.is_null()) {
        if fields.get("tool_calls").is_some_and(|calls| !calls.is_null()) {
            return Err(malformed(format!("{at} has both `function_call` and `tool_calls`")));
        }
        fields.insert("tool_calls".into(), Value::Array(typed(vec![call])));
    }
    let Some(calls) = fields.get_mut("tool_calls").filter(|calls| !calls.is_null()) else {
        return Ok(());
    };
    let at = format!("{at}.tool_calls");
    parse_text(calls, &at)?;
    let Value::Array(calls) = calls else {
        return Err(malformed(format!("{at} must be a list of calls, got {}", kind(calls))));
    };
    calls.iter_mut().enumerate().try_for_each(|(i, call)| settle_call(call, &format!("{at}[{i}]")))
}

fn settle_call(call: &mut Value, at: &str) -> Result<(), Reject> {
    let bare = call.get("function").is_none();
    let function = if bare { Some(call) } else { call.get_mut("function") };
    let Some(Value::Object(function)) = function else {
        return Err(malformed(format!("{at} must be a call: an object with a `function`")));
    };
    let Some(arguments) = function.get_mut("arguments") else {
        return Ok(());
    };
    let at = format!("{at}: `arguments`");
    // An empty text is a call without arguments, as some interfaces write it.
    if arguments.as_str().is_some_and(|text| text.trim().is_empty()) {
        *arguments = json!({});
    }
    parse_text(arguments, &at)?;
    match arguments {
        Value::Object(_) | Value::Null => Ok(()),
        other => Err(malformed(format!("{at} must be an object, got {}", kind(other)))),
    }
}

/// Replaces a text by the JSON value in it.
fn parse_text(value: &mut Value, at: &str) -> Result<(), Reject> {
    if let Value::String(text) = value {
        let parsed = exact::parse(text.as_bytes());
        *value = parsed
            .map_err(|error| malformed(format!("{at} is a text that is not JSON: {error}")))?;
    }
    Ok(())
}
