//! From an object's bytes to its records' bytes, each with its place. Knows nothing of a record's
//! fields.
//!
//! ```text
//! [ {...}, {...} ]   an array: walked value by value, never parsed as a whole
//! {...}\n{...}\n     JSON lines: a broken line costs that line only
//! anything           a text: one document
//! ```

use std::ops::Range;

use proto::prepared::Unit;
use proto::receipt::Place;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Why an object cannot be split into records; none of its records is used.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// A known format that holds no plain JSON or text.
    #[error("{object}: {found}\nhint: {hint}")]
    Unreadable {
        /// The object's name.
        object: String,
        /// What its first bytes say.
        found: &'static str,
        /// The way out.
        hint: &'static str,
    },
    /// A JSON array that breaks off: where its next record starts cannot be known.
    #[error(
        "{object}, {place}: {reason}\n\
         hint: what follows cannot be told apart; mend the array, or write one record per line \
         (`jq -c '.[]'`)"
    )]
    BrokenArray {
        /// The object's name.
        object: String,
        /// The record after which nothing can be read.
        place: Place,
        /// What the parser met.
        reason: String,
    },
}

/// How an object holds its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// One JSON array.
    Array,
    /// One JSON value per line.
    Lines,
    /// The object is the record.
    Document,
}

impl Container {
    /// What a position in a prepared shard counts.
    pub fn unit(self) -> Unit {
        match self {
            Container::Array => Unit::Record,
            Container::Lines | Container::Document => Unit::Line,
        }
    }

    /// The words that a person reads.
    pub fn label(self) -> &'static str {
        match self {
            Container::Array => "a JSON array",
            Container::Lines => "JSON lines",
            Container::Document => "a text",
        }
    }
}

/// One record, not yet looked into.
#[derive(Clone, Debug)]
pub struct Raw<'a> {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub body: Body<'a>,
}

/// A record's content, as far as its container settles it.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// One JSON value.
    Json(&'a [u8]),
    /// A row of a table: its cells by the columns' names.
    Value(Map<String, Value>),
    /// A text that has no fields.
    Text(&'a [u8]),
    /// Nothing that can be read, and why.
    Broken(String),
}

/// Splits an object into records; `is_text` where the user said `format: text`.
///
/// # Errors
/// Compressed and columnar files, UTF-16, one JSON object over many lines, and an array that breaks
/// off.
pub fn split<'a>(
    object: &str,
    bytes: &'a [u8],
    is_text: bool,
) -> Result<(Container, Vec<Raw<'a>>), ContainerError> {
    let unreadable =
        |(found, hint)| ContainerError::Unreadable { object: object.to_owned(), found, hint };
    if let Some(known) = foreign(bytes) {
        return Err(unreadable(known));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let container = container_of(object, bytes, is_text);
    let raws = match container {
        Container::Array => array(object, bytes)?,
        Container::Lines => lines(bytes, 1),
        Container::Document => document(bytes),
    };
    if container == Container::Lines && is_one_object(bytes, &raws) {
        return Err(unreadable((
            "one JSON object over many lines",
            "records are the elements of a JSON array, or one object per line (`jq -c .`)",
        )));
    }
    Ok((container, raws))
}

/// Splits JSON lines whose first is line `first_line` of its object; blank lines are no records.
pub fn lines(bytes: &[u8], first_line: u64) -> Vec<Raw<'_>> {
    let numbered = (first_line..).zip(bytes.split(|&byte| byte == b'\n'));
    let trimmed = numbered.map(|(line, bytes)| (line, bytes.trim_ascii()));
    let records = trimmed.filter(|(_, bytes)| !bytes.is_empty());
    records.map(|(line, json)| Raw { place: Place::line(line), body: Body::Json(json) }).collect()
}

fn document(bytes: &[u8]) -> Vec<Raw<'_>> {
    let place = Place::line(1);
    let is_blank = bytes.trim_ascii().is_empty();
    let raws = (!is_blank).then_some(Raw { place, body: Body::Text(bytes) });
    raws.into_iter().collect()
}

