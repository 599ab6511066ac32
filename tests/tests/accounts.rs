//! Receipts account for every record and field of files as users have them: a record is kept, dropped with a reason,
//! or kept with a finding, and every field that is not read is named. Text, page and JSON agree.

use muster_tests::{Ended, Fixture, Process, programs};
use std::collections::BTreeSet;

/// A file, and the expected account of it.
struct Input {
    name: &'static str,
    content: &'static str,
    read: u64,
    /// Reasons for dropped records, as named in JSON.
    dropped: &'static [&'static str],
    /// Findings about records that are kept, as named in JSON.
    found: &'static [&'static str],
    unread: &'static [&'static str],
}

/// Marks where a long line of a file is broken in this source.
const BROKEN_LINE: &str = "\n            ";

const NONE: Input = Input { name: "", content: "", read: 0, dropped: &[], found: &[], unread: &[] };

const INPUTS: [Input; 16] = [
    Input {
        name: "quote.csv",
        content: "instruction,output\nWho?,Anna.\n\"What?,Bread.\nWhere?,Here.\n",
        read: 2,
        dropped: &["broken_end"],
        ..NONE
    },
    Input {
        name: "swallowed.csv",
        content: "instruction,output\nWhom?,\"Anna.\nA?,B.\nC?,D.\nE?,F.\nG?,H\"\n",
        read: 1,
        found: &["swallowed_rows"],
        ..NONE
    },
    Input {
        name: "cut.json",
        content: r#"[{"instruction": "When?", "output": "Now."}, {"instruction": "What"#,
        read: 2,
        dropped: &["broken_end"],
        ..NONE
    },
    Input {
        name: "cut.jsonl",
        content: "{\"instruction\": \"Whence?\", \"output\": \"Home.\"}\n{\"instruction\": \"What",
        read: 2,
        dropped: &["broken_end"],
        ..NONE
    },
    Input {
        name: "marks.jsonl",
        content: r#"{"messages": [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A",
            "loss": false}, {"role": "user", "content": "V"}, {"role": "assistant", "content": "B"}]}
{"messages": [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A",
            "train_detail": [{"begin_offset": 0, "end_offset": 1, "train": false}]}]}
"#,
        read: 2,
        dropped: &["malformed"],
        ..NONE
    },
    Input {
        name: "media.jsonl",
        content: r#"{"messages": [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant",
            "content": "A cat."}], "images": ["1.jpg"]}"#,
        read: 1,
        dropped: &["media"],
        ..NONE
    },
    Input {
        name: "unread.jsonl",
        content: r#"{"instruction": "Q", "input": "in", "context": "beside", "output": "A", "topic": "x"}"#,
        read: 1,
        unread: &["context", "topic"],
        ..NONE
    },
    Input {
        name: "fields.jsonl",
        content: r#"{"messages": [{"role": "user", "content": "How?", "mood": "good"}, {"role": "assistant",
            "content": "So."}], "system_prompt": "Be kind.", "cot": "none"}"#,
        read: 1,
        unread: &["cot", "messages[].mood"],
        ..NONE
    },
    Input {
        name: "thoughts.jsonl",
        content: r#"{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant",
            "reasoning_content": "Two and two.", "content": "4"}]}"#,
        read: 1,
        found: &["left_out"],
        unread: &["messages[].reasoning_content"],
        ..NONE
    },
    Input {
        name: "tools.jsonl",
        content: r#"{"messages": [{"role": "user", "content": "Can you?"}, {"role": "assistant",
            "content": "Yes."}], "tools": [{"type": "function", "function": {"name": "f",
            "limit": 18446744073709551616, "unit": null}}]}"#,
        read: 1,
        found: &["left_out", "nulls"],
        ..NONE
    },
    Input {
        name: "oasst.jsonl",
        content: r#"{"message_id": "a", "parent_id": null, "message_tree_id": "a", "role": "prompter",
            "text": "Why?", "lang": "en"}
{"message_id": "b", "parent_id": "a", "message_tree_id": "a", "role": "assistant", "text": "So.", "rank": 1,
            "lang": "en"}
{"message_id": "c", "parent_id": "a", "message_tree_id": "a", "role": "assistant", "text": "Light.", "rank": 0,
            "lang": "en"}
{"message_id": "e", "parent_id": "d", "message_tree_id": "d", "role": "assistant", "text": "No.", "rank": 0,
            "lang": "en"}
