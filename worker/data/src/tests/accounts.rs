//! What happens to each record: it is cut, dropped or refused, and always counted.

use proto::receipt::Tally;

use super::*;

#[test]
fn text_is_cut_into_chunks_that_train_every_target_once() {
    let preparer = preparer(Options { max_tokens: 4, ..Options::default() });
    let (samples, counts) = shown(&preparer, r#"{"text": "abcdefg"}"#);
    assert_eq!(samples, ["<s>⟦abc⟧", "c⟦def⟧", "f⟦g</s>⟧"]);
    assert_eq!((counts.samples, counts.trained_tokens, counts.eligible), (3, 8, 1));
    let prepared = preparer.prepare("a.txt", b"{x}", &SourceOptions::default()).expect("a text");
    let texts: Vec<String> =
        prepared.samples().map(|s| bracketed(preparer.tokenizer(), s)).collect();
    assert_eq!(texts, ["<s>⟦{x}⟧", "}⟦</s>⟧"]);
}

#[test]
fn doubled_first_token_is_refused() {
    let (_, text) = rejected(&preparer(Options::default()), r#"{"text": "<s>a"}"#);
    assert!(text.contains("starts with `<s>` twice"), "{text}");
    let doubles = format!("{{{{ bos_token }}}}{{{{ bos_token }}}}{UNMARKED}");
    let (_, text) = rejected(&jinja(&doubles), &two_turns());
    assert!(text.contains("starts with `<s>` twice"), "{text}");
}

#[test]
fn too_long_is_dropped_cut_or_fails_and_always_counted() {
    let line = r#"{"instruction": "a", "output": "0123456789"}"#;
    let with =
        |max_tokens, too_long| chatml(Options { max_tokens, too_long, ..Options::default() });
    let (reason, text) = rejected(&with(20, TooLong::Drop), line);
    assert_eq!(
        (reason, text.as_str()),
        (Reason::TooLong, "d.jsonl, line 1: 32 tokens, max_tokens is 20")
    );
    let (samples, counts) = shown(&with(24, TooLong::Truncate), line);
    assert_eq!(samples, ["<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦0123⟧"]);
    assert_eq!((counts.truncated.records, counts.truncated.tokens_lost), (1, 8));
    let (reason, text) = rejected(&with(10, TooLong::Truncate), line);
    assert_eq!(reason, Reason::TooLong);
    assert!(text.ends_with("32 tokens, none of the first 10 is trained"), "{text}");
    let failed =
        with(20, TooLong::Fail).prepare("d.jsonl", line.as_bytes(), &SourceOptions::default());
    let error = failed.expect_err("too long").to_string();
    assert!(error.starts_with("d.jsonl, line 1: 32 tokens, more than the 20"), "{error}");
}

#[test]
fn bad_lines_are_listed_in_the_receipt_and_good_ones_are_kept() {
    let mut bytes =
        b"{\"messages\": [{\"role\": \"bot\", \"content\": \"x\"}]}\n{\"messages\": [\n".to_vec();
    bytes.extend(two_turns().as_bytes());
    bytes.extend(b"\n{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}\nnull\n");
    bytes.extend(b"{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}\n");
    bytes.extend(
        "{\"messages\": [{\"role\": \"assistant\", \"content\": \"\u{fdd0}\"}]}".as_bytes(),
    );
    let preparer = chatml(Options::default());
    let prepared = preparer.prepare("s3://d/7.jsonl", &bytes, &SourceOptions::default());
    let counts = prepared.expect("one good line").counts;
    assert_eq!((counts.read, counts.eligible, counts.dropped_records()), (7, 1, 6));
    let examples: Vec<String> =
        counts.dropped[&Reason::Malformed].examples.iter().map(ToString::to_string).collect();
    let role =
        "s3://d/7.jsonl, line 1: role must be `system`, `user`, `assistant` or `tool`, got `bot`\n";
    assert!(examples[0].starts_with(role), "{}", examples[0]);
    assert!(
        examples[1].starts_with("s3://d/7.jsonl, line 2: not valid JSON: EOF"),
        "{}",
        examples[1]
    );
    assert!(
        examples[3].contains("line 5: a record must be an object, got null"),
        "{}",
        examples[3]
    );
}

#[test]
fn every_cut_and_flip_of_a_file_is_accounted_for() {
    let preparer = chatml(Options::default());
    let array = format!("[{},\n{}]", two_turns(), two_turns());
    let lines = format!("{}\n{}", two_turns(), two_turns());
    for (name, text) in [("a.json", array), ("a.jsonl", lines)] {
        for at in 0..text.len() {
            for flip in [0, 0x01, 0x20, 0xff] {
                let mut bytes = text.clone().into_bytes();
                match flip {
                    0 => bytes.truncate(at),
                    flip => bytes[at] ^= flip,
                }
                // An error accounts for the whole object.
                if let Ok(prepared) = preparer.prepare(name, &bytes, &SourceOptions::default()) {
                    assert!(prepared.counts.is_balanced());
                }
            }
        }
    }
}

#[test]
fn an_object_that_breaks_off_fails_the_run_unless_that_is_allowed() {
    let record = r#"{"instruction": "Say a.", "output": "a"}"#;
    let table = "instruction,output\n1,2\n\"3,4\n5,6\n";
    let gzipped = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        let lines: String = (0..400).map(|i| record.replace("a.", &i.to_string()) + "\n").collect();
        std::io::Write::write_all(&mut encoder, lines.as_bytes()).expect("memory");
        let mut bytes = encoder.finish().expect("memory");
        bytes.truncate(bytes.len() / 2);
        bytes
    };
    for (name, bytes, place, reason) in [
        ("a.csv", table.as_bytes(), "line 3", "a quote opens here and does not close"),
        ("a.json", &format!("[{record}, {record}").into_bytes(), "record 3 (line 1)", "the array"),
        ("a.jsonl", &format!("{record}\n{}", &record[..9]).into_bytes(), "line 2", "the last line"),
        ("a.json", &record.as_bytes()[..9], "line 1", "the last line breaks off"),
        ("a.jsonl.gz", &gzipped, "line ", "the gzip data break off here"),
    ] {
        let prepare = |broken_end| {
            let preparer = chatml(Options { broken_end, ..Options::default() });
            preparer.prepare(name, bytes, &SourceOptions::default())
        };
        let error = prepare(BrokenEnd::Fail).expect_err(name).to_string();
        assert!(error.starts_with(&format!("{name}, {place}")), "{error}");
        assert!(error.contains(&format!("what follows is lost: {reason}")), "{error}");
        assert!(error.contains("`data.broken_end: keep` trains on what comes before"), "{error}");
        let counts = prepare(BrokenEnd::Keep).expect(name).counts;
        assert!(counts.is_balanced());
        let ends = &counts.dropped[&Reason::BrokenEnd];
        assert_eq!((ends.records, counts.dropped_records()), (1, 1), "{name}");
        assert!(ends.examples[0].reason.starts_with(reason), "{}", ends.examples[0]);
    }
}

#[test]
fn a_row_that_has_swallowed_others_is_a_finding() {
    let csv = "instruction,output\n\"Q0?,A0.\nQ1?,A1.\nQ2?,A2.\nQ3?,A3.\nQ4?\",A4.\n";
    let prepared = chatml(Options::default()).prepare("a.csv", csv.as_bytes(), &Default::default());
    let counts = prepared.expect("readable").counts;
    assert_eq!((counts.read, counts.eligible), (1, 1));
    let found = counts.findings[&Reason::SwallowedRows].examples[0].to_string();
    assert!(
        found.starts_with("a.csv, line 2: a quoted cell holds 3 lines that look like"),
        "{found}"
    );
}

#[test]
fn fields_that_nothing_reads_are_named_in_the_receipt() {
    let line = r#"{"id": 7, "tags": [], "messages": [
        {"role": "user", "content": "U", "name": "Ann", "lang": "en"},
        {"role": "assistant", "content": "A", "reasoning": "R", "name": null}]}"#;
    let line = line.replace('\n', "");
    let unread = |preparer: &Preparer| {
        let (_, counts) = shown(preparer, &format!("{line}\n{line}"));
        counts.unread.to_string()
    };
    let expected =
        "`id` (2), `lang` of messages (2), `name` of messages (2), `reasoning` of messages (2)";
    assert_eq!(unread(&chatml(Options::default())), expected);
    let reads = UNMARKED.replace("| trim }}", "| trim }}{{ m.name }}{{ m.thinking }}");
    assert_eq!(unread(&jinja(&reads)), "`id` (2), `lang` of messages (2)");
}