fn array<'a>(object: &str, bytes: &'a [u8]) -> Result<Vec<Raw<'a>>, ContainerError> {
    let mut raws: Vec<Raw<'a>> = Vec::new();
    let mut walk = Walk { bytes, at: 0, line: 1 };
    walk.skip_blank();
    walk.next_byte();
    loop {
        let line = walk.skip_blank();
        let place = Place::Record { record: raws.len() as u64 + 1, line };
        let broken =
            |reason| ContainerError::BrokenArray { object: object.to_owned(), place, reason };
        if raws.is_empty() && walk.peek() == Some(b']') {
            walk.next_byte();
            break;
        }
        let value = walk.value().map_err(broken)?;
        raws.push(Raw { place, body: Body::Json(&bytes[value]) });
        walk.skip_blank();
        match walk.next_byte() {
            Some(b',') => {}
            Some(b']') => break,
            Some(other) => {
                let other = char::from(other);
                return Err(broken(format!("`,` or `]` must follow the record, got `{other}`")));
            }
            None => {
                return Err(broken("the array ends after this record without `]`".into()));
            }
        }
    }
    walk.skip_blank();
    if let Some(byte) = walk.peek() {
        return Err(ContainerError::BrokenArray {
            object: object.to_owned(),
            place: Place::line(walk.line),
            reason: format!("`{}` after the array's end", char::from(byte)),
        });
    }
    Ok(raws)
}

/// A position in JSON text that counts lines as it goes.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl Walk<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next_byte(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// The line on which the next value starts.
    fn skip_blank(&mut self) -> u64 {
        let rest = &self.bytes[self.at..];
        let blank = rest.iter().position(|byte| !byte.is_ascii_whitespace());
        self.advance(blank.unwrap_or(rest.len()));
        self.line
    }

    /// Steps over one JSON value, without recursion: nesting has no limit here.
    fn value(&mut self) -> Result<Range<usize>, String> {
        let rest = &self.bytes[self.at..];
        let mut stream = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
        match stream.next() {
            None => Err("the array ends without `]`".into()),
            Some(Err(error)) => Err(json_error(&error, self.line)),
            Some(Ok(_)) => {
                let from = self.at;
                self.advance(stream.byte_offset());
                Ok(from..self.at)
            }
        }
    }

    fn advance(&mut self, by: usize) {
        let passed = &self.bytes[self.at..self.at + by];
        self.line += passed.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.at += by;
    }
}

/// serde_json's message, with the line in the object in place of the line in the slice.
pub(super) fn json_error(error: &serde_json::Error, first_line: u64) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let line = first_line + (error.line() as u64).saturating_sub(1);
    let column = error.column();
    if line == first_line {
        format!("not valid JSON: {what} at column {column}")
    } else {
        format!("not valid JSON: {what} at line {line}, column {column}")
    }
}

fn container_of(object: &str, bytes: &[u8], is_text: bool) -> Container {
    let name = object.to_ascii_lowercase();
    let ends_with = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends_with(&[".txt", ".md", ".text"]) {
        return Container::Document;
    }
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        Some(b'[') if !ends_with(&[".jsonl", ".ndjson"]) => Container::Array,
        Some(b'{') => Container::Lines,
        _ if is_text && !ends_with(&[".jsonl", ".ndjson", ".json"]) => Container::Document,
        _ => Container::Lines,
    }
}

/// Files whose first bytes say that they are neither JSON nor text.
fn foreign(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const PLAIN: &str = "unpack it first; JSON, JSON lines and plain text are read";
    const SAVE: &str = "save it as UTF-8";
    const MAGIC: [(&[u8], &str, &str); 6] = [
        (b"\x1f\x8b", "a gzip file", PLAIN),
        (b"\x28\xb5\x2f\xfd", "a zstd file", PLAIN),
        (b"PK\x03\x04", "a zip file", PLAIN),
        (b"PAR1", "a Parquet file", "convert it to JSON lines first"),
        (b"\xff\xfe", "UTF-16 text", SAVE),
        (b"\xfe\xff", "UTF-16 text", SAVE),
    ];
    let known = MAGIC.iter().find(|(magic, ..)| bytes.starts_with(magic))?;
    Some((known.1, known.2))
}

