//! Reads the Parquet row groups of a range, row by row. A damaged row group loses its rows from the
//! damage on, and each of them is listed in the receipt; the next row group is read again.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result as Parsed};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row};
use proto::receipt::Place;
use serde_json::{Map, Value};

use super::block::{Block, size_of};
use super::quiet::caught;
use super::source::ReadAt;
use super::{ReadError, Records};

/// The number of bytes fetched at a time: a page and the header of the next.
const PIECE_BYTES: u64 = 1 << 20;
/// The number of pieces kept, because the columns of a row lie apart and are read in turn.
const PIECES: usize = 32;

/// The rows of a range.
pub(super) struct Rows {
    object: String,
    file: SerializedFileReader<Pieces>,
    pieces: Pieces,
    /// The row groups that are still to be read.
    groups: Range<usize>,
    group: Group,
    /// The number of rows that were begun.
    rows: u64,
}

/// The rest of the row group that is being read.
enum Group {
    Reading { rows: ReaderIter, left: u64 },
    Broken { left: u64, reason: String },
}

impl Rows {
    /// The rows of the row groups that begin in `range`.
    ///
    /// # Errors
    /// Those of the source; a file whose metadata cannot be read, because then nothing else can.
    pub(super) fn new(
        object: &str,
        source: Arc<dyn ReadAt>,
        range: Range<u64>,
    ) -> Result<Rows, ReadError> {
        let pieces = Pieces::new(source);
        let opened = guarded(|| SerializedFileReader::new(pieces.clone()));
        let file = opened.map_err(|reason| {
            pieces.explain(object, reason, |reason| {
                let found = format!("a Parquet file whose metadata cannot be read: {reason}");
                let hint = "the file is cut or damaged; write it again";
                ReadError::unreadable(object, &found, hint)
            })
        })?;
        let groups = file.metadata().row_groups();
        if let Some(codec) = groups.iter().find_map(unknown_codec) {
            let found = format!("a Parquet file compressed with {codec}");
            let hint = "write it with zstd, snappy, gzip, lz4 or no compression";
            return Err(ReadError::unreadable(object, &found, hint));
        }
        let before = |at: u64| groups.partition_point(|group| start_of(group) < at);
        let groups = before(range.start)..before(range.end);
        let (object, group) = (object.to_owned(), Group::Broken { left: 0, reason: String::new() });
        Ok(Rows { object, file, pieces, groups, group, rows: 0 })
    }

    fn open(&self, group: usize) -> Group {
        let left = self.file.metadata().row_group(group).num_rows().max(0) as u64;
        let schema = self.file.metadata().file_metadata().schema_descr_ptr();
        let opened = guarded(|| {
            TreeBuilder::new().as_iter(schema, self.file.get_row_group(group)?.as_ref())
        });
        match opened {
            Ok(rows) => Group::Reading { rows, left },
            Err(reason) => Group::Broken { left, reason: lost(&reason) },
        }
    }
}

impl Records for Rows {
    fn next(&mut self, block: &mut Block) -> Result<bool, ReadError> {
        while self.group.left() == 0 {
            let Some(group) = self.groups.next() else {
                return Ok(false);
            };
            self.group = self.open(group);
        }
        self.rows += 1;
        let place = Place::Row { row: self.rows };
        match self.group.take() {
            Ok(row) => {
                let size = row.values().map(size_of).sum();
                block.push_row(place, row, size, 0);
            }
            Err(reason) => {
                self.pieces.check(&self.object)?;
                block.push_broken(place, reason);
            }
        }
        Ok(true)
    }

    fn positions(&self) -> u64 {
        self.rows
    }
}

impl Group {
    fn left(&self) -> u64 {
        match self {
            Group::Reading { left, .. } | Group::Broken { left, .. } => *left,
        }
    }

    /// The next row. After an error, the same error for each row that is left.
    fn take(&mut self) -> Result<Map<String, Value>, String> {
        let (rows, left) = match self {
            Group::Reading { rows, left } => (rows, left),
            Group::Broken { left, reason } => {
                *left -= 1;
                return Err(reason.clone());
            }
        };
        *left -= 1;
        let row = guarded(|| match rows.next() {
            Some(row) => row,
            None => {
                Err(ParquetError::General("there are fewer rows than the metadata says".into()))
            }
        });
        row.map(object).map_err(|reason| {
            let reason = lost(&reason);
            *self = Group::Broken { left: self.left(), reason: reason.clone() };
            reason
        })
    }
}

fn lost(reason: &str) -> String {
    format!("the row group breaks off before this row: {reason}")
}

/// The library's result, with its panic over a damaged file as an error.
fn guarded<T>(read: impl FnOnce() -> Parsed<T>) -> Result<T, String> {
    match caught(read) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(message) => Err(format!("the Parquet reader gave up on it: {message}")),
    }
}

