//! The formats, record by record.

use super::*;

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
        (r#"{"output": "x"}"#, Malformed, "no field `instruction`"),
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
        (r#"{"messages": "x"}"#, Malformed, "`messages` must be a list of messages, got a text"),
        (r#"{"messages": []}"#, Empty, "`messages` is empty"),
        (
            r#"{"messages": [{"role": "bot", "content": ""}]}"#,
            Malformed,
            "role must be `system`, `user`, `assistant` or `tool`, got `bot`",
        ),
        (r#"{"messages": [{"content": ""}]}"#, Malformed, "messages[0] has no `role`"),
        (r#"{"messages": [{"role": "user"}]}"#, Malformed, "messages[0] has no `content`"),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#,
            Malformed,
            "messages[0].content has a part that is no text",
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
