//! OpenAssistant's trees, whole and as rows.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::*;

/// Two trees. In the first, the second reply is the better one and has a follow-up; in the second,
/// the best reply was deleted.
fn trees() -> Vec<Value> {
    let message = |id: &str, role: &str, text: &str, rank: Value, replies: Value| {
        json!({"message_id": id, "role": role, "text": text, "rank": rank, "deleted": false,
               "lang": "en", "replies": replies})
    };
    let thanks = message("e", "assistant", "Welcome.", json!(0), json!([]));
    let unanswered = message("f", "prompter", "And?", Value::Null, json!([]));
    let follow = message("d", "prompter", "Thanks!", Value::Null, json!([thanks]));
    let replies = json!([
        message("b", "assistant", "Dust.", json!(1), json!([unanswered])),
        message("c", "assistant", "Scattering.", json!(0), json!([follow])),
    ]);
    let first = message("a", "prompter", "Why is the sky blue?", Value::Null, replies);
    let mut gone = message("h", "assistant", "Because.", json!(0), json!([]));
    gone["deleted"] = json!(true);
    let replies = json!([gone, message("i", "assistant", "Chlorophyll.", json!(2), json!([]))]);
    let second = message("g", "prompter", "Why is grass green?", Value::Null, replies);
    [("a", first), ("g", second)].map(|(id, p)| json!({"message_tree_id": id, "prompt": p})).into()
}

/// A tree's rows, each message after its parent.
fn rows(tree: &Value) -> Vec<Value> {
    fn add(message: &Value, parent: Option<&str>, tree: &Value, rows: &mut Vec<Value>) {
        let mut row = message.clone();
        let fields = row.as_object_mut().expect("a message");
        fields.remove("replies");
        fields.insert("parent_id".into(), json!(parent));
        fields.insert("message_tree_id".into(), tree["message_tree_id"].clone());
        rows.push(row);
        for reply in message["replies"].as_array().expect("a list") {
            add(reply, message["message_id"].as_str(), tree, rows);
        }
    }
    let mut all = Vec::new();
    add(&tree["prompt"], None, tree, &mut all);
    all
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

fn samples_of(lines: &str) -> (Vec<String>, Counts) {
    shown(&chatml(Options::default()), lines)
}

#[test]
fn the_best_ranked_reply_is_followed_and_the_others_are_reported() {
    let (samples, counts) = samples_of(&lines(&trees()));
    let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}");
    let answer = |text: &str| format!("<|im_start|>assistant\n⟦{text}<|im_end|>⟧\n");
    let first = [
        turn("user", "Why is the sky blue?<|im_end|>\n"),
        answer("Scattering."),
        turn("user", "Thanks!<|im_end|>\n"),
        answer("Welcome."),
    ];
    let second = [turn("user", "Why is grass green?<|im_end|>\n"), answer("Chlorophyll.")];
    assert_eq!(samples, [first.concat(), second.concat()]);
    let found = &counts.findings[&Reason::OtherReplies];
    let examples: Vec<String> = found.examples.iter().map(ToString::to_string).collect();
    let read = |line, read, all| {
        format!(
            "d.jsonl, line {line}: {read} of the tree's {all} messages are used: after each message \
             the best-ranked reply"
        )
    };
    assert_eq!(examples, [read(1, 4, 6), read(2, 2, 3)]);
    let unread: Vec<&str> = counts.unread.iter().map(|(name, _)| name).collect();
    assert_eq!(unread, ["prompt.lang"]);
}

#[test]
fn rows_are_joined_wherever_the_object_is_split() {
    let trees = trees();
    let rows: Vec<Value> = trees.iter().flat_map(rows).collect();
    let text = lines(&rows);
    let (whole, counts) = samples_of(&text);
    assert_eq!(whole, samples_of(&lines(&trees)).0);
    assert_eq!((counts.read, counts.eligible), (2, 2));
    let places: Vec<String> = counts.findings[&Reason::OtherReplies]
        .examples
        .iter()
        .map(|e| e.place.to_string())
        .collect();
    assert_eq!(places, ["line 1", "line 7"], "the places of their questions");
    let preparer = chatml(Options::default());
    let bytes = Arc::new(Bytes::copy_from_slice(text.as_bytes()));
    let of = |range: Range<u64>| {
        let source = SourceOptions::default();
        let made = preparer.open("d.jsonl", bytes.clone(), range, &source).expect("rows");
        let (records, counts): (Vec<_>, Vec<_>) = made.map(|made| made.expect("good")).unzip();
        (records.concat(), counts)
    };
    let size = text.len() as u64;
    let (all, _) = of(0..size);
    for at in 0..=size {
        let ((mut first, counts), (second, more)) = (of(0..at), of(at..size));
        first.extend(second);
        assert_eq!(first.len(), all.len(), "cut at {at}");
        let tokens = |records: &[PreparedRecord]| -> Vec<Vec<u32>> {
            records.iter().map(|record| record.samples[0].tokens.clone()).collect()
        };
        assert_eq!(tokens(&first), tokens(&all), "cut at {at}");
        let read: u64 = counts.iter().chain(&more).map(|counts| counts.read).sum();
        assert_eq!(read, 2, "cut at {at}");
    }
}

