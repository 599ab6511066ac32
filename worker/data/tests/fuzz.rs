//! Runs every parser on broken input: no panic, no hang, and every record accounted for.
//!
//! Each target sees mutations of valid input that depend only on the seed, so a failing seed is the
//! whole bug report: `MUSTER_SEED=17 cargo test -p data --test fuzz array`. With
//! `MUSTER_SEEDS=10000000` it runs for as long as you like.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chrono::NaiveDate;
use data::{
    Body, ChatTemplate, Conversation, Folder, Format, Message, Object, Options, Preparer, Role,
    Shape, SourceOptions, Template,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value, json};

/// The number of mutations of each target; `MUSTER_SEEDS` sets another.
const SEEDS: u64 = 2000;
/// The most changes at once: more would leave nothing of the valid input.
const MOST_EDITS: usize = 6;

/// Random numbers by SplitMix64 (Steele, Lea and Flood, 2014): any seed is as good as any other.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit.max(1) as u64) as usize
    }
}

/// Bytes that break parsers.
const ODD: [&[u8]; 14] = [
    b"\"",
    b"\\",
    b"}",
    b"]",
    b",",
    b"\r\n",
    b"\0",
    b"\\ud800",
    b"\xe9",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"1e999",
    &[b'['; 150],
    b"{% raw %}",
];

fn edit(bytes: &mut Vec<u8>, random: &mut Random) {
    let start = random.below(bytes.len());
    let end = bytes.len().min(start + random.below(200));
    match random.below(7) {
        0 => bytes.iter_mut().skip(start).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        1 => bytes.iter_mut().skip(start).take(1).for_each(|byte| *byte = random.below(256) as u8),
        2 => bytes.truncate(start),
        3 => drop(bytes.drain(start..end)),
        4 => {
            let again = bytes[start..end].repeat(random.below(8));
            bytes.splice(end..end, again);
        }
        5 => {
            let other = random.below(bytes.len());
            let moved = bytes[start..end].to_vec();
            bytes.splice(other..other, moved);
        }
        _ => {
            bytes.splice(start..start, ODD[random.below(ODD.len())].iter().copied());
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|v| v.parse().expect("a number of seeds, or a seed"))
}

/// Calls `test` with valid input and with mutations of it.
fn mutate(valid: &[u8], test: impl Fn(&[u8])) {
    test(valid);
    let seeds = match number("MUSTER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MUSTER_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let mut random = Random(seed);
        let mut bytes = valid.to_vec();
        for _ in 0..=random.below(MOST_EDITS) {
            edit(&mut bytes, &mut random);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| test(&bytes)));
        assert!(outcome.is_ok(), "seed {seed}: {}", String::from_utf8_lossy(&bytes));
    }
}

/// Reads an object to its end, in two ranges, and counts the records.
fn read(name: &str, bytes: &[u8]) -> usize {
    let source = Arc::new(Bytes::copy_from_slice(bytes));
    let Ok(object) = Object::open(name, source, data::Given::default()) else {
        return 0;
    };
    let size = bytes.len() as u64;
    let mut records = 0;
    for range in [0..size / 2, size / 2..size] {
        let blocks = object.blocks(range).into_iter().flatten();
        records += blocks.flatten().map(|mut block| block.take_raws().len()).sum::<usize>();
    }
    records
}

fn preparer(template: ChatTemplate) -> Preparer {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/quickstart/base");
    let folder = Folder::read(&base).expect("the repository has a base");
    let options = Options { chat_template: template, ..Options::default() };
    Preparer::new(&folder, options).expect("a tokenizer and a template")
}

/// Prepares a whole object: every record that is read is eligible, or dropped for a reason.
fn prepare(preparer: &Preparer, name: &str, bytes: &[u8]) {
    if let Ok(prepared) = preparer.prepare(name, bytes, &SourceOptions::default()) {
        assert!(prepared.counts.is_balanced(), "{:?}", prepared.counts);
        assert_eq!(prepared.counts.samples, prepared.samples().count() as u64);
    }
}

fn messages(i: usize) -> Value {
    json!({"messages": [{"role": "user", "content": format!("{i}+1?\n")},
                        {"role": "assistant", "content": "é 日 \"", "weight": 0.5}],
           "tools": null})
}

