//! Tests of the formats, record by record.

use proto::spec::Media;
use serde_json::json;

use super::*;

mod sharegpt;

fn parse(format: Format, json: &str) -> Result<Record, Reject> {
    let shape = Shape::new(&SourceOptions::default(), format);
    shape.parse(Body::Json(json.as_bytes())).map(|parsed| parsed.record)
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
    let parsed = Shape::new(source, format).parse(Body::Json(json.as_bytes()));
    match parsed.map(|parsed| parsed.record) {
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
    assert_eq!(said(record.expect("valid").record), ["system: S", "user: 1", "assistant: 2"]);
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
            "`messages` is a text that is not JSON: expected value at line 1 column 1",
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
            Reason::Media,
            "messages[0].content[0] is of the type `image_url`, which a text model does not see\n\
             hint: `data.media: drop` leaves such records out, `data.media: text` trains on their \
             text alone",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": "x", "weight": -1}]}"#,
            Malformed,
            "messages[0].weight must be a number of at least 0, got -1",
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
                "messages[0].tool_calls[0]: `arguments` is a text that is not JSON: EOF while \
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
                "`tools` is a text that is not JSON: expected value at line 1 column 1",
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
fn messages_keep_their_fields_and_a_developer_counts_as_the_system() {
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
    let parse = |row| shape.parse(Body::Value(row)).map(|parsed| parsed.record);
    let Ok(Record::Conversation(read)) = parse(row) else {
        panic!("not a conversation");
    };
    let names: Vec<Vec<&String>> =
        read.messages.iter().map(|m| m.fields.keys().collect()).collect();
    assert_eq!(names, [["role", "content"], ["role", "content"]]);
    let cell = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
    let row = Map::from_iter([("messages".to_owned(), Value::from(cell))]);
    assert_eq!(parse(row), Ok(Record::Conversation(read)));
}

#[test]
fn marks_of_other_tools_mean_what_ours_mean_or_are_refused() {
    let answer = |marks: Value| {
        let mut answer = json!({"role": "assistant", "content": "A"});
        answer.as_object_mut().expect("it is one").extend(marks.as_object().expect("one").clone());
        json!({"messages": [{"role": "user", "content": "U"}, answer]})
    };
    for (marks, train, weight) in [
        (json!({"train": false}), Some(false), None),
        (json!({"loss": false}), Some(false), None),
        (json!({"loss": true}), Some(true), None),
        (json!({"masked": true}), Some(false), None),
        (json!({"masked": false, "train": true}), Some(true), None),
        (json!({"loss_weight": 0.0}), None, Some(0.0)),
        (json!({"weight": 0.5, "loss_weight": 0.5}), None, Some(0.5)),
        (json!({"loss": null, "masked": null}), None, None),
        (json!({"content": [{"type": "text", "text": "A", "train": false}]}), Some(false), None),
        (json!({"content": [{"type": "text", "value": "A", "weight": 0}]}), None, Some(0.0)),
    ] {
        let source = SourceOptions::default();
        let read = conversation(&source, Format::Messages, answer(marks.clone()));
        let message = &read.messages[1];
        assert_eq!((message.train, message.weight), (train, weight), "{marks}");
        assert_eq!(message.fields.keys().collect::<Vec<_>>(), ["role", "content"], "{marks}");
        assert_eq!(message.content(), "A");
    }
    let parts = json!([{"type": "text", "text": "wrong ", "train": false},
                       {"type": "text", "text": "right"}]);
    let wants = "hint: `train: false` or `weight: 0.5` on a message applies to the whole message";
    details(
        Format::Messages,
        &[
            (
                answer(json!({"content": parts})),
                "messages[1].content trains some of its parts and not others; a message is trained as a \
                 whole\nhint: make them separate messages, or put `train` on the message",
            ),
            (
                answer(json!({"train_detail": [{"begin": 0, "end": 1, "train": false}]})),
                &format!(
                    "messages[1] has `train_detail`, which marks what is trained in a way \
                          that is not supported here\n{wants}"
                ),
            ),
            (
                answer(json!({"loss": true, "masked": true})),
                "messages[1] is marked both as trained and as not trained: see its `masked`",
            ),
            (answer(json!({"loss": 1})), "messages[1].loss must be true or false, got a number"),
        ],
    );
}

#[test]
fn parts_that_are_thoughts_or_calls_become_the_messages_own() {
    let call = r#"{"name": "f", "arguments": {"a": 1}}"#;
    let record = json!({"messages": [
        {"role": "user", "content": [{"type": "text", "value": "U"}]},
        {"role": "assistant", "content": [
            {"type": "reasoning", "value": "Think."}, {"type": "text", "value": "A"},
            {"type": "tool_call", "value": call}]}]});
    let (messages, _) = seen(Format::Messages, record);
    let answer = json!({"role": "assistant", "content": "A", "reasoning_content": "Think.",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]});
    assert_eq!(messages, json!([{"role": "user", "content": "U"}, answer]));
}

#[test]
fn media_are_refused_by_name_unless_only_their_text_is_requested() {
    let said =
        json!([{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A"}]);
    let parts = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}},
                        {"type": "text", "text": "What?"}]}, {"role": "assistant", "content": "A"}]);
    for (record, named) in [
        (json!({"messages": said, "images": ["1.jpg"]}), "it has `images`"),
        (json!({"messages": said, "videos": ["1.mp4"]}), "it has `videos`"),
        (json!({"messages": said, "audio": {"path": "1.wav"}}), "it has `audio`"),
        (json!({"messages": parts}), "messages[0].content[0] is of the type `image_url`"),
    ] {
        let json = record.to_string();
        let parse = |media| {
            let shape = Shape::new(&SourceOptions::default(), Format::Messages).with_media(media);
            shape.parse(Body::Json(json.as_bytes()))
        };
        for media in [Media::Refuse, Media::Drop] {
            let reject = parse(media).expect_err(named);
            assert_eq!(reject.reason, Reason::Media);
            assert!(reject.detail.starts_with(named), "{}", reject.detail);
        }
        let parsed = parse(Media::Text).expect("its text");
        assert_eq!(parsed.unread.len(), usize::from(record.get("messages") == Some(&said)));
    }
    let json = json!({"messages": said, "images": [], "audio": null}).to_string();
    assert!(parse(Format::Messages, &json).is_ok());
}

