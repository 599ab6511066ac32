//! Files that are cut anywhere, in every container: no record before the cut is lost, and no loss
//! is silent.

use std::io::Write;
use std::path::Path;

use data::{
    BrokenEnd, ChatTemplate, Folder, Options, PrepareError, Prepared, Preparer, SourceOptions,
};
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::json;

/// The number of cases; every file of a case is cut at every byte.
const FILES: u32 = 6;

fn preparer(broken_end: BrokenEnd) -> Preparer {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/quickstart/base");
    let folder = Folder::read(&base).expect("the repository has a base");
    let chat_template = ChatTemplate::Chatml;
    Preparer::new(&folder, Options { broken_end, chat_template, ..Options::default() })
        .expect("a tokenizer and a template")
}

/// A question and an answer with everything that containers have to escape.
fn record() -> impl Strategy<Value = (String, String)> {
    let text = r#"[a-c,;\t\n"'\\{}\[\]é日]{0,12}x"#;
    (text, text)
}

/// A file, and the position at which each of its records ends.
struct File {
    name: &'static str,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Puts records between the texts that open a file, separate its records and close it.
fn file(name: &'static str, [open, part, close]: [&str; 3], records: Vec<String>) -> File {
    let mut bytes = open.as_bytes().to_vec();
    let mut ends = Vec::new();
    for (i, record) in records.iter().enumerate() {
        bytes.extend(if i > 0 { part.as_bytes() } else { b"" });
        bytes.extend(record.as_bytes());
        ends.push(bytes.len());
    }
    bytes.extend(close.as_bytes());
    File { name, bytes, ends }
}

fn files(records: &[(String, String)]) -> Vec<File> {
    let objects = || -> Vec<String> {
        let object = |(q, a): &(String, String)| json!({"instruction": q, "output": a});
        records.iter().map(|record| object(record).to_string()).collect()
    };
    let rows = |delimiter: &str| -> Vec<String> {
        let cell = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        records.iter().map(|(q, a)| cell(q) + delimiter + &cell(a)).collect()
    };
    vec![
        file("a.jsonl", ["", "\n", "\n"], objects()),
        file("a.jsonl", ["", "\r\n", ""], objects()),
        file("a.json", ["[", ", ", "]"], objects()),
        file("a.json", ["[\n  ", ",\n  ", "\n]\n"], objects()),
        file("a.csv", ["instruction,output\n", "\n", "\n"], rows(",")),
        file("a.tsv", ["instruction\toutput\r\n", "\r\n", ""], rows("\t")),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// Asserts that all records before the cut are the same as in the whole file.
fn assert_begins(prepared: &Prepared, all: &Prepared, whole: usize, said: &str) {
    let counts = &prepared.counts;
    assert!(counts.is_balanced(), "{said}");
    assert!(counts.read >= whole as u64, "{said}: {} of {whole} are read", counts.read);
    assert!(counts.read <= whole as u64 + 1, "{said}: {} are read of {whole}", counts.read);
    assert!(prepared.records.len() >= whole, "{said}");
    assert_eq!(prepared.records[..whole], all.records[..whole], "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: FILES,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_record_before_a_cut_is_lost(records in prop::collection::vec(record(), 1..5)) {
        let (strict, lenient) = (preparer(BrokenEnd::Fail), preparer(BrokenEnd::Keep));
        let source = SourceOptions::default();
        for File { name, bytes, ends } in files(&records) {
            let all = strict.prepare(name, &bytes, &source).expect("it is whole");
            assert_eq!(all.records.len(), records.len(), "{name}");
            for cut in 1..bytes.len() {
                let whole = ends.iter().filter(|end| **end <= cut).count();
                let said = format!("{name} of {} bytes, cut at {cut}", bytes.len());
                let opens = bytes.iter().position(|byte| !byte.is_ascii_whitespace());
                if name.ends_with("sv") && whole == 0 || opens.is_none_or(|at| cut <= at) {
                    // Half of a header is a different header.
                    continue;
                }
                match strict.prepare(name, &bytes[..cut], &source) {
                    Ok(prepared) => {
                        assert_begins(&prepared, &all, whole, &said);
                        // An array shows where it ends.
                        let is_whole = bytes[cut..].trim_ascii().is_empty();
                        assert!(is_whole || !name.ends_with(".json"), "{said}");
                    }
                    Err(PrepareError::BrokenEnd { .. }) => {
                        assert!(cut < ends[ends.len() - 1] || name.ends_with(".json"), "{said}");
                    }
                    Err(error) => panic!("{said}: {error}"),
                }
                let kept = lenient.prepare(name, &bytes[..cut], &source).expect(&said);
                assert_begins(&kept, &all, whole, &said);
            }
            for (ending, packed) in [
                ("gz", gzip(&bytes)),
                ("zst", zstd::encode_all(&bytes[..], 3).expect("memory")),
            ] {
                for cut in 5..packed.len() {
                    let said = format!("{name}.{ending} of {} bytes, cut at {cut}", packed.len());
                    match strict.prepare(name, &packed[..cut], &source) {
                        Err(PrepareError::BrokenEnd { .. }) => {}
                        // A table may have lost its header.
                        Err(PrepareError::Read(_)) if name.ends_with("sv") => continue,
                        Err(error) => panic!("{said}: {error}"),
                        Ok(_) => panic!("{said}: no error"),
                    }
                    let kept = lenient.prepare(name, &packed[..cut], &source).expect(&said);
                    let whole = kept.records.len();
                    assert!(kept.counts.is_balanced(), "{said}");
                    assert_eq!(kept.records, all.records[..whole], "{said}");
                }
            }
        }
    }
}
