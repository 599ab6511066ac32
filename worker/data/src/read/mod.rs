//! Reads an object's bytes as records, each with its place, in blocks of bounded size. Nothing here
//! knows the fields of a record.
//!
//! ```text
//! ReadAt --Window--> stream --Input--> unpacked stream --> Lines   {...}\n{...}\n   cut into ranges
//!                                                          Array   [ {...}, {...} ]
//!                                                          Table   a,b\n1,2\n
//!                                                          Text    anything: one document, in pieces
//! ReadAt --Pieces--------------------------------------->  Rows    Parquet          cut into ranges
//! ```
//!
//! Memory is bounded whatever an object holds. Damage costs as little as possible and appears among
//! the records as [`Body::Broken`], so nothing is lost without its place. An object that ends
//! before its last record does ends in [`Body::CutOff`], because the extent of the loss is unknown.

mod array;
mod block;
mod head;
mod lines;
mod parquet;
mod quiet;
mod scan;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod unpack;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use proto::prepared::Unit;

pub(crate) use block::size_of;
pub use block::{Block, Body, Raw};
pub use source::ReadAt;
use source::Window;
use unpack::{Input, Packing};

/// The largest record. Anything larger is not an instruction, but a file that is not what it seems.
const RECORD_BYTES: u64 = 64 << 20;
const TOO_LARGE: &str = "a record of more than 64 MiB";

/// Why an object cannot be split into records; none of its records is used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The object is a kind of file from which no records can be read.
    #[error("{object}: {found}\nhint: {hint}")]
    Unreadable {
        /// The object's name.
        object: String,
        /// What the object is.
        found: String,
        /// A hint.
        hint: &'static str,
    },
    /// The object's bytes cannot be fetched.
    #[error("{object} cannot be read")]
    Source {
        /// The object's name.
        object: String,
        /// The error of the operating system or the store.
        source: io::Error,
    },
}

impl ReadError {
    fn unreadable(object: &str, found: &str, hint: &'static str) -> ReadError {
        ReadError::Unreadable { object: object.to_owned(), found: found.to_owned(), hint }
    }

    fn source(object: &str, source: io::Error) -> ReadError {
        ReadError::Source { object: object.to_owned(), source }
    }
}

/// How an object holds its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// One JSON array.
    Array,
    /// One JSON value per line.
    Lines,
    /// Rows of cells, below a row of column names.
    Table {
        /// The byte that separates cells.
        delimiter: u8,
    },
    /// Typed rows.
    Parquet,
    /// The object itself is the record.
    Document,
}

impl Container {
    /// The unit of positions in a prepared shard.
    pub fn unit(self) -> Unit {
        match self {
            Container::Array => Unit::Record,
            Container::Parquet => Unit::Row,
            Container::Lines | Container::Table { .. } | Container::Document => Unit::Line,
        }
    }

    /// The container's name in messages for people.
    pub fn label(self) -> &'static str {
        match self {
            Container::Array => "a JSON array",
            Container::Lines => "JSON lines",
            Container::Table { delimiter: b'\t' } => "TSV",
            Container::Table { delimiter: b';' } => "CSV with semicolons",
            Container::Table { .. } => "CSV",
            Container::Parquet => "Parquet",
            Container::Document => "a text",
        }
    }
}

/// The user's options that determine how an object's records are found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// Whether the source has `format: text`.
    pub is_text: bool,
    /// The names of the records' fields that have a meaning.
    pub fields: &'a [&'a str],
}

/// An object whose kind is known.
pub struct Object {
    name: String,
    source: Arc<dyn ReadAt>,
    packing: Packing,
    container: Container,
}

/// Reads records one after another.
trait Records {
    /// Adds the next record to the block, readable or not. False at the end.
    fn next(&mut self, block: &mut Block) -> Result<bool, ReadError>;

    /// The number of lines or rows so far.
    fn positions(&self) -> u64;
}

/// The records of a range, block by block.
pub struct Blocks {
    /// None once all records are read, or after an error.
    records: Option<Box<dyn Records>>,
    positions: u64,
}

