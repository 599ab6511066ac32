//! Every container: which records are read, at which places, and what becomes of damage.

mod broken;
mod packed;
mod ranges;

use super::*;
use bytes::Bytes;

/// The records of a range as texts, each with its place, and the positions passed.
fn read_range(object: &str, bytes: &[u8], range: Range<u64>) -> (Vec<(String, String)>, u64) {
    let source = Arc::new(Bytes::copy_from_slice(bytes));
    let opened = Object::open(object, source, Given::default()).expect("a readable object");
    let mut blocks = opened.blocks(range).expect("readable records");
    let mut records = Vec::new();
    for block in &mut blocks {
        records.extend(block.expect("a whole block").take_raws().into_iter().map(shown));
    }
    (records, blocks.positions())
}

/// All records of an object.
fn read(object: &str, bytes: &[u8]) -> Vec<(String, String)> {
    read_range(object, bytes, 0..bytes.len() as u64).0
}

fn shown(raw: Raw<'_>) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let body = match raw.body {
        Body::Json(json) => text(json),
        Body::Value(row) => serde_json::to_string(&row).expect("a row is plain JSON"),
        Body::Text(bytes) => text(bytes),
        Body::Broken(reason) => format!("broken: {reason}"),
        Body::CutOff(reason) => format!("cut off: {reason}"),
    };
    (raw.place.to_string(), body)
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(own).collect()
}

#[test]
fn array_is_walked_with_the_line_of_each_record() {
    let text = "\u{feff}\n[\n  {\"a\": \"]\"},\n\n  {\"a\":\n   2}, 3 ]\n";
    let expected = [
        ("record 1 (line 3)", "{\"a\": \"]\"}"),
        ("record 2 (line 5)", "{\"a\":\n   2}"),
        ("record 3 (line 6)", "3"),
    ];
    assert_eq!(read("a.json", text.as_bytes()), owned(&expected));
    assert_eq!(read("a.json", b"[]"), owned(&[]));
}

#[test]
fn lines_keep_their_numbers_across_blank_ones_and_carriage_returns() {
    let text = "\u{feff}{\"a\":1}\r\n\n  \n{broken\n{\"a\":2}";
    let expected = [("line 1", "{\"a\":1}"), ("line 4", "{broken"), ("line 5", "{\"a\":2}")];
    assert_eq!(read("a.jsonl", text.as_bytes()), owned(&expected));
}

#[test]
fn table_names_its_cells_by_its_first_row() {
    let csv = "\u{feff}instruction, output\r\n\"a, \"\"b\"\"\nc\",d\n\n,\"\"\n";
    let expected = [
        ("line 2", r#"{"instruction":"a, \"b\"\nc","output":"d"}"#),
        ("line 5", r#"{"instruction":"","output":""}"#),
    ];
    assert_eq!(read("a.csv", csv.as_bytes()), owned(&expected));
    let tsv = "q\ta\n1,5\t\"x\ty\"\n";
    assert_eq!(read("A.TSV", tsv.as_bytes()), owned(&[("line 2", r#"{"q":"1,5","a":"x\ty"}"#)]));
    assert_eq!(read("a.csv", b""), owned(&[]));
    assert_eq!(read("a.csv", b"a,b\n"), owned(&[]));
}

#[test]
fn text_is_one_document_in_pieces_that_lose_nothing() {
    assert_eq!(read("a.txt", b" \n "), owned(&[]));
    assert_eq!(read("a.md", b"# A\n\nb"), owned(&[("line 1", "# A\n\nb")]));
    let long = "one two\nthree ".repeat(200_000);
    let pieces = read("a.txt", long.as_bytes());
    assert!(pieces.len() == 3 && pieces.iter().all(|(_, piece)| piece.len() <= 1 << 20));
    let joined: String = pieces.iter().map(|(_, piece)| piece.as_str()).collect();
    assert_eq!(joined, long);
    let lines = 1 + pieces[0].1.matches('\n').count();
    assert_eq!(pieces[1].0, format!("line {lines}"));
}

#[test]
fn an_unsupported_file_is_refused_by_its_kind() {
    for (bytes, kind) in [
        (&b"PK\x03\x04"[..], "a zip file"),
        (b"BZh9", "a bzip2 file"),
        (b"\xff\xfe{\0", "UTF-16 text"),
        (b"PAR1xxxx", "a Parquet file whose metadata cannot be read"),
        (b"{\n  \"data\": [1]\n}", "one JSON object over many lines"),
    ] {
        let source = Arc::new(Bytes::from_static(bytes));
        let size = bytes.len() as u64;
        let opened = Object::open("f", source, Given::default()).and_then(|o| o.blocks(0..size));
        let error = opened.err().expect(kind).to_string();
        assert!(error.starts_with(&format!("f: {kind}")), "{error}");
        assert!(error.contains("\nhint: "), "{error}");
    }
}

#[test]
fn deep_nesting_is_walked_without_recursion() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    assert_eq!(read("a.json", deep.as_bytes()).len(), 1);
}

#[test]
fn blocks_stay_small_and_lose_nothing_between_them() {
    let line = format!("{{\"a\": \"{}\"}}\n", "x".repeat(1 << 20));
    let text = line.repeat(20);
    let source = Arc::new(Bytes::from(text));
    let opened = Object::open("a.jsonl", source, Given::default()).expect("a readable object");
    let blocks = opened.blocks(0..u64::MAX).expect("readable");
    let sizes: Vec<usize> = blocks.map(|b| b.expect("whole").take_raws().len()).collect();
    assert_eq!(sizes, [2; 10]);
    assert_eq!(opened.head().expect("readable").take_raws().len(), 2);
}
