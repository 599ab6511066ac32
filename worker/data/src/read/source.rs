//! An object's bytes, by range from any kind of source, and as a stream.

use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};

/// The size of the first fetch: enough to look at an object's head with one request.
const FIRST_FETCH: u64 = 256 << 10;
/// The size that fetches grow to: a request's latency is small in comparison.
const LARGEST_FETCH: u64 = 4 << 20;

/// An object's bytes, read by range from memory, a file or object storage. Calls block.
pub trait ReadAt: Send + Sync {
    /// The object's size.
    fn size(&self) -> u64;

    /// Reads exactly these bytes.
    ///
    /// # Errors
    /// Those of the operating system or the store; an object that is too short.
    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes>;
}

impl ReadAt for Bytes {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        if range.start > range.end || range.end > self.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.slice(range.start as usize..range.end as usize))
    }
}

impl ReadAt for std::fs::File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        std::os::unix::fs::FileExt::read_exact_at(self, &mut bytes, range.start)?;
        Ok(bytes.into())
    }
}

/// A range of an object as a stream, fetched in pieces of growing size.
pub(super) struct Window {
    source: Arc<dyn ReadAt>,
    start: u64,
    /// The position at which the next piece starts.
    next: u64,
    end: u64,
    fetch: u64,
    piece: Bytes,
    failed: bool,
}

impl Window {
    pub(super) fn new(source: Arc<dyn ReadAt>, range: Range<u64>) -> Window {
        let Range { start, end } = range;
        let end = end.min(source.size());
        let piece = Bytes::new();
        Window { source, start, next: start, end, fetch: FIRST_FETCH, piece, failed: false }
    }

    /// The number of bytes taken out of the stream.
    pub(super) fn taken(&self) -> u64 {
        self.next - self.start - self.piece.len() as u64
    }

    /// Whether an error came from the source, not from the content of the bytes.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }
}

impl BufRead for Window {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty() && self.next < self.end {
            let until = self.end.min(self.next + self.fetch);
            let piece = self.source.read_at(self.next..until);
            self.failed = piece.is_err();
            self.piece = piece?;
            self.next = until;
            self.fetch = LARGEST_FETCH.min(self.fetch * 2);
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, amount: usize) {
        self.piece.advance(amount);
    }
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
