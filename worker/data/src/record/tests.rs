//! The formats, record by record.

use serde_json::json;

use super::*;

mod sharegpt;

fn parse(format: Format, json: &str) -> Result<Record, Reject> {
    Shape::new(&SourceOptions::default(), format).parse(Body::Json(json.as_bytes()))
}

fn said(record: Record) -> Vec<String> {
    let Record::Conversation(conversation) = record else {
        panic!("not a conversation: {record:?}");
    };
    let line = |m: &Message| format!("{}: {}", m.role.name(), m.content());
    conversation.messages.iter().map(line).collect()
}

fn conversation(source: &SourceOptions, format: Format, record: Value) -> Conversation {
    let json = record.to_string();
    match Shape::new(source, format).parse(Body::Json(json.as_bytes())) {
        Ok(Record::Conversation(conversation)) => conversation,
        other => panic!("{json}: {other:?}"),
    }
}

/// What templates see of a record's messages, and its tools.
fn seen(format: Format, record: Value) -> (Value, Value) {
    let read = conversation(&SourceOptions::default(), format, record);
    let messages = read.messages.into_iter().map(|m| Value::Object(m.fields)).collect();
    (messages, read.tools.unwrap_or_default())
}

fn details(format: Format, cases: &[(Value, &str)]) {
    for (record, expected) in cases {
        let reject = parse(format, &record.to_string()).expect_err(expected);
        assert_eq!(reject.detail, *expected, "{record}");
    }
}

#[test]
fn alpaca_becomes_a_conversation_with_input_after_the_instruction() {
    let json = r#"{"instruction": "Add.", "input": "1 2", "output": "3",
                       "system": "Be brief.", "history": [["Hi", "Hello"]]}"#;
    let expected =
        ["system: Be brief.", "user: Hi", "assistant: Hello", "user: Add.\n1 2", "assistant: 3"];
    assert_eq!(said(parse(Format::Alpaca, json).expect("valid")), expected);
}

#[test]
fn fields_and_system_of_the_source_are_used() {
    let source = SourceOptions {
        format: Format::Alpaca,
        fields: BTreeMap::from([("instruction".into(), "q".into()), ("output".into(), "a".into())]),
        system: Some("S".into()),
        ..SourceOptions::default()
    };
    let record = Shape::new(&source, Format::Alpaca).parse(Body::Json(br#"{"q": "1", "a": "2"}"#));
    assert_eq!(said(record.expect("valid")), ["system: S", "user: 1", "assistant: 2"]);
}

#[test]
fn message_keeps_its_fields_and_gives_up_train_and_weight() {
    let json = r#"{"messages": [
            {"content": [{"type": "text", "text": "a"}, {"text": "b"}], "role": "user"},
            {"role": "assistant", "content": "c", "train": false, "weight": 0.5, "name": "x"}]}"#;
    let Ok(Record::Conversation(conversation)) = parse(Format::Messages, json) else {
        panic!("not a conversation");
    };
    let answer = &conversation.messages[1];
    assert_eq!((answer.train, answer.weight), (Some(false), Some(0.5)));
    assert_eq!(answer.fields.keys().collect::<Vec<_>>(), ["role", "content", "name"]);
    assert_eq!(conversation.messages[0].content(), "ab");
}