fn unknown_codec(group: &RowGroupMetaData) -> Option<Compression> {
    group.columns().iter().map(|column| column.compression()).find(|codec| match codec {
        Compression::UNCOMPRESSED
        | Compression::SNAPPY
        | Compression::GZIP(_)
        | Compression::LZ4
        | Compression::ZSTD(_)
        | Compression::LZ4_RAW => false,
        Compression::LZO | Compression::BROTLI(_) => true,
    })
}

/// The position of a row group's first byte.
fn start_of(group: &RowGroupMetaData) -> u64 {
    let start = |column: &parquet::file::metadata::ColumnChunkMetaData| {
        let first = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        first.min(column.data_page_offset()).max(0) as u64
    };
    group.columns().iter().map(start).min().unwrap_or(0)
}

fn object(row: Row) -> Map<String, Value> {
    row.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect()
}

/// A cell as JSON. What a record's format may need is kept exactly; times and decimals, which no
/// format needs, are written as Parquet prints them.
fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(it) => it.into(),
        Field::Byte(it) => it.into(),
        Field::Short(it) => it.into(),
        Field::Int(it) => it.into(),
        Field::Long(it) => it.into(),
        Field::UByte(it) => it.into(),
        Field::UShort(it) => it.into(),
        Field::UInt(it) => it.into(),
        Field::ULong(it) => it.into(),
        Field::Float16(it) => it.to_f32().into(),
        Field::Float(it) => it.into(),
        Field::Double(it) => it.into(),
        Field::Str(it) => it.into(),
        Field::Bytes(it) => String::from_utf8_lossy(it.data()).into(),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => {
            let key = |field: &Field| match value(field.clone()) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let entries = map.entries().iter();
            Value::Object(entries.map(|(k, v)| (key(k), value(v.clone()))).collect())
        }
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => field.to_string().into(),
    }
}

/// An object in pieces, the most recent of which are kept.
#[derive(Clone)]
struct Pieces(Arc<Kept>);

struct Kept {
    source: Arc<dyn ReadAt>,
    /// Pieces by number, the most recent last.
    recent: Mutex<VecDeque<(u64, Bytes)>>,
    /// The source's error, kept here because the library would turn it into text.
    failure: Mutex<Option<io::Error>>,
}

impl Pieces {
    fn new(source: Arc<dyn ReadAt>) -> Pieces {
        let (recent, failure) = (Mutex::default(), Mutex::default());
        Pieces(Arc::new(Kept { source, recent, failure }))
    }

    /// The source's error, if there is one; otherwise the error that `reason` stands for.
    fn explain(
        &self,
        object: &str,
        reason: String,
        otherwise: impl FnOnce(String) -> ReadError,
    ) -> ReadError {
        self.check(object).err().unwrap_or_else(|| otherwise(reason))
    }

    fn check(&self, object: &str) -> Result<(), ReadError> {
        // A poisoned lock still guards a consistent value: nothing can stop halfway under it.
        let failure = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |error| Err(ReadError::source(object, error)))
    }

    fn fetch(&self, range: Range<u64>) -> io::Result<Bytes> {
        self.0.source.read_at(range).map_err(|error| {
            let kind = error.kind();
            *self.0.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            kind.into()
        })
    }

    /// The bytes from `at` to the end of their piece; empty past the object's end.
    fn from(&self, at: u64) -> io::Result<Bytes> {
        if at >= self.len() {
            return Ok(Bytes::new());
        }
        let number = at / PIECE_BYTES;
        let start = number * PIECE_BYTES;
        let mut recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.iter().position(|(known, _)| *known == number);
        let known = known.and_then(|index| recent.remove(index));
        let piece = match known {
            Some((_, piece)) => piece,
            None => self.fetch(start..self.len().min(start + PIECE_BYTES))?,
        };
        recent.push_back((number, piece.clone()));
        if recent.len() > PIECES {
            recent.pop_front();
        }
        Ok(piece.slice((at - start) as usize..))
    }
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.0.source.size()
    }
}

impl ChunkReader for Pieces {
    type T = Stream;

    fn get_read(&self, start: u64) -> Parsed<Stream> {
        Ok(Stream { pieces: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Parsed<Bytes> {
        let end = start.checked_add(length as u64).filter(|end| *end <= self.len());
        let end = end.ok_or_else(|| ParquetError::EOF("it points past the file's end".into()))?;
        if length as u64 > PIECE_BYTES {
            return Ok(self.fetch(start..end)?);
        }
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// An object's bytes from a position on.
struct Stream {
    pieces: Pieces,
    at: u64,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut piece = self.pieces.from(self.at)?;
        let read = piece.len().min(buffer.len());
        piece.copy_to_slice(&mut buffer[..read]);
        self.at += read as u64;
        Ok(read)
    }
}