#[test]
fn media_are_counted_by_their_name() {
    let line = r#"{"images": ["1.jpg"], "messages": [{"role": "user", "content": "<image>?"},
        {"role": "assistant", "content": "A"}]}"#;
    let line = line.replace('\n', "");
    let (reason, said) = rejected(&chatml(Options::default()), &line);
    assert_eq!(reason, Reason::Media);
    assert!(
        said.starts_with("d.jsonl, line 1: it has `images`, which a text model does"),
        "{said}"
    );
    let text = chatml(Options { media: Media::Text, ..Options::default() });
    let (samples, counts) = shown(&text, &line);
    assert_eq!((samples.len(), counts.unread.to_string().as_str()), (1, "`images` (1)"));
}

#[test]
fn an_empty_answer_among_others_is_a_finding_and_not_trained() {
    let line = r#"{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": ""},
        {"role": "user", "content": "2"}, {"role": "assistant", "content": "B"}]}"#;
    for preparer in [chatml(Options::default()), jinja(UNMARKED)] {
        let (samples, counts) = shown(&preparer, &line.replace('\n', ""));
        assert!(samples[0].contains("⟦B<|im_end|>⟧"), "{}", samples[0]);
        assert_eq!(samples[0].matches('⟦').count(), 1, "{}", samples[0]);
        let found = counts.findings[&Reason::Empty].examples[0].to_string();
        assert_eq!(found, "d.jsonl, line 1: message 2 is an empty answer, which is not trained");
    }
}

