//! However an object is split into ranges, each record is read by exactly one of them, and places
//! add up.

use super::*;
use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;

/// The records of all ranges between `cuts`, with positions counted on from range to range.
fn read_in(object: &str, bytes: &[u8], cuts: &[u64]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut before = 0;
    for pair in cuts.windows(2) {
        let source = Arc::new(Bytes::copy_from_slice(bytes));
        let opened = Object::open(object, source, Given::default()).expect("a readable object");
        let mut blocks = opened.blocks(pair[0]..pair[1]).expect("readable records");
        for block in &mut blocks {
            let mut block = block.expect("a whole block");
            let raws = block.take_raws().into_iter();
            all.extend(raws.map(|raw| shown(Raw { place: raw.place.shifted(before), ..raw })));
        }
        before += blocks.positions();
    }
    all
}

#[test]
fn every_cut_of_json_lines_reads_each_line_once() {
    for text in ["{\"a\":1}\n\n{\"b\":2}\r\nx\n{\"c\":3}", "1\n2\n3\n", "\n\n1\n", "1"] {
        let size = text.len() as u64;
        let whole = read("a.jsonl", text.as_bytes());
        for first in 1..size {
            for second in first..size {
                let cuts = [0, first, second, size];
                assert_eq!(read_in("a.jsonl", text.as_bytes(), &cuts), whole, "{cuts:?}: {text:?}");
            }
        }
    }
}

#[test]
fn an_object_that_cannot_be_split_belongs_to_its_first_range() {
    let array = b"[1, 2,\n3]";
    assert_eq!(read_in("a.json", array, &[0, 4, 9]), read("a.json", array));
    assert_eq!(read_range("a.json", array, 4..9).0, owned(&[]));
}

/// A Parquet file of one text column, with row groups of two rows.
fn parquet(rows: &[&str]) -> Vec<u8> {
    let schema = parse_message_type("message m { required binary text (UTF8); }");
    let schema = Arc::new(schema.expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, properties).expect("a writer");
    for group in rows.chunks(2) {
        let mut writer = file.next_row_group().expect("a row group");
        let mut column = writer.next_column().expect("a column").expect("the only one");
        let values: Vec<ByteArray> = group.iter().map(|row| ByteArray::from(*row)).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).expect("values");
        column.close().expect("closed");
        writer.close().expect("closed");
    }
    file.into_inner().expect("finished")
}

#[test]
fn every_cut_of_parquet_reads_each_row_once() {
    let bytes = parquet(&["a", "b", "c", "d", "e"]);
    let expected: Vec<_> = (1..)
        .zip(["a", "b", "c", "d", "e"])
        .map(|(row, text)| (format!("row {row}"), format!("{{\"text\":\"{text}\"}}")))
        .collect();
    let size = bytes.len() as u64;
    for cut in 1..size {
        assert_eq!(read_in("a.parquet", &bytes, &[0, cut, size]), expected, "{cut}");
    }
}

#[test]
fn a_damaged_row_group_costs_its_rows_and_no_others() {
    let mut bytes = parquet(&["first", "second", "third", "fourth", "fifth"]);
    let at = bytes.windows(5).position(|w| w == b"third").expect("plain in the file");
    // The length that precedes the text.
    bytes[at - 4..at].copy_from_slice(&[0xff; 4]);
    let rows = read("a.parquet", &bytes);
    let kept: Vec<&str> =
        rows.iter().filter(|(_, b)| !b.starts_with("broken")).map(|(p, _)| p.as_str()).collect();
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert_eq!(kept, ["row 1", "row 2", "row 5"]);
    assert!(rows[2].1.contains("the row group breaks off before this row"), "{rows:?}");
}