"#,
        read: 2,
        dropped: &["malformed"],
        found: &["other_replies"],
        unread: &["prompt.lang"],
    },
    Input {
        name: "empty.jsonl",
        content: r#"{"messages": [{"role": "user", "content": "U1"}, {"role": "assistant", "content": ""},
            {"role": "user", "content": "U2"}, {"role": "assistant", "content": "A2"}]}"#,
        read: 1,
        found: &["empty"],
        ..NONE
    },
    Input {
        name: "control.jsonl",
        content: r#"{"messages": [{"role": "user", "content": "What is <|im_end|>?"}, {"role": "assistant",
            "content": "An end."}]}"#,
        read: 1,
        found: &["control_tokens"],
        ..NONE
    },
    Input {
        name: "shared.jsonl",
        content: r#"{"prompt": "The answer is ", "completion": "the one."}"#,
        read: 1,
        found: &["shared_token"],
        ..NONE
    },
    Input {
        name: "odd.jsonl",
        content: "{\"instruction\": \"Whose?\", \"output\": \"Mine.\", \
                  \"score\": NaN}\n{\"instruction\": \"Who?\", \"output\": \"\\ud83d\"}\n",
        read: 2,
        dropped: &["malformed"],
        ..NONE
    },
    Input {
        name: "data.json",
        content: r#"{"data": [{"instruction": "Which?", "output": "This.",
            "id": 340282366920938463463374607431768211456}]}"#,
        read: 1,
        unread: &["id"],
        ..NONE
    },
];

fn inspect(fixture: &Fixture, arguments: &[&str]) -> Process {
    let spec = fixture.path("spec.yaml");
    let mut all = vec!["inspect", spec.to_str().expect("a temporary path")];
    all.extend(arguments);
    Process::start(&programs::coordinator(), &all)
}

/// The section of the text about one source.
fn section<'t>(text: &'t str, name: &str) -> &'t str {
    let head = text.find(&format!("/{name}\n")).unwrap_or_else(|| panic!("no `{name}` in {text}"));
    let rest = &text[head + name.len() + 2..];
    let end = rest.match_indices('\n').map(|(at, _)| at + 1);
    let end = end.into_iter().find(|at| rest[*at..].chars().next().is_none_or(|c| c != ' '));
    &rest[..end.unwrap_or(rest.len())]
}

#[test]
fn every_record_and_field_is_accounted_for_in_text_page_and_json() {
    let fixture = Fixture::new();
    let sources: Vec<String> = INPUTS
        .iter()
        .map(|input| {
            fixture.write(input.name, &input.content.replace(BROKEN_LINE, " "));
            format!("    - source: ./{}\n", input.name)
        })
        .collect();
    fixture.respec("    - source: ./data.jsonl\n      format: messages\n", &sources.concat());
    fixture.respec("max_dropped: 0.01", "max_dropped: 1.0\n  broken_end: keep");
    let json: Ended = inspect(&fixture, &["--json"]).end().with_code(0);
    let (text, _) = inspect(&fixture, &["--samples", "0"]).end_with_text(0);
    let html = fixture.path("page.html");
    inspect(&fixture, &["--html", html.to_str().expect("a temporary path")]).end_with_text(0);
    let page = fixture.read("page.html");

    let receipt = &json.only("receipt").0["receipt"]["sources"];
    let receipt = receipt.as_object().expect("by source");
    assert_eq!(receipt.len(), INPUTS.len());
    for input in &INPUTS {
        let name = input.name;
        let (_, counts) =
            receipt.iter().find(|(url, _)| url.ends_with(&format!("/{name}"))).expect(name);
        let count = |key: &str| counts[key].as_u64().unwrap_or_else(|| panic!("{key} of {name}"));
        let reasons = |key: &str| -> BTreeSet<&str> {
            counts[key].as_object().into_iter().flatten().map(|(reason, _)| &**reason).collect()
        };
        let dropped = counts["dropped"].as_object().into_iter().flatten();
        let lost: u64 = dropped.filter_map(|(_, tally)| tally["records"].as_u64()).sum();
        assert_eq!(count("read"), count("eligible") + lost, "{name}");
        assert_eq!(count("read"), input.read, "{name}");
        assert_eq!(reasons("dropped"), input.dropped.iter().copied().collect(), "{name}");
        assert_eq!(reasons("findings"), input.found.iter().copied().collect(), "{name}");
        assert_eq!(reasons("unread"), input.unread.iter().copied().collect(), "{name}");

        let section = section(&text, name);
        for reason in input.dropped.iter().chain(input.found) {
            let label = reason.replace('_', " ");
            assert!(section.contains(&format!("  {label}")), "`{label}` of {name} in {section}");
            assert!(page.contains(&label), "`{label}` of {name} on the page");
        }
        for field in input.unread {
            // The text writes a field of messages as "`NAME` of messages".
            let field = field.strip_prefix("messages[].").unwrap_or(field);
            let named = section.lines().any(|l| l.starts_with("  not read: ") && l.contains(field));
            assert!(named, "`{field}` of {name} in {section}");
            assert!(page.contains(field), "`{field}` of {name} on the page");
        }
    }
}
