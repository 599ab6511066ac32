//! The many dialects of ShareGPT.

use super::*;

#[test]
fn sharegpt_speakers_go_by_many_names() {
    let turn = |from: &str| json!({"from": from, "value": from});
    let speakers = [
        "system",
        "human",
        "gpt",
        "user",
        "chatgpt",
        "Prompter",
        "bing",
        "function_response",
        "bard",
        "observation",
        "assistant",
        "tool",
        "model",
    ];
    let conversations: Vec<Value> = speakers.into_iter().map(turn).collect();
    let (messages, _) = seen(Format::Sharegpt, json!({"conversations": conversations}));
    let roles: Vec<&str> =
        messages.as_array().expect("a list").iter().filter_map(|m| m["role"].as_str()).collect();
    let expected = [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ];
    assert_eq!(roles, expected);
}

#[test]
fn sharegpt_messages_may_use_other_names() {
    let expected = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    for record in [
        json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
        json!({"conversation": [{"role": "user", "content": "a"},
                                {"role": "assistant", "content": "b"}]}),
        json!({"messages": [{"from": "human", "text": "a"}, {"from": "gpt", "message": "b"}]}),
        json!({"conversations": r#"[{"from": "human", "value": "a"},
                                    {"from": "gpt", "value": "b"}]"#}),
    ] {
        assert_eq!(seen(Format::Sharegpt, record).0, expected);
    }
    let both = json!({"from": "gpt", "value": "a", "text": "b"});
    details(
        Format::Sharegpt,
        &[
            (
                json!({"conversations": [both]}),
                "conversations[0] has both `value` and `text`; which one is the content?",
            ),
            (
                json!({"conversations": [{"from": "narrator", "value": ""}]}),
                "from must be `human`, `gpt`, `system`, `function_call` or `observation`, got \
                 `narrator`\nhint: a source's `roles` name who speaks, as in `{assistant: [bot]}`",
            ),
            (
                json!({"conversations": [{"from": "gpt", "value": 1}]}),
                "conversations[0].value must be a text, got a number",
            ),
            (json!({"conversations": [{"from": "gpt"}]}), "conversations[0] has no `value`"),
            (json!({"conversations": [{"value": "x"}]}), "conversations[0] has no `from`"),
            (
                json!({"conversations": [{"from": "human", "value": "x"}]}),
                "no message of the role `assistant`: nothing would be trained",
            ),
            (json!({"instruction": "x"}), "no field `conversations` among `instruction`"),
        ],
    );
}

#[test]
fn llama_factorys_calls_results_system_and_tools_become_openais() {
    let tools = json!([{"name": "add", "parameters": {"type": "object"}}]);
    let record = json!({
        "system": "S", "tools": tools.to_string(),
        "conversations": [
            {"from": "human", "value": "1+2?"},
            {"from": "function_call",
             "value": r#"{"name": "add", "arguments": {"b": 2.0, "a": [1, null]}}"#},
            {"from": "observation", "value": "3"},
            {"from": "gpt", "value": "3"},
        ],
    });
    let call = json!({"type": "function",
                      "function": {"name": "add", "arguments": {"b": 2.0, "a": [1, null]}}});
    let expected = json!([
        {"role": "system", "content": "S"},
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "3"},
    ]);
    let (messages, given) = seen(Format::Sharegpt, record);
    // Compared as texts, because the order of fields matters to templates.
    assert_eq!(messages.to_string(), expected.to_string());
    assert_eq!(given, json!([{"type": "function", "function": tools[0]}]));

    // Several calls at once, arguments as a text, and a system message that exists already.
    let two = json!([{"name": "f", "arguments": "{\"x\": 1}"}, {"name": "g", "arguments": ""}]);
    let record = json!({"system": "unused", "tools": "[]", "conversations": [
        {"from": "system", "value": "S"}, {"from": "human", "value": "x"},
        {"from": "function_call", "value": two.to_string()},
    ]});
    let (messages, given) = seen(Format::Sharegpt, record);
    assert_eq!(messages[0]["content"], "S");
    assert_eq!(messages[2]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    assert_eq!(messages[2]["tool_calls"][1]["function"]["arguments"], json!({}));
    assert_eq!((messages.as_array().map(Vec::len), given), (Some(3), Value::Null));

    let call = |value: &str| json!({"conversations": [{"from": "function_call", "value": value}]});
    details(
        Format::Sharegpt,
        &[
            (
                call("add(1, 2)"),
                "conversations[0].value is not a call as JSON: expected value at line 1 column 1",
            ),
            (call("[1]"), "conversations[0].value: the call 1 has no `name`"),
            (call("7"), "conversations[0].value must be a call, got a number"),
            (
                json!({"conversations": [{"from": "gpt", "value": "x"}], "tools": "[{"}),
                "`tools` is a text that is not JSON: EOF while parsing an object at line 1 column 2",
            ),
        ],
    );
}
