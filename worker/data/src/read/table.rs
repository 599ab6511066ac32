//! Reads CSV and TSV: the first row names the columns, and every cell is a text.

use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use memchr::memchr_iter;
use proto::receipt::Place;
use serde_json::{Map, Value};

use super::block::Block;
use super::unpack::Input;
use super::{RECORD_BYTES, ReadError, Records, TOO_LARGE};

/// The most columns: more than that is a separator repeated without end.
const MOST_CELLS: usize = 1 << 16;
/// The number of row-like lines in a cell from which on the cell is suspect.
const FEWEST_ROWS: usize = 3;

/// A table that is being read.
pub(super) struct Table {
    input: Input,
    delimiter: u8,
    parser: Reader,
    columns: Vec<String>,
    row: Row,
    line: u64,
}

/// The cells of a row, one after another, in reused buffers.
struct Row {
    bytes: Vec<u8>,
    /// The position at which each cell ends.
    ends: Vec<usize>,
    /// The number of cells.
    cells: usize,
}

impl Row {
    fn new() -> Row {
        Row { bytes: vec![0; 1 << 12], ends: vec![0; 1 << 4], cells: 0 }
    }

    fn cells(&self) -> impl Iterator<Item = &[u8]> {
        let ends = &self.ends[..self.cells];
        let starts = [0].into_iter().chain(ends.iter().copied());
        starts.zip(ends).map(|(start, &end)| &self.bytes[start..end])
    }
}

/// How much of a row was read.
enum Read {
    /// All of it.
    Whole,
    /// All that is left: the object ends without a line end, or within quotes.
    Last { in_quotes: bool },
    /// As much as a row may hold: an unclosed quote takes everything that follows into one cell.
    TooLarge,
    /// Nothing, because the table has ended.
    End,
}

impl Table {
    /// A table whose cells are separated by `delimiter`.
    ///
    /// # Errors
    /// Those of the source; a first row that cannot name the columns.
    pub(super) fn new(input: Input, delimiter: u8) -> Result<Table, ReadError> {
        let parser = ReaderBuilder::new().delimiter(delimiter).build();
        let (columns, row) = (Vec::new(), Row::new());
        let mut table = Table { input, delimiter, parser, columns, row, line: 1 };
        let found = match table.read_row() {
            Ok(Read::End) => return Ok(table),
            Ok(Read::Whole | Read::Last { in_quotes: false }) => table.name_columns().err(),
            Ok(Read::Last { in_quotes: true }) => {
                Some("a header whose quote does not close".into())
            }
            Ok(Read::TooLarge) => Some(format!("a header of {TOO_LARGE}")),
            Err(error) => Some(table.input.explain(error)?),
        };
        let hint = "the first row must name the columns, each once and in UTF-8";
        let object = table.input.object();
        found.map_or(Ok(()), |found| Err(ReadError::unreadable(object, &found, hint)))?;
        Ok(table)
    }

    fn name_columns(&mut self) -> Result<(), String> {
        for name in self.row.cells() {
            let name = std::str::from_utf8(name).map_err(|_| "a header that is not UTF-8")?.trim();
            if self.columns.iter().any(|known| known == name) {
                return Err(format!("a header that has `{name}` twice"));
            }
            self.columns.push(name.to_owned());
        }
        Ok(())
    }

    /// Skips blank lines, so that a row's place is the line on which it starts.
    fn skip_blank(&mut self) -> io::Result<()> {
        loop {
            let chunk = self.input.fill_buf()?;
            let blank = chunk.iter().take_while(|byte| b"\r\n".contains(byte)).count();
            let ended = blank < chunk.len() || chunk.is_empty();
            self.line += newlines(&chunk[..blank]);
            self.input.consume(blank);
            if ended {
                return Ok(());
            }
        }
    }

