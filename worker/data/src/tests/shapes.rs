//! Files as other tools write them: read if their meaning is plain, else refused with a hint.

use super::*;

const PAIR: &str = r#"{"instruction": "U", "output": "A"}"#;
const SHOWN: &str = "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n⟦A<|im_end|>⟧\n";

/// The samples of an object, and the records that were dropped.
fn read(object: &str, bytes: &str, source: &SourceOptions) -> (Vec<String>, Vec<String>) {
    let preparer = chatml(Options::default());
    let prepared = preparer.prepare(object, bytes.as_bytes(), source).expect("readable");
    assert!(prepared.counts.is_balanced(), "{:?}", prepared.counts);
    let samples = prepared.samples().map(|sample| bracketed(preparer.tokenizer(), sample));
    let dropped = prepared.counts.dropped.values().flat_map(|tally| &tally.examples);
    (samples.collect(), dropped.map(ToString::to_string).collect())
}

fn plain(object: &str, bytes: &str) -> (Vec<String>, Vec<String>) {
    read(object, bytes, &SourceOptions::default())
}

fn refused(object: &str, bytes: &str) -> String {
    let options = Options { broken_end: BrokenEnd::Fail, ..Options::default() };
    let error = chatml(options).prepare(object, bytes.as_bytes(), &SourceOptions::default());
    error.expect_err("refused").to_string()
}

fn fields(names: &[(&str, &str)]) -> SourceOptions {
    let own = |(name, own): &(&str, &str)| ((*name).to_owned(), (*own).to_owned());
    SourceOptions { fields: names.iter().map(own).collect(), ..SourceOptions::default() }
}

#[test]
fn a_missing_number_in_a_column_costs_no_record() {
    let line = PAIR.replace('}', ", \"score\": NaN}");
    let (samples, dropped) = plain("a.jsonl", &format!("{line}\n{line}\n"));
    assert_eq!((samples, dropped.len()), (vec![SHOWN.to_owned(); 2], 0));
    assert_eq!(plain("a.json", &format!("[{line}]")).0, [SHOWN]);
}

#[test]
fn half_a_character_is_reported_as_such() {
    for half in [r"\ud83d", r"\ud83d!", r"\ude00"] {
        let lines = format!("{PAIR}\n{}\n", PAIR.replace('A', half));
        let (samples, dropped) = plain("a.jsonl", &lines);
        assert_eq!((samples.len(), dropped.len()), (1, 1), "{half}");
        let expected = "a.jsonl, line 2: not valid JSON: half of a character, such as `\\ud83d`, \
                        without its other half";
        assert!(dropped[0].starts_with(expected), "{}", dropped[0]);
    }
    assert!(plain("a.jsonl", &PAIR.replace('A', r"\ud83d\ude00")).0[0].contains('😀'));
}

#[test]
fn a_git_lfs_pointer_is_reported_as_such() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    for object in ["a.jsonl", "a.json", "a.parquet", "a.csv", "a.txt"] {
        let error = refused(object, pointer);
        let expected =
            "a Git LFS pointer, not the file itself\nhint: `git lfs pull` fetches the file";
        assert!(error.ends_with(expected), "{error}");
    }
    let contents = [pointer.as_bytes()];
    let error = Folder::of(&contents).expect_err("no tokenizer").to_string();
    assert!(error.starts_with("tokenizer.json: a Git LFS pointer"), "{error}");
}

#[test]
fn a_tables_delimiter_is_found_in_its_first_line() {
    for table in [
        "instruction;output\nU;A\n",
        "\u{feff}instruction;output\r\nU;A\r\n",
        "\"instruction\";\"output\"\n\"U\";\"A\"\n",
        "instruction\toutput\nU\tA\n",
        "instruction,\"output\"\nU,A\n",
        "instruction,output,\"a;b\"\nU,A,\n",
    ] {
        assert_eq!(plain("a.csv", table), (vec![SHOWN.to_owned()], Vec::new()), "{table}");
    }
}