fn lines() -> Vec<u8> {
    (0..6).map(|i| format!("{}\n", messages(i))).collect::<String>().into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn json_lines() {
    let preparer = preparer(ChatTemplate::Chatml);
    mutate(&lines(), |bytes| prepare(&preparer, "a.jsonl", bytes));
}

#[test]
fn array() {
    let preparer = preparer(ChatTemplate::Chatml);
    let records: Vec<_> = (0..6).map(messages).collect();
    let valid = serde_json::to_vec_pretty(&records).expect("plain JSON");
    mutate(&valid, |bytes| prepare(&preparer, "a.json", bytes));
}

#[test]
fn table() {
    let preparer = preparer(ChatTemplate::Alpaca);
    let valid = b"instruction,output\n\"a, \"\"b\"\"\nc\",d\ne,f\r\n\n,\"g\"\n";
    mutate(valid, |bytes| prepare(&preparer, "a.csv", bytes));
}

#[test]
fn text() {
    let preparer = preparer(ChatTemplate::Tokenizer);
    let valid = "One text. 日本語 \u{1f642}\r\nAnd more of it.\n".repeat(3);
    mutate(valid.as_bytes(), |bytes| prepare(&preparer, "a.txt", bytes));
}

/// Rows of an optional text and a list of texts, in three row groups.
fn rows() -> Vec<u8> {
    let schema = "message m { optional binary prompt (UTF8); required group completion (LIST) {
                  repeated group list { required binary element (UTF8); } } }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, properties).expect("a writer");
    let texts = |texts: &[&str]| texts.iter().copied().map(ByteArray::from).collect::<Vec<_>>();
    for _ in 0..3 {
        let mut group = file.next_row_group().expect("a row group");
        for (values, definitions, repetitions) in [
            (texts(&["one", "three"]), &[1, 0, 1][..], None),
            (texts(&["a", "b", "c", "d"]), &[1, 1, 1, 1], Some(&[0, 1, 0, 0][..])),
        ] {
            let mut column = group.next_column().expect("a column").expect("one of two");
            let typed = column.typed::<ByteArrayType>();
            typed.write_batch(&values, Some(definitions), repetitions).expect("values");
            column.close().expect("closed");
        }
        group.close().expect("closed");
    }
    file.into_inner().expect("finished")
}

#[test]
fn parquet_rows() {
    assert_eq!(read("a.parquet", &rows()), 9);
    mutate(&rows(), |bytes| _ = read("a.parquet", bytes));
}

/// A Parquet file's table of contents is at its end, so nothing is known of a file that is cut, and
/// nothing is read.
#[test]
fn a_parquet_file_that_is_cut_anywhere_is_refused() {
    let (preparer, whole, source) =
        (preparer(ChatTemplate::Tokenizer), rows(), SourceOptions::default());
    for cut in b"PAR1".len()..whole.len() {
        let refused = preparer.prepare("a.parquet", &whole[..cut], &source);
        assert!(matches!(refused, Err(data::PrepareError::Read(_))), "cut at {cut}: {refused:?}");
    }
}

#[test]
fn record() {
    let shapes = [Format::Alpaca, Format::Messages, Format::Completion, Format::Text]
        .map(|format| Shape::new(&SourceOptions::default(), format));
    let mut record = messages(1);
    for name in ["instruction", "input", "output", "prompt", "completion", "text", "system"] {
        record[name] = Value::from("text");
    }
    record["history"] = json!([["a", "b"]]);
    mutate(record.to_string().as_bytes(), |bytes| {
        shapes.iter().for_each(|shape| drop(shape.parse(Body::Json(bytes))));
    });
}

#[test]
fn gzip_members() {
    let valid = [gzip(&lines()), gzip(&lines())].concat();
    mutate(&valid, |bytes| _ = read("a.jsonl.gz", bytes));
}

#[test]
fn zstd_frames() {
    let frame = zstd::encode_all(&lines()[..], 3).expect("memory");
    mutate(&[frame.clone(), frame].concat(), |bytes| _ = read("a.jsonl.zst", bytes));
}

#[test]
fn chat_template() {
    let valid = "{%- for m in messages %}{% set x = m['content'] | trim %}<|im_start|>{{ m.role }}\n\
                 {% if m.role == 'assistant' %}{% generation %}{{ x[1:] + '<|im_end|>' }}{% endgeneration %}\
                 {%- else %}{{ x }}{{ raise_exception('no') if x == 'no' }}{% endif %}{% endfor %}";
    let (user, assistant) = (Message::new(Role::User, "a"), Message::new(Role::Assistant, "b"));
    let conversation = Conversation::of([user, assistant]);
    mutate(valid.as_bytes(), |bytes| {
        let source = String::from_utf8_lossy(bytes);
        if let Ok(template) = Template::new(&source, &Map::new(), NaiveDate::default()) {
            drop(template.prompt(&conversation));
            drop(template.render(&conversation, 2, false));
        }
    });
}