/// Whether the "lines" are the pieces of one pretty-printed object.
fn is_one_object(bytes: &[u8], raws: &[Raw<'_>]) -> bool {
    let Some(Raw { body: Body::Json(first), .. }) = raws.first() else {
        return false;
    };
    let line: Result<&RawValue, _> = serde_json::from_slice(first);
    let cut_short = line.is_err_and(|error| error.is_eof());
    let mut whole = serde_json::Deserializer::from_slice(bytes).into_iter::<&RawValue>();
    cut_short && raws.len() > 1 && matches!(whole.next(), Some(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(object: &str, text: &str) -> Vec<(String, String)> {
        let (_, raws) = split(object, text.as_bytes(), false).expect("splits");
        let show = |raw: &Raw<'_>| {
            let Body::Json(json) = raw.body else {
                panic!("not JSON: {raw:?}");
            };
            (raw.place.to_string(), String::from_utf8_lossy(json).into_owned())
        };
        raws.iter().map(show).collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn array_is_walked_with_the_line_of_each_record() {
        let text = "\n[\n  {\"a\": \"]\"},\n\n  {\"a\":\n   2}, 3 ]\n";
        let expected = [
            ("record 1 (line 3)", "{\"a\": \"]\"}"),
            ("record 2 (line 5)", "{\"a\":\n   2}"),
            ("record 3 (line 6)", "3"),
        ];
        assert_eq!(places("a.json", text), owned(&expected));
        assert_eq!(places("a.json", "[]"), owned(&[]));
    }

    #[test]
    fn lines_keep_their_numbers_across_blank_ones_and_carriage_returns() {
        let text = "\u{feff}{\"a\":1}\r\n\n  \n{broken\n{\"a\":2}";
        let expected = [("line 1", "{\"a\":1}"), ("line 4", "{broken"), ("line 5", "{\"a\":2}")];
        assert_eq!(places("a.jsonl", text), owned(&expected));
        assert_eq!(lines(b"x\ny", 40)[1].place, Place::line(41));
    }

    #[test]
    fn broken_array_names_the_record_after_which_nothing_can_be_read() {
        for (text, expected) in [
            (
                "[{\"a\":1},\n{\"a\":",
                "a.json, record 2 (line 2): not valid JSON: EOF while parsing",
            ),
            ("[1, 2", "a.json, record 2 (line 1): the array ends after this record without `]`"),
            ("[1 2]", "a.json, record 1 (line 1): `,` or `]` must follow the record, got `2`"),
            ("[1,]", "a.json, record 2 (line 1): not valid JSON: expected value at column 1"),
            ("[1]\nx", "a.json, line 2: `x` after the array's end"),
            ("[", "a.json, record 1 (line 1): the array ends without `]`"),
        ] {
            let error = split("a.json", text.as_bytes(), false).expect_err(text);
            assert!(error.to_string().starts_with(expected), "{text}: {error}");
            assert!(error.to_string().contains("\nhint: "), "{error}");
        }
    }

    #[test]
    fn files_that_are_no_text_are_refused_by_their_kind() {
        for (bytes, kind) in [
            (&b"\x1f\x8b\x08"[..], "a gzip file"),
            (b"PAR1xxxx", "a Parquet file"),
            (b"\xff\xfe{\0", "UTF-16 text"),
            (b"{\n  \"data\": [1]\n}", "one JSON object over many lines"),
        ] {
            let error = split("f", bytes, false).expect_err(kind);
            assert!(error.to_string().starts_with(&format!("f: {kind}\nhint: ")), "{error}");
        }
    }

    #[test]
    fn deep_nesting_is_walked_without_recursion() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        assert_eq!(split("a.json", deep.as_bytes(), false).expect("one value").1.len(), 1);
    }
}