    fn read_row(&mut self) -> io::Result<Read> {
        let Row { bytes, ends, cells } = &mut self.row;
        let mut filled = 0;
        let mut begun = false;
        *cells = 0;
        loop {
            let chunk = self.input.fill_buf()?;
            let is_end = chunk.is_empty();
            if is_end && !begun {
                return Ok(Read::End);
            }
            begun = true;
            // A line end completes the last row too, unless it is within quotes.
            let input = if is_end { b"\n" } else { chunk };
            let (result, read, written, ended) =
                self.parser.read_record(input, &mut bytes[filled..], &mut ends[*cells..]);
            if !is_end {
                self.line += newlines(&chunk[..read]);
                self.input.consume(read);
            }
            filled += written;
            *cells += ended;
            match result {
                ReadRecordResult::InputEmpty if is_end => {
                    return Ok(Read::Last { in_quotes: true });
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if bytes.len() as u64 >= RECORD_BYTES => {
                    return Ok(Read::TooLarge);
                }
                ReadRecordResult::OutputEndsFull if *cells >= MOST_CELLS => {
                    return Ok(Read::TooLarge);
                }
                ReadRecordResult::OutputFull => bytes.resize(bytes.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => ends.resize(ends.len() * 2, 0),
                ReadRecordResult::Record if is_end => {
                    return Ok(Read::Last { in_quotes: false });
                }
                ReadRecordResult::Record => return Ok(Read::Whole),
                ReadRecordResult::End => return Ok(Read::End),
            }
        }
    }

    /// The number of lines within cells that look like rows, with as many cells as the table has
    /// columns. This is what a missing or superfluous quote makes of rows. Text that looks like
    /// this by chance has other lines too.
    fn swallowed(&self) -> u64 {
        let is_row = |line: &&[u8]| cells_in(line, self.delimiter) == self.columns.len();
        let in_cell = |cell: &[u8]| {
            if memchr_iter(b'\n', cell).nth(FEWEST_ROWS).is_none() {
                return 0;
            }
            let inner = cell.split(|byte| *byte == b'\n').skip(1);
            let lines: Vec<&[u8]> = inner.filter(|line| !line.trim_ascii().is_empty()).collect();
            let rows = lines.iter().filter(|line| is_row(line)).count();
            // The last line is the text before the closing quote.
            let all = lines.len().saturating_sub(1);
            if rows >= FEWEST_ROWS && rows >= all { rows as u64 } else { 0 }
        };
        if self.columns.len() < 2 {
            return 0;
        }
        self.row.cells().map(in_cell).sum()
    }

    /// The row's fields, and their size in bytes.
    fn fields(&self) -> Result<(Map<String, Value>, usize), String> {
        let (found, wanted) = (self.row.cells, self.columns.len());
        if found != wanted {
            return Err(format!("{found} cells in a table of {wanted} columns"));
        }
        let mut fields = Map::new();
        let mut size = 0;
        for (column, cell) in self.columns.iter().zip(self.row.cells()) {
            let text = std::str::from_utf8(cell);
            let text = text.map_err(|_| format!("`{column}` is not UTF-8"))?;
            size += column.len() + text.len();
            fields.insert(column.clone(), Value::from(text));
        }
        Ok((fields, size))
    }
}

impl Records for Table {
    fn next(&mut self, block: &mut Block) -> Result<bool, ReadError> {
        let begun = self.skip_blank();
        let first = self.line;
        let place = Place::line(first);
        let (found, wanted) = (|table: &Self| table.row.cells, self.columns.len());
        let reason = match begun.and_then(|()| self.read_row()) {
            Ok(Read::End) => return Ok(false),
            Ok(Read::Last { in_quotes: true }) => {
                let last = self.line;
                format!(
                    "a quote opens here and does not close: lines {first} to {last} are one cell"
                )
            }
            Ok(Read::Last { in_quotes: false }) if found(self) < wanted => {
                format!("the last row breaks off after {} of {wanted} cells", found(self))
            }
            Ok(Read::Whole | Read::Last { in_quotes: false }) => {
                match self.fields() {
                    Ok((fields, size)) => {
                        block.push_row(place, fields, size, self.swallowed());
                    }
                    Err(reason) => block.push_broken(place, reason),
                }
                return Ok(true);
            }
            Ok(Read::TooLarge) => format!("{TOO_LARGE}: does a quote that opens here close?"),
            Err(error) => self.input.explain(error)?,
        };
        block.push_cut_off(place, reason);
        Ok(false)
    }

    fn positions(&self) -> u64 {
        self.line
    }
}

/// The number of cells that a line would have as a row.
fn cells_in(line: &[u8], delimiter: u8) -> usize {
    let mut in_quotes = false;
    let parts = line.iter().filter(|byte| {
        in_quotes ^= **byte == b'"';
        **byte == delimiter && !in_quotes
    });
    1 + parts.count()
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}
