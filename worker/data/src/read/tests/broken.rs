//! Damage costs as little as possible, and its place is reported.

use super::*;
use std::io;

#[test]
fn broken_array_keeps_what_came_before_and_names_where_it_breaks_off() {
    const OFF: &str = "cut off: the array breaks off here: ";
    for (text, before, place, reason) in [
        ("[{\"a\":1},\n{\"a\":", 1, "record 2 (line 2)", "it ends in the middle of this record"),
        ("[1, 2", 2, "record 3 (line 1)", "it ends without `]`"),
        ("[1 2]", 1, "record 2 (line 1)", "expected `,` or `]`, got `2`"),
        ("[1,]", 1, "record 2 (line 1)", "expected a value before `]`, in line 1"),
        ("[1]\nx", 1, "record 2 (line 2)", "`x` after the array's end"),
        ("[", 0, "record 1 (line 1)", "it ends without `]`"),
        ("[[1},\n2]", 0, "record 1 (line 1)", "expected `]`, got `}`, in line 1"),
        ("[\"a, 2]", 0, "record 1 (line 1)", "it ends in the middle of this record"),
    ] {
        let mut records = read("a.json", text.as_bytes());
        let last = records.pop().expect("where it breaks off");
        assert_eq!(last, (place.to_owned(), format!("{OFF}{reason}")), "{text}");
        assert_eq!(records.len(), before, "{text}");
    }
}

#[test]
fn element_that_is_not_json_costs_only_itself() {
    let records = read("a.json", b"[{\"a\": tru}, {\"b\": 2}]");
    let expected = [("record 1 (line 1)", "{\"a\": tru}"), ("record 2 (line 1)", "{\"b\": 2}")];
    assert_eq!(records, owned(&expected));
}

