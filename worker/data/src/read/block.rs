//! A block: some records of an object, together in memory.

use std::ops::Range;

use proto::receipt::Place;
use serde_json::{Map, Value};

/// The bytes of records that are taken into memory at a time: enough to keep every core busy,
/// little compared with the tokenizer.
const BLOCK_BYTES: usize = 2 << 20;
/// The most records in a block, because each costs memory, however short it is.
const BLOCK_RECORDS: usize = 1 << 16;
/// The number of records that are looked at to find an object's format.
const HEAD_RECORDS: usize = 64;

/// Some records of an object, in order.
#[derive(Debug)]
pub struct Block {
    bytes: Vec<u8>,
    entries: Vec<(Place, Held)>,
    /// The size of all records in bytes.
    size: usize,
    most_records: usize,
}

/// One record, not yet parsed.
#[derive(Clone, Debug)]
pub struct Raw<'a> {
    /// The record's place.
    pub place: Place,
    /// The record's content.
    pub body: Body<'a>,
    /// The number of lines within its cells that look like rows of their own.
    pub swallowed: u64,
}

/// A record's content, as far as its container determines it.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// A JSON value.
    Json(&'a [u8]),
    /// A row of a table: its cells by column name.
    Value(Map<String, Value>),
    /// A text without fields.
    Text(&'a [u8]),
    /// A record that cannot be read, and why.
    Broken(String),
    /// The point where the object breaks off, and why. Nothing follows, and how much is missing is
    /// unknown.
    CutOff(String),
}

/// A [`Body`] whose bytes are given by their range in the block.
#[derive(Debug)]
enum Held {
    Json(Range<usize>),
    Value { row: Map<String, Value>, swallowed: u64 },
    Text(Range<usize>),
    Broken(String),
    CutOff(String),
}

impl Block {
    pub(super) fn new() -> Block {
        let (bytes, entries) = (Vec::new(), Vec::new());
        Block { bytes, entries, size: 0, most_records: BLOCK_RECORDS }
    }

    /// A block for the first records of an object.
    pub(super) fn head() -> Block {
        Block { most_records: HEAD_RECORDS, ..Block::new() }
    }

    /// Takes the records out of the block, so that no row is copied.
    pub fn take_raws(&mut self) -> Vec<Raw<'_>> {
        let bytes = &self.bytes;
        let raw = |(place, held)| {
            let mut swallowed = 0;
            let body = match held {
                Held::Json(range) => Body::Json(&bytes[range]),
                Held::Value { row, swallowed: lines } => {
                    swallowed = lines;
                    Body::Value(row)
                }
                Held::Text(range) => Body::Text(&bytes[range]),
                Held::Broken(reason) => Body::Broken(reason),
                Held::CutOff(reason) => Body::CutOff(reason),
            };
            Raw { place, body, swallowed }
        };
        self.entries.drain(..).map(raw).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.size >= BLOCK_BYTES || self.entries.len() >= self.most_records
    }

    /// The position at which the bytes of the next record begin.
    pub(super) fn mark(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes since `mark`.
    pub(super) fn since(&self, mark: usize) -> &[u8] {
        &self.bytes[mark..]
    }

    /// Adds bytes of the next record.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets the bytes from `mark` on.
    pub(super) fn forget(&mut self, mark: usize) {
        self.bytes.truncate(mark);
    }

    /// Adds a JSON value whose bytes are in the block.
    pub(super) fn push_json(&mut self, place: Place, range: Range<usize>) {
        self.size += range.len();
        self.entries.push((place, Held::Json(range)));
    }

    /// Adds a text whose bytes are in the block.
    pub(super) fn push_text(&mut self, place: Place, range: Range<usize>) {
        self.size += range.len();
        self.entries.push((place, Held::Text(range)));
    }

    /// Adds a row of about `size` bytes, with `swallowed` lines in its cells that look like rows.
    pub(super) fn push_row(
        &mut self,
        place: Place,
        row: Map<String, Value>,
        size: usize,
        swallowed: u64,
    ) {
        self.size += size;
        self.entries.push((place, Held::Value { row, swallowed }));
    }

    /// Adds a record that cannot be read.
    pub(super) fn push_broken(&mut self, place: Place, reason: impl Into<String>) {
        self.entries.push((place, Held::Broken(reason.into())));
    }

    /// Records that the object breaks off. Nothing follows.
    pub(super) fn push_cut_off(&mut self, place: Place, reason: impl Into<String>) {
        self.entries.push((place, Held::CutOff(reason.into())));
    }
}

/// The approximate number of bytes in a value.
pub(crate) fn size_of(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(size_of).sum(),
        Value::Object(fields) => fields.iter().map(|(name, v)| name.len() + size_of(v)).sum(),
    }
}