#[test]
fn rows_without_a_tree_and_messages_that_look_like_texts_are_reported() {
    let mut rows: Vec<Value> = trees().iter().flat_map(rows).collect();
    let stray = rows.remove(1);
    rows.push(stray);
    let (samples, counts) = samples_of(&lines(&rows));
    assert_eq!((samples.len(), counts.read, counts.eligible), (2, 4, 2));
    let examples: Vec<String> =
        counts.dropped[&Reason::Malformed].examples.iter().map(ToString::to_string).collect();
    let stray = |line, parent| {
        format!(
            "d.jsonl, line {line}: its parent `{parent}` is not among the rows since the last \
             question\nhint: the rows of a tree must be adjacent, each message after its parent"
        )
    };
    assert_eq!(examples, [stray(2, "b"), stray(9, "a")]);
    let unanswered = json!({"prompt": {"role": "prompter", "text": "Q", "replies": []}});
    let (reason, _) = rejected(&chatml(Options::default()), &unanswered.to_string());
    assert_eq!(reason, Reason::Untrained);
    let message = r#"{"text": "Why?", "role": "user", "conversation_id": 7}"#;
    let refused = chatml(Options::default()).prepare(
        "d.jsonl",
        message.as_bytes(),
        &SourceOptions::default(),
    );
    let error = refused.expect_err("a message").to_string();
    let expected = "d.jsonl, line 1: `text` stands beside `role`, as if each record were one \
                    message of a conversation\nhint: make records of whole conversations";
    assert!(error.starts_with(expected), "{error}");
    // Plain texts may have these fields too.
    for plain in [
        r#"{"text": "Hi", "parent": null, "role": "engineer"}"#,
        r#"{"text": "Hi", "message_id": 7}"#,
        r#"{"text": "Hi", "turn": 1, "speaker": ""}"#,
    ] {
        let read = chatml(Options::default()).prepare(
            "d.jsonl",
            plain.as_bytes(),
            &SourceOptions::default(),
        );
        assert_eq!(read.expect("a text").counts.eligible, 1, "{plain}");
    }
    let text = SourceOptions { format: Format::Text, ..SourceOptions::default() };
    let allowed = chatml(Options::default()).prepare("d.jsonl", message.as_bytes(), &text);
    assert_eq!(allowed.expect("as the source says").counts.eligible, 1);
}

#[test]
fn trees_that_are_deep_or_wide_cost_no_more_than_their_rows() {
    let row = |id: u32, parent: Option<u32>| {
        let role = if id.is_multiple_of(2) { "prompter" } else { "assistant" };
        json!({"message_id": id, "parent_id": parent, "role": role, "text": "t"})
    };
    // Ids may be numbers. Each row answers the one before it.
    let deep: Vec<Value> = (0..5000).map(|i: u32| row(i, i.checked_sub(1))).collect();
    let (samples, counts) = samples_of(&lines(&deep));
    assert_eq!((samples.len(), counts.read, counts.eligible), (0, 4800, 0), "{counts:?}");
    let malformed = &counts.dropped[&Reason::Malformed].examples[0].to_string();
    assert_eq!(
        malformed,
        "d.jsonl, line 202: it is more than 200 messages below its tree's question"
    );
    // Each row answers the first one: the work grows with their number, not with its square.
    let wide: Vec<Value> =
        (0..200_000).map(|i: u32| row(2 * i + i.min(1), (i > 0).then_some(0))).collect();
    let (samples, counts) = samples_of(&lines(&wide));
    assert_eq!((samples.len(), counts.read), (1, 1));
}
