//! What is detected in records, and which records are refused.

use std::sync::Arc;

use bytes::Bytes;

use super::super::read::Object;
use super::*;

fn detect_with(
    source: &SourceOptions,
    object: &str,
    text: &str,
) -> Result<Option<Detection>, DetectError> {
    let bytes = Arc::new(Bytes::copy_from_slice(text.as_bytes()));
    let opened = Object::open(object, bytes, crate::Given::default()).expect("a readable object");
    let mut head = opened.head().expect("records");
    detect(object, opened.container(), &head.take_raws(), source)
}

fn detect_text(object: &str, text: &str) -> Result<Option<Detection>, DetectError> {
    detect_with(&SourceOptions::default(), object, text)
}

fn fields(names: &[(&str, &str)]) -> BTreeMap<String, String> {
    names.iter().map(|(name, own)| ((*name).to_owned(), (*own).to_owned())).collect()
}

#[test]
fn detection_says_what_it_saw() {
    for (object, text, expected) in [
        (
            "a.json",
            r#"[{"instruction": "", "input": "", "output": ""}]"#,
            "a JSON array, format `alpaca`: record 1 (line 1) has `instruction` and `output`",
        ),
        (
            "a.jsonl",
            "{broken\n{\"messages\": []}",
            "JSON lines, format `messages`: line 2 has `messages`",
        ),
        (
            "a.jsonl",
            r#"{"prompt": "", "completion": ""}"#,
            "JSON lines, format `completion`: line 1 has `prompt` and `completion`",
        ),
        ("a.jsonl", r#"{"text": ""}"#, "JSON lines, format `text`: line 1 has `text`"),
        ("a.txt", "{", "a text, format `text`: its name says that it is not JSON"),
        (
            "a.jsonl",
            r#"{"id": 1, "conversations": [{"from": "human", "value": ""}], "tools": "[]"}"#,
            "JSON lines, format `sharegpt`: line 1 has `conversations`",
        ),
        (
            "a.jsonl",
            r#"{"messages": [{"from": "human", "value": ""}]}"#,
            "JSON lines, format `sharegpt`: line 1 has `messages` with `from`",
        ),
        (
            "a.jsonl",
            r#"{"question": "", "answer": "", "text": "", "id": 7}"#,
            "JSON lines, format `alpaca`: line 1 has `question` and `answer`; `question` is read \
             as `instruction`, `answer` is read as `output`",
        ),
        (
            "a.jsonl",
            r#"{"instruction": "", "context": "", "response": "", "category": ""}"#,
            "JSON lines, format `alpaca`: line 1 has `instruction` and `response`; `response` is \
             read as `output`, `context` is read as `input`",
        ),
        (
            "a.jsonl",
            r#"{"input": "", "output": ""}"#,
            "JSON lines, format `alpaca`: line 1 has `input` and `output`; `input` is read as \
             `instruction`",
        ),
        (
            "a.jsonl",
            r#"{"system_prompt": "", "query": "", "response": ""}"#,
            "JSON lines, format `alpaca`: line 1 has `query` and `response`; `query` is read as \
             `instruction`, `response` is read as `output`, `system_prompt` is read as `system`",
        ),
    ] {
        let detection = detect_text(object, text).expect(text).expect(text);
        assert_eq!(detection.to_string(), expected);
    }
    assert_eq!(detect_text("a.json", "[]").expect("empty is no error"), None);
}

#[test]
fn the_sources_own_names_settle_what_is_open() {
    let source = |names: &[(&str, &str)]| SourceOptions {
        fields: fields(names),
        ..SourceOptions::default()
    };
    for (names, text, format) in [
        (
            &[("instruction", "prompt"), ("output", "response")][..],
            r#"{"prompt": "", "response": "", "answer": ""}"#,
            Format::Alpaca,
        ),
        (
            &[("prompt", "prompt"), ("completion", "response")],
            r#"{"prompt": "", "response": ""}"#,
            Format::Completion,
        ),
        (&[("messages", "dialog")], r#"{"dialog": []}"#, Format::Messages),
        (&[("text", "body")], r#"{"body": ""}"#, Format::Text),
    ] {
        let found = detect_with(&source(names), "a.jsonl", text).expect(text).expect(text);
        assert_eq!((found.format, found.fields), (format, BTreeMap::new()), "{text}");
    }
    // One of the two names is enough if the other field is unambiguous.
    let found = detect_with(
        &source(&[("instruction", "ask")]),
        "a.jsonl",
        r#"{"ask": "1", "answer": "2", "context": "3"}"#,
    );
    let found = found.expect("plain").expect("one record");
    let read = fields(&[("output", "answer"), ("input", "context")]);
    assert_eq!(found.fields, read);
}

#[test]
fn what_cannot_be_trained_on_is_refused_with_a_hint() {
    for (text, expected) in [
        (r#"{"prompt": "", "chosen": "", "rejected": ""}"#, "a preference set (DPO)"),
        (
            r#"{"conversations": [], "chosen": {"from": "gpt"}, "rejected": {"from": "gpt"}}"#,
            "has `chosen` and `rejected`",
        ),
        (
            r#"{"prompt": "", "completion": "", "label": true}"#,
            "has a `label` that is true or false, which makes it a preference set (KTO)",
        ),
        (r#"{"messages": [], "label": false}"#, "a preference set (KTO)"),
        (r#"{"q": 1, "a": 2}"#, "no known format has the fields `q`, `a`"),
        (
            r#"{"question": "", "query": "", "answer": ""}"#,
            "the question could be `question` or `query`, the answer `answer`\n\
             hint: say which under `fields`: `{instruction: question, output: answer}`",
        ),
        (
            r#"{"input": "", "answer": "", "response": ""}"#,
            "the question could be `input`, the answer `response` or `answer`",
        ),
        (
            r#"{"prompt": "", "response": ""}"#,
            "`{prompt: prompt, completion: response}` without one",
        ),
        ("broken\nbroken", "none of its first 2 records is a JSON object"),
    ] {
        let error = detect_text("a.jsonl", text).expect_err(text).to_string();
        assert!(error.starts_with("a.jsonl"), "{error}");
        assert!(error.contains(expected) && error.contains("\nhint: "), "{error}");
    }
}