#[test]
fn table_rows_of_wrong_length_or_encoding_cost_only_themselves() {
    let records = read("a.csv", b"a,b\n1\n1,2,3\n\xe9,2\n1,2\n");
    let expected = [
        ("line 2", "broken: 1 cells in a table of 2 columns"),
        ("line 3", "broken: 3 cells in a table of 2 columns"),
        ("line 4", "broken: `a` is not UTF-8"),
        ("line 5", r#"{"a":"1","b":"2"}"#),
    ];
    assert_eq!(records, owned(&expected));
    for (table, found) in
        [(&b"a,a\n1,2\n"[..], "a header that has `a` twice"), (b"\xe9,b\n", "not UTF-8")]
    {
        let opened = Object::open("a.csv", Arc::new(Bytes::from_static(table)), Given::default());
        let error = opened.and_then(|o| o.blocks(0..9)).err().expect(found).to_string();
        assert!(error.starts_with("a.csv: ") && error.contains(found), "{error}");
    }
}

#[test]
fn a_table_whose_quote_does_not_close_is_cut_off_where_it_opens() {
    let rows = |n: std::ops::Range<usize>| -> String {
        n.map(|i| format!("Question {i}?,Answer {i}.\n")).collect()
    };
    let table = format!("instruction,output\n{}\"{}", rows(0..3), rows(3..9));
    let records = read("a.csv", table.as_bytes());
    let said = "cut off: a quote opens here and does not close: lines 5 to 11 are one cell";
    assert_eq!((records.len(), &records[3]), (4, &("line 5".into(), said.into())));
    for (rest, said) in [
        ("a", "the last row breaks off after 1 of 3 cells"),
        ("a,b", "the last row breaks off after 2 of 3 cells"),
        ("a,\"b\"", "the last row breaks off after 2 of 3 cells"),
        ("a,\"b,c", "a quote opens here and does not close: lines 3 to 3 are one cell"),
    ] {
        let records = read("a.csv", format!("x,y,z\n1,2,3\n{rest}").as_bytes());
        assert_eq!(records.len(), 2, "{rest}");
        assert_eq!(records[1], ("line 3".into(), format!("cut off: {said}")), "{rest}");
    }
    // Nothing shows that this is not the whole table.
    assert_eq!(read("a.csv", b"x,y\n1,2")[0].1, r#"{"x":"1","y":"2"}"#);
}

#[test]
fn a_last_line_that_only_begins_is_cut_off() {
    let whole = "{\"a\": \"b\"}";
    for cut in 1..whole.len() {
        let records = read("a.jsonl", format!("{whole}\n{}", &whole[..cut]).as_bytes());
        let (place, said) = &records[1];
        assert_eq!(place, "line 2");
        assert!(
            said.starts_with("cut off: the last line breaks off: not valid JSON: EOF"),
            "{said}"
        );
    }
    for (text, said) in [("{a", "{a"), ("{} {", "{} {"), ("1", "1")] {
        assert_eq!(read("a.jsonl", format!("{whole}\n{text}").as_bytes())[1].1, said);
    }
    // A line that ends with a newline was written that way.
    assert_eq!(read("a.jsonl", b"{\"a\":\n{}\n")[0].1, "{\"a\":");
}

#[test]
fn a_cell_of_swallowed_rows_is_distinguished_from_text() {
    let swallowed = |csv: &str| {
        let opened = Object::open(
            "a.csv",
            Arc::new(Bytes::copy_from_slice(csv.as_bytes())),
            Given::default(),
        );
        let mut head = opened.and_then(|o| o.head()).expect("readable");
        head.take_raws().iter().map(|raw| raw.swallowed).collect::<Vec<_>>()
    };
    let rows = "Q1?,A1.\nQ2?,A2.\nQ3?,A3.\nQ4?,A4.\n";
    assert_eq!(swallowed(&format!("q,a\n\"Q0?,A0.\n{rows}Q5?\",A5.\n1,2\n")), [4, 0]);
    let text = "\"One, two.\n\nThree, four, five.\nSix.\nSeven, eight.\nNine, ten.\n\"";
    assert_eq!(swallowed(&format!("q,a\nQ,{text}\n")), [0]);
    assert_eq!(swallowed("q,a\nQ,\"a, b\nc, d\n\"\n"), [0], "too few to tell");
}

/// 70 MiB of one letter between two texts, generated when they are read.
struct Gigantic {
    before: &'static str,
    after: &'static str,
}

const GIGANTIC: u64 = 70 << 20;

impl ReadAt for Gigantic {
    fn size(&self) -> u64 {
        (self.before.len() + self.after.len()) as u64 + GIGANTIC
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        let byte = |at: u64| {
            let middle = self.before.len() as u64;
            match at.checked_sub(middle + GIGANTIC) {
                Some(at) => self.after.as_bytes()[at as usize],
                None => self.before.as_bytes().get(at as usize).copied().unwrap_or(b'x'),
            }
        };
        Ok(range.map(byte).collect())
    }
}

#[test]
fn a_gigantic_record_is_skipped_and_named_and_the_next_is_read() {
    for (name, before, after, expected) in [
        (
            "a.jsonl",
            "1\n\"",
            "\"\n3\n",
            &[("line 1", "1"), ("line 2", "broken: a record of more than 64 MiB"), ("line 3", "3")]
                [..],
        ),
        (
            "a.json",
            "[1,\n\"",
            "\",\n3]",
            &[
                ("record 1 (line 1)", "1"),
                ("record 2 (line 2)", "broken: a record of more than 64 MiB"),
                ("record 3 (line 3)", "3"),
            ],
        ),
        (
            "a.csv",
            "a\n1\n\"",
            "\n",
            &[
                ("line 2", "{\"a\":\"1\"}"),
                (
                    "line 3",
                    "cut off: a record of more than 64 MiB: does a quote that opens here close?",
                ),
            ],
        ),
    ] {
        let opened = Object::open(name, Arc::new(Gigantic { before, after }), Given::default());
        let blocks = opened.expect("readable").blocks(0..u64::MAX).expect("readable");
        let mut records = Vec::new();
        for block in blocks {
            let mut block = block.expect("a whole block");
            records.extend(block.take_raws().into_iter().map(shown));
        }
        assert_eq!(records, owned(expected), "{name}");
    }
}

/// A source that fails after some bytes.
struct Failing(Bytes);

impl ReadAt for Failing {
    fn size(&self) -> u64 {
        self.0.size() + 1
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        match range.end > self.0.size() {
            true => Err(io::Error::other("the network is gone")),
            false => self.0.read_at(range),
        }
    }
}

#[test]
fn a_failing_source_is_not_a_broken_record() {
    let long = "{\"a\": 1}\n".repeat(100_000);
    let gzipped =
        super::packed::gzip(&(0..400_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    for (name, bytes) in [("a.jsonl", long.into_bytes()), ("a.json", gzipped)] {
        let opened =
            Object::open(name, Arc::new(Failing(bytes.into())), Given::default()).expect("a head");
        let error = opened.blocks(0..u64::MAX).expect("begins").find_map(Result::err);
        let error = error.expect("the source's error");
        assert!(matches!(&error, ReadError::Source { .. }), "{error}");
        assert_eq!(
            proto::error::chain(&error),
            format!("{name} cannot be read: the network is gone")
        );
    }
}