/// The findings in the only sample of a line, by reason.
fn found_in(preparer: &Preparer, line: &str) -> Vec<(Reason, String)> {
    let (samples, counts) = shown(preparer, line);
    assert_eq!(samples.len(), 1);
    let example = |tally: &Tally| tally.examples[0].reason.clone();
    counts.findings.iter().map(|(reason, tally)| (*reason, example(tally))).collect()
}

#[test]
fn nulls_that_a_table_wrote_are_reported() {
    let line = |tools: Value, arguments: Value| {
        let calls = json!([{"type": "function",
                            "function": {"name": "f", "arguments": arguments}}]);
        let messages = json!([{"role": "user", "content": "1"},
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": "2"}, {"role": "assistant", "content": "A"}]);
        json!({"messages": messages, "tools": tools}).to_string()
    };
    let preparer = jinja(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% generation %}{{ m.content }}\
         {% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>{% endgeneration %}\
         {% endfor %}{{ tools | tojson }}",
    );
    let tools = json!([{"name": "f", "parameters": {"a": {"default": null, "enum": [1, null]}}}]);
    assert_eq!(found_in(&preparer, &line(tools, json!({"a": 1}))), []);
    let null = json!([{"name": "f", "parameters": {"a": {"enum": null}}}]);
    let [(Reason::Nulls, found)] = &found_in(&preparer, &line(null, json!({"a": 1})))[..] else {
        panic!("one finding");
    };
    let expected = "`tools[0].parameters.a.enum` is null: `datasets` writes null for keys";
    assert!(found.starts_with(expected), "{found}");
    let [(Reason::Nulls, found)] = &found_in(&preparer, &line(json!([]), json!({"z": null})))[..]
    else {
        panic!("one finding");
    };
    assert!(
        found.starts_with("`tool_calls[0].function.arguments.z` of message 2 is null"),
        "{found}"
    );
}

#[test]
fn a_token_of_both_prompt_and_completion_is_reported() {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/quickstart/base");
    let folder = Folder::read(base.as_ref()).expect("the quick start's base");
    let preparer = Preparer::new(&folder, Options::default()).expect("a tokenizer");
    let line = |prompt: &str, completion: &str| {
        json!({"prompt": prompt, "completion": completion}).to_string()
    };
    // The tokenizer's tokens begin with the space before a word.
    assert_eq!(found_in(&preparer, &line("The answer is", " the one.")), []);
    let told = found_in(&preparer, &line("The answer is ", "the one."));
    let [(Reason::SharedToken, found)] = &told[..] else { panic!("{told:?}") };
    let expected = "the token ` the` begins in the prompt and ends in the completion";
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn what_the_template_leaves_out_is_reported_with_a_hint() {
    let thinking = include_str!("../../../../tests/templates/thinking.jinja");
    let with = |options| {
        let chat_template = ChatTemplate::Jinja(thinking.into());
        preparer(Options { chat_template, ..options })
    };
    let line = r#"{"messages": [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "A1", "reasoning_content": "First thoughts."},
        {"role": "user", "content": "2"},
        {"role": "assistant", "content": "A2", "reasoning_content": "Second thoughts."}]}"#;
    let line = line.replace('\n', "");
    let (_, counts) = shown(&with(Options::default()), &line);
    let found = counts.findings[&Reason::LeftOut].examples[0].to_string();
    let expected = "d.jsonl, line 1: the chat template leaves out the thoughts of message 2: 15 bytes\n\
                    hint: `data.turns: each` makes a sample of every answer with its thoughts";
    assert!(found.starts_with(expected), "{found}");
    let (samples, counts) =
        shown(&with(Options { turns: Turns::Each, ..Options::default() }), &line);
    assert_eq!((samples.len(), counts.findings.len()), (2, 0));
    assert!(samples[0].contains("First thoughts."), "{}", samples[0]);
    let drops = with(Options { left_out: LeftOut::Drop, ..Options::default() });
    assert_eq!(rejected(&drops, &line).0, Reason::LeftOut);
    let fails = with(Options { left_out: LeftOut::Fail, ..Options::default() });
    let error = fails.prepare("d.jsonl", line.as_bytes(), &SourceOptions::default());
    let error = error.expect_err("it fails").to_string();
    assert!(error.starts_with("d.jsonl, line 1: the chat template leaves out"), "{error}");
    // A template that supports neither thoughts nor tools.
    let tools = r#"{"tools": [{"type": "function", "function": {"name": "f"}}], "messages": [
        {"role": "user", "content": "1"}, {"role": "assistant", "content": "<think>t</think> A"}]}"#;
    let (_, counts) = shown(&chatml(Options::default()), &tools.replace('\n', ""));
    let found = counts.findings[&Reason::LeftOut].examples[0].to_string();
    assert!(
        found.contains("leaves out the tool `f`: 1 bytes\nhint: set data.chat_template"),
        "{found}"
    );
}
