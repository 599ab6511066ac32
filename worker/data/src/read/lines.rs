//! Reads JSON lines. A broken line loses only itself, and a range holds the lines that begin in it.

use std::io::{self, BufRead};
use std::ops::Range;

use memchr::memchr;
use proto::receipt::Place;
use serde::de::IgnoredAny;

use super::block::Block;
use super::unpack::Input;
use super::{RECORD_BYTES, ReadError, Records, TOO_LARGE, json_error};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines that begin before `end`.
pub(super) struct Lines {
    input: Input,
    /// Where the next line begins.
    at: u64,
    end: u64,
    /// The number of lines that were begun.
    lines: u64,
    /// Whether the next line is the object's first.
    first: bool,
}

/// A line that was read, and kept up to the limit of a record.
struct Line {
    bytes: u64,
    is_whole: bool,
    /// Whether the line ends with a newline, not with the object.
    is_ended: bool,
}

impl Lines {
    /// The lines that begin before `end`, for an input from the object's start.
    pub(super) fn first_in(input: Input, end: u64) -> Lines {
        Lines { input, at: 0, end, lines: 0, first: true }
    }

    /// The lines that begin in `range`. The input must begin one byte before the range, because
    /// only that byte shows whether a line begins where the range does.
    ///
    /// # Errors
    /// Those of the source.
    pub(super) fn starting_in(input: Input, range: Range<u64>) -> Result<Lines, ReadError> {
        let Range { start, end } = range;
        let mut lines = Lines { input, at: start - 1, end, lines: 0, first: false };
        lines.skip_line().map_err(|error| ReadError::source(lines.input.object(), error))?;
        Ok(lines)
    }

    /// Skips to the end of the line, or to the end of the range.
    fn skip_line(&mut self) -> io::Result<()> {
        while self.at < self.end {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                self.end = self.at;
                return Ok(());
            }
            let newline = memchr(b'\n', chunk);
            let step = newline.map_or(chunk.len(), |at| at + 1);
            self.input.consume(step);
            self.at += step as u64;
            if newline.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Adds the next line to the block, up to the limit of a record. None at the end of the input.
    fn take_line(&mut self, block: &mut Block) -> io::Result<Option<Line>> {
        let mut line = Line { bytes: 0, is_whole: true, is_ended: false };
        loop {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                self.end = self.at;
                return Ok((line.bytes > 0).then_some(line));
            }
            let newline = memchr(b'\n', chunk);
            let step = newline.map_or(chunk.len(), |at| at + 1);
            line.bytes += step as u64;
            line.is_whole = line.bytes <= RECORD_BYTES;
            if line.is_whole {
                block.extend(&chunk[..step]);
            }
            self.input.consume(step);
            self.at += step as u64;
            // The rest of a line that is too large is skipped only as far as the range goes: the
            // next line begins in a later range.
            line.is_ended = newline.is_some();
            if newline.is_some() || (!line.is_whole && self.at >= self.end) {
                return Ok(Some(line));
            }
        }
    }
}

impl Records for Lines {
    fn next(&mut self, block: &mut Block) -> Result<bool, ReadError> {
        if self.at >= self.end {
            return Ok(false);
        }
        let mark = block.mark();
        let taken = self.take_line(block);
        let place = Place::line(self.lines + 1);
        let line = match taken {
            Ok(None) => return Ok(false),
            Ok(Some(line)) => line,
            Err(error) => {
                block.forget(mark);
                block.push_cut_off(place, self.input.explain(error)?);
                self.end = self.at;
                return Ok(true);
            }
        };
        self.lines += 1;
        let first = std::mem::replace(&mut self.first, false);
        if !line.is_whole {
            block.forget(mark);
            block.push_broken(place, TOO_LARGE);
            return Ok(true);
        }
        let bytes = block.since(mark);
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).filter(|_| first).unwrap_or(bytes);
        let skipped = block.since(mark).len() - bytes.trim_ascii_start().len();
        let length = bytes.trim_ascii().len();
        if !line.is_ended
            && let Some(reason) = cut_off(bytes.trim_ascii())
        {
            block.forget(mark);
            block.push_cut_off(place, reason);
            return Ok(true);
        }
        match length {
            0 => block.forget(mark),
            _ => block.push_json(place, mark + skipped..mark + skipped + length),
        }
        Ok(true)
    }

    fn positions(&self) -> u64 {
        self.lines
    }
}

/// Why an object's last line, which no newline ends, is incomplete; none if it is complete.
fn cut_off(line: &[u8]) -> Option<String> {
    if line.is_empty() {
        return None;
    }
    let parsed: Result<IgnoredAny, _> = serde_json::from_slice(line);
    let error = parsed.err().filter(serde_json::Error::is_eof)?;
    Some(format!("the last line breaks off: {}", json_error(&error, 1)))
}