#[test]
fn bad_records_say_what_is_wrong() {
    use Reason::{Empty, Malformed, Untrained};
    let alpaca = [
        (
            "{\"instruction\": \"cut",
            Malformed,
            "not valid JSON: EOF while parsing a string at column 20",
        ),
        ("[1]", Malformed, "a record must be an object, got a list"),
        (r#"{"output": "x"}"#, Malformed, "no field `instruction` among `output`"),
        (
            r#"{"instruction": "x", "output": 3}"#,
            Malformed,
            "`output` must be a text, got a number",
        ),
        (r#"{"instruction": "x", "output": " "}"#, Empty, "`output` is empty"),
        (r#"{"instruction": "", "output": "x"}"#, Empty, "`instruction` and `input` are empty"),
        (
            r#"{"instruction": "x", "output": "y", "history": [["a"]]}"#,
            Malformed,
            "`history` must be a list of [question, answer]",
        ),
    ];
    let messages = [
        (r#"{}"#, Malformed, "no field `messages`"),
        (
            r#"{"messages": "x"}"#,
            Malformed,
            "`messages` is a text that is no JSON: expected value at line 1 column 1",
        ),
        (r#"{"messages": {}}"#, Malformed, "`messages` must be a list, got an object"),
        (r#"{"messages": []}"#, Empty, "`messages` is empty"),
        (
            r#"{"messages": [{"role": "bot", "content": ""}]}"#,
            Malformed,
            "role must be `system`, `user`, `assistant` or `tool`, got `bot`\nhint: a source's `roles` \
             name who speaks, as in `{assistant: [bot]}`",
        ),
        (r#"{"messages": [{"content": ""}]}"#, Malformed, "messages[0] has no `role`"),
        (r#"{"messages": [{"role": "user"}]}"#, Malformed, "messages[0] has no `content`"),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#,
            Malformed,
            "messages[0].content[0] is of the type `image_url`, no text",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": "x", "weight": -1}]}"#,
            Malformed,
            "messages[0].weight must be a number from 0 up, got -1",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "x"}]}"#,
            Untrained,
            "no message of the role `assistant`: nothing would be trained",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": "\n"}]}"#,
            Empty,
            "every answer is empty",
        ),
    ];
    let cases = alpaca.map(|case| (Format::Alpaca, case));
    for (format, (json, reason, detail)) in
        cases.into_iter().chain(messages.map(|case| (Format::Messages, case)))
    {
        let reject = parse(format, json).expect_err(json);
        assert_eq!((reject.reason, reject.detail.as_str()), (reason, detail), "{json}");
    }
    let deep = format!("{{\"messages\": {}1{}}}", "[".repeat(500), "]".repeat(500));
    let reject = parse(Format::Messages, &deep).expect_err("too deep");
    assert!(reject.detail.contains("recursion limit exceeded"), "{reject}");
}

#[test]
fn prompt_messages_are_not_trained() {
    let json = r#"{"prompt": [{"role": "user", "content": "a"},
                                  {"role": "assistant", "content": "b"}],
                       "completion": [{"role": "assistant", "content": "c"}]}"#;
    let Ok(Record::Conversation(conversation)) = parse(Format::Completion, json) else {
        panic!("not a conversation");
    };
    let train: Vec<_> = conversation.messages.iter().map(|m| m.train).collect();
    assert_eq!(train, [Some(false), Some(false), None]);
}

#[test]
fn tool_calls_arguments_are_objects_however_they_are_written() {
    let call = |arguments: Value| {
        json!({"messages": [{"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function",
             "function": {"name": "f", "arguments": arguments}}]}]})
    };
    let object = json!({"z": 1, "a": {"b": [true, null, "\u{1f600}"]}});
    let (as_object, _) = seen(Format::Messages, call(object.clone()));
    let (as_text, _) = seen(Format::Messages, call(object.to_string().into()));
    assert_eq!(as_text.to_string(), as_object.to_string());
    assert_eq!(as_text[0]["content"], Value::Null);

    // The older names for calls and their results, and a flat call.
    let older = json!({"functions": [{"name": "f"}], "messages": [
        {"role": "assistant", "content": null,
         "function_call": {"name": "f", "arguments": "{\"x\": 1}"}},
        {"role": "function", "name": "f", "content": "2"},
        {"role": "assistant", "content": "", "function_call": null,
         "tool_calls": [{"name": "f", "arguments": "{}"}]},
    ]});
    let (messages, tools) = seen(Format::Messages, older);
    let expected = json!([
        {"role": "assistant", "content": null,
         "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "tool", "name": "f", "content": "2"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]},
    ]);
    assert_eq!(messages, expected);
    assert_eq!(tools, json!([{"type": "function", "function": {"name": "f"}}]));

    let said = |extra: Value| {
        let mut record = json!({"messages": [{"role": "assistant", "content": "x"}]});
        record
            .as_object_mut()
            .expect("an object")
            .extend(extra.as_object().cloned().unwrap_or_default());
        record
    };
    details(
        Format::Messages,
        &[
            (
                call("{\"x\"".into()),
                "messages[0].tool_calls[0]: `arguments` is a text that is no JSON: EOF while \
                 parsing an object at line 1 column 4",
            ),
            (
                call(json!([1])),
                "messages[0].tool_calls[0]: `arguments` must be an object, got a list",
            ),
            (
                json!({"messages": [{"role": "assistant", "tool_calls": [1]}]}),
                "messages[0].tool_calls[0] must be a call: an object with a `function`",
            ),
            (
                json!({"messages": [{"role": "assistant", "tool_calls": {"name": "f"}}]}),
                "messages[0].tool_calls must be a list of calls, got an object",
            ),
            (
                said(json!({"tools": "search"})),
                "`tools` is a text that is no JSON: expected value at line 1 column 1",
            ),
            (said(json!({"tools": {"name": "f"}})), "`tools` must be a list, got an object"),
            (said(json!({"tools": ["f"]})), "tools[0] must be an object, got a text"),
            (
                said(json!({"chat_template_kwargs": [1]})),
                "`chat_template_kwargs` must be an object, got a list",
            ),
        ],
    );
}

#[test]
fn messages_keep_what_templates_read_and_developers_set_the_scene() {
    let record = json!({"system": "unused", "chat_template_kwargs": "{\"enable_thinking\": true}",
    "messages": [
        {"role": "developer", "content": "D"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "assistant", "content": "b", "reasoning_content": "hm"},
    ]});
    let source = SourceOptions { system: Some("S".into()), ..SourceOptions::default() };
    let read = conversation(&source, Format::Messages, record);
    let messages: Vec<Value> = read.messages.into_iter().map(|m| Value::Object(m.fields)).collect();
    let expected = json!([
        {"role": "developer", "content": "D"}, {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "hm"},
    ]);
    assert_eq!(Value::Array(messages), expected);
    assert_eq!(Value::Object(read.kwargs), json!({"enable_thinking": true}));
}

#[test]
fn odd_names_of_fields_and_roles_are_read_inside_messages() {
    let own = [
        ("messages", "dialog"),
        ("role", "speaker"),
        ("content", "utterance"),
        ("train", "learn"),
        ("reasoning_content", "thoughts"),
    ];
    let source = SourceOptions {
        fields: own.into_iter().map(|(name, own)| (name.to_owned(), own.to_owned())).collect(),
        roles: [("customer".to_owned(), Role::User), ("bot".to_owned(), Role::Assistant)].into(),
        ..SourceOptions::default()
    };
    let record = json!({"dialog": [
        {"id": 1, "utterance": "a", "speaker": "customer"},
        {"id": 2, "speaker": "bot", "thoughts": "hm", "utterance": "b", "learn": false},
        {"id": 3, "speaker": "assistant", "utterance": "c", "content": "not said"},
    ]});
    let read = conversation(&source, Format::Messages, record);
    let train: Vec<_> = read.messages.iter().map(|m| m.train).collect();
    assert_eq!(train, [None, Some(false), None]);
    let messages: Vec<Value> = read.messages.into_iter().map(|m| Value::Object(m.fields)).collect();
    let expected = json!([
        {"id": 1, "content": "a", "role": "user"},
        {"id": 2, "role": "assistant", "reasoning_content": "hm", "content": "b"},
        {"id": 3, "role": "assistant", "content": "c"},
    ]);
    assert_eq!(Value::Array(messages).to_string(), expected.to_string());
    let shape = Shape::new(&source, Format::Messages);
    let reject =
        shape.parse(Body::Json(br#"{"dialog": [{"speaker": "nobody", "utterance": ""}]}"#));
    let expected = "speaker must be `system`, `user`, `assistant` or `tool`, got `nobody`";
    let detail = reject.expect_err("an unknown role").detail;
    assert!(detail.starts_with(expected), "{detail}");
}

#[test]
fn rows_of_tables_have_no_nulls_and_lists_as_json() {
    let Value::Object(row) = json!({
        "messages": [{"role": "user", "content": "a", "tool_calls": null, "name": null},
                     {"role": "assistant", "content": "b", "tool_calls": null}],
        "tools": null, "system": null,
    }) else {
        unreachable!("an object is written above");
    };
    let shape = Shape::new(&SourceOptions::default(), Format::Messages);
    let Ok(Record::Conversation(read)) = shape.parse(Body::Value(row)) else {
        panic!("not a conversation");
    };
    let names: Vec<Vec<&String>> =
        read.messages.iter().map(|m| m.fields.keys().collect()).collect();
    assert_eq!(names, [["role", "content"], ["role", "content"]]);
    let cell = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
    let row = Map::from_iter([("messages".to_owned(), Value::from(cell))]);
    assert_eq!(shape.parse(Body::Value(row)), Ok(Record::Conversation(read)));
}
