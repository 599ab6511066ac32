//! Formats in templates: calls, system prompts, and the tokens that a template needs.

use super::*;

#[test]
fn tokens_that_the_tokenizer_lacks_are_added_and_nothing_else_changes() {
    let template = "{% for m in messages %}<|{{ m.role }}|>{% generation %}{{ m.content }}<|end|>\
                    {% endgeneration %}{% endfor %}";
    let base = folder(None);
    let with = |tokens: &[&str]| Options {
        chat_template: ChatTemplate::Jinja(template.into()),
        add_tokens: tokens.iter().map(|token| (*token).to_owned()).collect(),
        ..Options::default()
    };
    let grown = Preparer::new(&base, with(&["<|user|>", "</s>", "<|end|>"])).expect("grows");
    let ids: Vec<_> = grown.new_tokens().iter().map(|t| (t.id, t.content.as_str())).collect();
    // The tokenizer has 256 bytes and four special tokens already; `</s>` is one of them.
    assert_eq!(ids, [(260, "<|user|>"), (261, "<|end|>")]);
    assert_eq!(grown.stop_ids(), [1, 261]);
    let line = r#"{"messages": [{"role": "user", "content": "a"},
                                {"role": "assistant", "content": "b"}]}"#
        .replace('\n', "");
    let prepared = grown.prepare("d.jsonl", line.as_bytes(), &SourceOptions::default());
    let tokens = &prepared.expect("readable").records[0].samples[0].tokens;
    assert_eq!((tokens[0], tokens[2]), (260, 261));
    // `<|assistant|>` was not asked for, so it is spelled in bytes.
    assert_eq!(tokens.len(), 3 + "<|assistant|>".len() + 2);

    let mut json: Value =
        serde_json::from_slice(grown.grown_tokenizer().expect("it grew")).expect("JSON");
    let added = json["added_tokens"].as_array_mut().expect("a list");
    let new: Vec<Value> = added.drain(4..).collect();
    assert_eq!((new.len(), &new[1]["id"], &new[1]["special"]), (2, &json!(261), &json!(true)));
    assert_eq!(json, serde_json::from_slice::<Value>(&base.tokenizer).expect("JSON"));

    let same = Preparer::new(&base, with(&["</s>"])).expect("has it");
    assert_eq!((same.new_tokens(), same.grown_tokenizer()), (&[][..], None));
}

#[test]
fn our_system_prompt_replaces_the_templates_own() {
    let templates = [
        (include_str!("../../../../tests/templates/smollm2.jinja"), "named SmolLM"),
        (include_str!("../../../../tests/templates/qwen2_5.jinja"), "You are Qwen"),
    ];
    for (template, own) in templates {
        let preparer = jinja(template);
        for (system, ours) in [(None, false), (Some("Be brief.".to_owned()), true)] {
            let source = SourceOptions { system, ..SourceOptions::default() };
            let prepared = preparer.prepare("d.jsonl", two_turns().as_bytes(), &source);
            let text =
                bracketed(preparer.tokenizer(), &prepared.expect("readable").records[0].samples[0]);
            let beside = (text.contains("system\nBe brief.<|im_end|>"), text.contains(own));
            assert_eq!(beside, (ours, !ours), "{text}");
            assert_eq!(text.matches("<|im_start|>system").count(), 1, "{text}");
        }
    }
}

