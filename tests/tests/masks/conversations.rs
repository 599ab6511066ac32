//! Conversations with which templates have difficulties.

use serde_json::{Value, json};

/// All records, each with `messages` and, if there are calls, `tools`.
pub(crate) fn all() -> Vec<Value> {
    let many: Vec<String> = (0..14).map(|i| format!("turn {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    // Joined emoji, CJK, right-to-left with its marks, zero width, a combining accent, letters
    // beyond the basic plane, which byte-level tokenizers spell in bytes, and a NUL.
    let script = "\u{1f468}\u{200d}\u{1f469} 日本語 \u{202e}עברית\u{202c} العربية \u{200b}\u{feff} \
                  e\u{301} \u{1d54f} \u{10348} \u{0}";
    let spaces = "\n\n \t  leading and trailing \u{a0}\u{3000}\u{1f}\u{85} \r\n\n";
    let syntax = "{{ x }} {% if %} {# # #} \\n ' \" </s> <|im_end|> `[INST]` &lt;&amp;";
    let conversations = [
        turns(&["Hi", "Hello"]),
        turns(&["Hi"]),
        with_system(turns(&["Hi", "Hello"])),
        with_system(turns(&["1", "2", "3", "4", "5"])),
        turns(&many),
        turns(&[script, script, script, script]),
        with_system(turns(&[script, script])),
        turns(&[spaces, spaces, spaces, spaces]),
        turns(&["", "", "a", ""]),
        with_system(turns(&[syntax, syntax])),
        turns(&["a", "<think>\nhm\n</think>\n\nb"]),
        turns(&["a", "<think>\nhm\n</think>\n\nb", "c", "<think>\n\n</think>\n\nd"]),
        turns(&["a", "b\nc", "d\n", "\ne"]),
        thinking(1),
        thinking(2),
        tools(""),
        with_system(tools("One moment.")),
        several_calls(),
        thinking_between_calls(),
    ];
    conversations.into_iter().map(record).collect()
}

/// The same record with each text as a list of parts, as templates of vision models expect.
pub(crate) fn in_parts(record: &Value) -> Value {
    let mut record = record.clone();
    for message in record["messages"].as_array_mut().into_iter().flatten() {
        if let Some(text) = message["content"].as_str() {
            message["content"] = json!([{"type": "text", "text": text}]);
        }
    }
    record
}

/// The same record with the arguments of calls as text, for a template that concatenates them.
pub(crate) fn calls_as_texts(record: &Value) -> Value {
    let mut record = record.clone();
    for message in record["messages"].as_array_mut().into_iter().flatten() {
        for call in message["tool_calls"].as_array_mut().into_iter().flatten() {
            let arguments = &mut call["function"]["arguments"];
            *arguments = Value::String(arguments.to_string());
        }
    }
    record
}

/// Returns the record unchanged.
pub(crate) fn as_it_is(record: &Value) -> Value {
    record.clone()
}

fn turns(contents: &[&str]) -> Vec<Value> {
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages = roles.zip(contents);
    messages.map(|(role, content)| json!({"role": role, "content": content})).collect()
}

fn with_system(mut rest: Vec<Value>) -> Vec<Value> {
    rest.insert(0, json!({"role": "system", "content": "  Be brief.\n"}));
    rest
}

fn record(messages: Vec<Value>) -> Value {
    let calls = messages.iter().any(|message| message.get("tool_calls").is_some());
    match calls {
        true => json!({"messages": messages, "tools": [weather()]}),
        false => json!({"messages": messages}),
    }
}

fn thinking(turns: usize) -> Vec<Value> {
    let turn = |i: usize| {
        let answer = json!({"role": "assistant", "content": format!("{i}"),
                            "reasoning_content": "hm\n"});
        [json!({"role": "user", "content": "a"}), answer]
    };
    (1..=turns).flat_map(turn).collect()
}

fn weather() -> Value {
    let city = json!({"type": "string", "description": "A \"city\", also 日本"});
    let days = json!({"type": "integer", "default": 1, "enum": [1, 2]});
    let properties = json!({"city": city, "days": days});
    let parameters = json!({"type": "object", "required": ["city"], "properties": properties});
    let function =
        json!({"name": "weather", "description": "It's the weather", "parameters": parameters});
    json!({"type": "function", "function": function})
}

fn call(id: u8, arguments: Value) -> Value {
    let function = json!({"name": "weather", "arguments": arguments});
    json!({"id": format!("call0000{id}"), "type": "function", "function": function})
}

fn result(id: u8, content: &str) -> Value {
    json!({"role": "tool", "tool_call_id": format!("call0000{id}"), "name": "weather",
           "content": content})
}

/// A call with arguments of every JSON type, its result, and the answer.
fn tools(before_the_call: &str) -> Vec<Value> {
    let arguments = json!({"city": "Zürich \"<&>'\u{1}", "days": 3, "share": 0.5,
                           "big": 1e22, "tiny": 1e-7, "whole": 2.0, "on": true, "off": false,
                           "none": null, "list": [1, [], {}]});
    let calls = json!([call(1, arguments)]);
    vec![
        json!({"role": "user", "content": "Weather?"}),
        json!({"role": "assistant", "content": before_the_call, "tool_calls": calls}),
        result(1, "rain"),
        json!({"role": "assistant", "content": "Rain."}),
    ]
}

/// Two calls at once, then one more, and the user asks again.
fn several_calls() -> Vec<Value> {
    let city = |name: &str| json!({"city": name});
    let both = json!([call(1, city("Bern")), call(2, city("東京"))]);
    vec![
        json!({"role": "user", "content": "Where is it warm?"}),
        json!({"role": "assistant", "content": "", "tool_calls": both}),
        result(1, "12 °C"),
        result(2, "{\"degrees\": 21}"),
        json!({"role": "assistant", "content": "", "tool_calls": [call(3, city("Lima"))]}),
        result(3, "19"),
        json!({"role": "assistant", "content": "In 東京."}),
        json!({"role": "user", "content": "Thanks"}),
        json!({"role": "assistant", "content": "Welcome."}),
    ]
}

fn thinking_between_calls() -> Vec<Value> {
    let mut messages = tools("");
    messages[1]["reasoning_content"] = json!("I must ask.");
    messages[3]["reasoning_content"] = json!("It\nrains.");
    messages
}
