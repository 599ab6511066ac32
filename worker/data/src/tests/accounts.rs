//! What becomes of each record: cut, dropped or refused, and always counted.

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
fn each_bad_line_stands_in_the_receipt_and_the_good_ones_are_kept() {
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