#[test]
fn sharegpts_calls_are_trained_and_their_results_are_not() {
    let record = json!({
        "conversations": [
            {"from": "human", "value": "1+2?"},
            {"from": "function_call", "value": r#"{"name": "add", "arguments": {"a": 1}}"#},
            {"from": "observation", "value": "3"},
            {"from": "gpt", "value": "It is 3."},
        ],
        "system": "Be exact.",
        "tools": r#"[{"name": "add"}]"#,
    });
    let preparer = jinja(include_str!("../../../../tests/templates/qwen2_5.jinja"));
    let (samples, _) = shown(&preparer, &record.to_string());
    let (system, said) = samples[0].split_once("<|im_start|>user\n").expect("a question");
    assert!(system.starts_with("<|im_start|>system\nBe exact.\n\n# Tools"), "{system}");
    let tool = r#"{"type": "function", "function": {"name": "add"}}"#;
    assert!(system.contains(tool), "{system}");
    let expected = "1+2?<|im_end|>\n<|im_start|>assistant\n⟦<tool_call>\n\
                    {\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call><|im_end|>⟧\n\
                    <|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n\
                    <|im_start|>assistant\n⟦It is 3.<|im_end|>⟧\n";
    assert_eq!(said, expected);
}

/// As in Python, where `json.loads`, `json.dumps` and `str` keep them.
#[test]
fn integers_of_any_size_keep_their_digits() {
    let big = "340282366920938463463374607431768211456000";
    let calls = |arguments: &str| {
        format!(
            r#"{{"tools": [{{"name": "f", "limit": {big}}}], "messages": [{{"role": "user", "content": "U"}},
            {{"role": "assistant", "content": "", "tool_calls": [{{"function": {{"name": "f",
            "arguments": {arguments}}}}}]}}]}}"#
        )
        .replace('\n', "")
    };
    let preparer = jinja(
        "{{ tools[0].limit }} {{ tools | tojson }}{% for m in messages %}{% generation %}\
         {% if m.tool_calls %}{{ m.tool_calls[0].function.arguments | tojson }}\
         {{ m.tool_calls[0].function.arguments.wei + 1 }}{% endif %}<|im_end|>{% endgeneration %}\
         {% endfor %}",
    );
    let object = r#"{"wei": 1000000000000000000000, "least": -9223372036854775809}"#;
    let tools = format!(r#"{big} [{{"name": "f", "limit": {big}}}]"#);
    for arguments in [object.to_owned(), json!(object).to_string()] {
        let (samples, _) = shown(&preparer, &calls(&arguments));
        let expected = format!("{tools}⟦<|im_end|>{object}1000000000000000000001<|im_end|>⟧");
        assert_eq!(samples, [expected]);
    }
    let (_, why) = rejected(&preparer, &format!(r#"{{"messages": [{{"role": {big}}}]}}"#));
    assert!(why.ends_with("got a number"), "{why}");
}

#[test]
fn calls_are_never_lost_in_a_template_that_does_not_support_them() {
    let call = json!({"function": {"name": "add", "arguments": r#"{"a": 1}"#}});
    let line = json!({"messages": [{"role": "user", "content": "1"},
        {"role": "assistant", "content": "", "tool_calls": [call]}]});
    let (reason, text) = rejected(&chatml(Options::default()), &line.to_string());
    assert_eq!(reason, Reason::Malformed);
    let expected =
        "d.jsonl, line 1: the chat template leaves out the tool calls of message 2\nhint: ";
    assert!(text.starts_with(expected), "{text}");
    // As in DeepSeek's template, where a text and an object cannot be added.
    let texts = "{% for m in messages %}{% generation %}{{ m.content }}\
                 {% for call in m.tool_calls %}{{ call.function.name + call.function.arguments }}\
                 {% endfor %}</s>{% endgeneration %}{% endfor %}";
    let (samples, _) = shown(&jinja(texts), &line.to_string());
    assert_eq!(samples, [r#"1⟦</s>add{"a":1}</s>⟧"#]);
}

#[test]
fn records_of_another_format_are_malformed_and_never_guessed() {
    let lines = [
        &two_turns(),
        r#"{"instruction": "a", "output": "b"}"#,
        r#"{"conversations": [{"from": "gpt", "value": "a"}]}"#,
        r#"{"messages": [{"from": "gpt", "value": "a"}]}"#,
    ];
    let (samples, counts) = shown(&chatml(Options::default()), &lines.join("\n"));
    assert_eq!(samples.len(), 1);
    let examples: Vec<String> =
        counts.dropped[&Reason::Malformed].examples.iter().map(ToString::to_string).collect();
    let expected = [
        "d.jsonl, line 2: no field `messages` among `instruction`, `output`",
        "d.jsonl, line 3: no field `messages` among `conversations`",
        "d.jsonl, line 4: messages[0] has `from` but no `role`, as in ShareGPT",
    ];
    assert_eq!(examples, expected);
}

/// Decimals at the ends of a double's range, and next to the middle between two doubles, where a
/// reader that rounds twice goes wrong. Each comes with what CPython 3.11 makes of it by
/// `json.dumps(json.loads(..))`.
const DECIMALS: [(&str, &str); 16] = [
    ("2.2250738585072011e-308", "2.225073858507201e-308"),
    ("2.2250738585072014e-308", "2.2250738585072014e-308"),
    ("4.9406564584124654e-324", "5e-324"),
    ("1.7976931348623157e308", "1.7976931348623157e+308"),
    ("9007199254740991.5", "9007199254740992.0"),
    ("9007199254740993.0", "9007199254740992.0"),
    ("7.2057594037927933e16", "7.205759403792794e+16"),
    ("100000000000000016777215.0", "1.0000000000000001e+23"),
    ("100000000000000016777216.0", "1.0000000000000003e+23"),
    ("0.500000000000000166533453693773481063544750213623046875", "0.5000000000000002"),
    ("3.518437208883201171875e13", "35184372088832.016"),
    ("62.5364939768271845828", "62.53649397682719"),
    ("2.638344616030823e-256", "2.638344616030823e-256"),
    ("8.10109172351e-10", "8.10109172351e-10"),
    ("123456.7890123456789", "123456.78901234567"),
    ("-0.0", "-0.0"),
];

#[test]
fn numbers_in_tools_match_pythons_to_the_last_digit() {
    let template = "{{ tools[0].function.parameters.enum | tojson }}{% for m in messages %}\
                    {% generation %}{{ m.content }}</s>{% endgeneration %}{% endfor %}";
    let written: Vec<&str> = DECIMALS.iter().map(|(written, _)| *written).collect();
    let line = format!(
        r#"{{"messages": [{{"role": "assistant", "content": "a"}}], "tools": [{{"type": "function",
             "function": {{"name": "f", "parameters": {{"enum": [{}]}}}}}}]}}"#,
        written.join(", ")
    );
    let (samples, _) = shown(&jinja(template), &line.replace('\n', " "));
    let pythons: Vec<&str> = DECIMALS.iter().map(|(_, pythons)| *pythons).collect();
    assert_eq!(samples, [format!("[{}]⟦a</s>⟧", pythons.join(", "))]);
}