#[test]
fn unread_fields_are_named_and_synonyms_are_read() {
    for (format, record, unread) in [
        (
            Format::Alpaca,
            json!({"instruction": "I", "input": "i", "context": "c", "output": "O", "id": 7,
                   "tags": [], "note": null}),
            &["context", "id"][..],
        ),
        (
            Format::Sharegpt,
            json!({"system_prompt": "Be kind.", "source": "s", "conversations": [
                {"from": "human", "value": "U"}, {"from": "gpt", "value": "A"}]}),
            &["source"],
        ),
        (Format::Completion, json!({"system": "S", "prompt": "P", "completion": "C"}), &["system"]),
        (Format::Text, json!({"text": "T", "url": "u"}), &["url"]),
    ] {
        let shape = Shape::new(&SourceOptions::default(), format);
        let parsed = shape.parse(Body::Json(record.to_string().as_bytes())).expect("valid");
        assert_eq!(parsed.unread, unread, "{record}");
    }
    let record = json!({"system_prompt": "Be kind.", "conversations": [
        {"from": "human", "value": "U"}, {"from": "gpt", "value": "A"}]});
    let read = parse(Format::Sharegpt, &record.to_string()).expect("valid");
    assert_eq!(said(read), ["system: Be kind.", "user: U", "assistant: A"]);
    for name in ["reasoning_content", "reasoning", "thinking", "cot"] {
        let record = json!({"instruction": "Q", name: "Because.", "output": "R"});
        let read = conversation(&SourceOptions::default(), Format::Alpaca, record);
        assert_eq!(read.messages[1].fields["reasoning_content"], "Because.", "{name}");
    }
}

#[test]
fn an_empty_answer_among_others_is_noted_and_not_trained() {
    let record = json!({"messages": [
        {"role": "user", "content": "U1"}, {"role": "assistant", "content": ""},
        {"role": "user", "content": "U2"}, {"role": "assistant", "content": "A2"},
        {"role": "user", "content": "U3"}, {"role": "assistant", "content": " ", "train": true}]});
    let shape = Shape::new(&SourceOptions::default(), Format::Messages);
    let parsed = shape.parse(Body::Json(record.to_string().as_bytes())).expect("valid");
    let note = (Reason::Empty, "message 2 is an empty answer, which is not trained".to_owned());
    assert_eq!(parsed.notes, [note]);
    let Record::Conversation(read) = parsed.record else { panic!("a conversation") };
    let marks: Vec<_> = read.messages.iter().map(|m| m.train).collect();
    assert_eq!(marks, [None, Some(false), None, None, None, Some(true)]);
}