impl Object {
    /// Opens an object and looks at its first bytes.
    ///
    /// # Errors
    /// Those of the source; files of other kinds, UTF-16, and one JSON object over many lines.
    pub fn open(
        name: &str,
        source: Arc<dyn ReadAt>,
        given: Given<'_>,
    ) -> Result<Object, ReadError> {
        let (packing, container) = head::look(name, &source, given)?;
        Ok(Object { name: name.to_owned(), source, packing, container })
    }

    /// How the object holds its records.
    pub fn container(&self) -> Container {
        self.container
    }

    /// The object's size in bytes.
    pub fn size(&self) -> u64 {
        self.source.size()
    }

    /// The object's first records, whichever range is read.
    ///
    /// # Errors
    /// Those of the source; a table without column names.
    pub fn head(&self) -> Result<Block, ReadError> {
        let mut block = Block::head();
        if let Some(mut records) = self.records(0..self.source.size())? {
            while !block.is_full() && records.next(&mut block)? {}
        }
        Ok(block)
    }

    /// The records that begin in `range`, block by block. An object that cannot be split belongs as
    /// a whole to the range that begins at 0.
    ///
    /// # Errors
    /// Those of the source; a table without column names.
    pub fn blocks(&self, range: Range<u64>) -> Result<Blocks, ReadError> {
        Ok(Blocks { records: self.records(range)?, positions: 0 })
    }

    fn records(&self, range: Range<u64>) -> Result<Option<Box<dyn Records>>, ReadError> {
        let size = self.source.size();
        let is_cut = match self.container {
            Container::Parquet => true,
            Container::Lines => self.packing == Packing::Plain,
            Container::Array | Container::Table { .. } | Container::Document => false,
        };
        if range.start > 0 && !is_cut || size == 0 {
            return Ok(None);
        }
        let input = |start| {
            let window = Window::new(self.source.clone(), start..size);
            Input::new(&self.name, window, self.packing)
        };
        Ok(Some(match self.container {
            Container::Lines if range.start > 0 => {
                let before = range.start - 1;
                Box::new(lines::Lines::starting_in(input(before)?, range)?)
            }
            Container::Lines if is_cut => Box::new(lines::Lines::first_in(input(0)?, range.end)),
            Container::Lines => Box::new(lines::Lines::first_in(input(0)?, u64::MAX)),
            Container::Array => Box::new(array::Array::new(input(0)?)),
            Container::Table { delimiter } => Box::new(table::Table::new(input(0)?, delimiter)?),
            Container::Document => Box::new(text::Text::new(input(0)?)),
            Container::Parquet => {
                Box::new(self::parquet::Rows::new(&self.name, self.source.clone(), range)?)
            }
        }))
    }
}

impl Blocks {
    /// The number of lines or rows in the range, once all its blocks are read.
    pub fn positions(&self) -> u64 {
        self.positions
    }
}

impl Iterator for Blocks {
    type Item = Result<Block, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let records = self.records.as_mut()?;
        let mut block = Block::new();
        let outcome = loop {
            match records.next(&mut block) {
                Ok(true) if !block.is_full() => {}
                outcome => break outcome,
            }
        };
        self.positions = records.positions();
        match outcome {
            Ok(true) => {}
            Ok(false) => self.records = None,
            Err(error) => {
                self.records = None;
                return Some(Err(error));
            }
        }
        (!block.is_empty()).then_some(Ok(block))
    }
}

const HALF: &str = "half of a character, such as `\\ud83d`, without its other half, which remains \
                    when a program cuts a text in the middle of a character,";

/// The message of serde_json, with the line in the object in place of the line in the slice.
pub(super) fn json_error(error: &serde_json::Error, first_line: u64) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let what = match what {
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => HALF,
        what => what,
    };
    let line = first_line + (error.line() as u64).saturating_sub(1);
    let column = error.column();
    if line == first_line {
        format!("not valid JSON: {what} at column {column}")
    } else {
        format!("not valid JSON: {what} at line {line}, column {column}")
    }
}