#[test]
fn a_list_in_an_object_is_a_list() {
    for (object, text) in [
        ("a.json", format!(r#"{{"data": [{PAIR}, {PAIR}]}}"#)),
        ("a.json", format!("{{\n  \"train\" : [\n {PAIR},\n {PAIR}\n ]\n}}\n")),
        ("a", format!("\u{feff}{{\"rows\":[{PAIR},{PAIR}]}}")),
    ] {
        assert_eq!(plain(object, &text), (vec![SHOWN.to_owned(); 2], Vec::new()), "{text}");
    }
    // An object with more than the list, and a list that breaks off.
    let error = refused("a.json", &format!("{{\"train\": [\n{PAIR}],\n\"test\": [{PAIR}]}}"));
    assert!(error.contains("the object has more fields than this list"), "{error}");
    let error = refused("a.json", &format!(r#"{{"data": [{PAIR}]"#));
    assert!(error.contains("the array breaks off here: it ends without `}`"), "{error}");
    // Lines whose records begin with such a list, and a single record that has more than the list.
    let items = PAIR.replacen('{', r#"{"items": [{"x": 1}], "#, 1);
    assert_eq!(plain("a.json", &format!("{items}\n{items}\n")).0, [SHOWN, SHOWN]);
    assert_eq!(plain("a.json", &items).0, [SHOWN]);
    // The list is a field of the records if the source says so.
    let messages = r#"[{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]"#;
    let lines = format!("{{\"data\": {messages}}}\n{{\"data\": {messages}}}\n");
    let (samples, _) = read("a.json", &lines, &fields(&[("messages", "data")]));
    assert_eq!(samples, [SHOWN, SHOWN]);
}

#[test]
fn an_object_of_lists_is_a_list_of_objects() {
    let roles = r#""role": ["user", "assistant"], "content": ["U", "A"]"#;
    for line in [
        format!(r#"{{"messages": {{{roles}}}}}"#),
        format!(r#"{{"messages": {{{roles}, "name": [null, null]}}}}"#),
        r#"{"conversations": {"from": ["human", "gpt"], "value": ["U", "A"]}}"#.to_owned(),
        r#"{"messages": {"from": ["human", "gpt"], "value": ["U", "A"]}}"#.to_owned(),
    ] {
        assert_eq!(plain("a.jsonl", &line), (vec![SHOWN.to_owned()], Vec::new()), "{line}");
    }
    let own = r#"{"conversations": {"speaker": ["human", "gpt"], "value": ["U", "A"]}}"#;
    let names = fields(&[("from", "speaker")]);
    assert_eq!(read("a.jsonl", own, &names).0, [SHOWN]);
    let uneven = r#"{"messages": {"role": ["user", "assistant"], "content": ["U"]}}"#;
    let (_, dropped) = plain("a.jsonl", uneven);
    assert_eq!(dropped, ["a.jsonl, line 1: `messages` must be a list, got an object"]);
}

#[test]
fn fields_may_be_named_by_their_path() {
    let said =
        |who: &str, said: &str| format!(r#"{{"message": {{"who": "{who}", "said": "{said}"}}}}"#);
    let lists = format!(r#""messages": [{}, {}]"#, said("user", "U"), said("assistant", "A"));
    let names =
        [("messages", "data.messages"), ("role", "message.who"), ("content", "message.said")];
    let line = format!(r#"{{"data": {{{lists}}}, "id": 1}}"#);
    assert_eq!(read("a.jsonl", &line, &fields(&names)), (vec![SHOWN.to_owned()], Vec::new()));
    let pair = r#"{"q": {"text": "U"}, "a.b": "A"}"#;
    let names = [("instruction", "q.text"), ("output", "a.b")];
    assert_eq!(read("a.jsonl", pair, &fields(&names)).0, [SHOWN]);
}

#[test]
fn preference_sets_are_refused_whatever_their_fields_are_called() {
    for names in [["chosen", "rejected"], ["chosen_messages", "rejected_messages"]] {
        let line = format!(r#"{{"prompt": "U", "{}": [], "{}": []}}"#, names[0], names[1]);
        let error = refused("a.jsonl", &line);
        let expected =
            format!("has `{}` and `{}`, which makes it a preference set (DPO)", names[0], names[1]);
        assert!(error.contains(&expected), "{error}");
    }
    // If the source says which of the two is the answer, the record is not a preference.
    let line = r#"{"prompt": "U", "chosen_response": "A", "rejected_response": "B"}"#;
    let source = fields(&[("instruction", "prompt"), ("output", "chosen_response")]);
    assert_eq!(read("a.jsonl", line, &source).0, [SHOWN]);
}
