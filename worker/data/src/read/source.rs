//! Bytes by range, wherever they lie, and as a stream.

use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};

/// What is fetched at first: enough to look at an object's head at the cost of one request.
const FIRST_FETCH: u64 = 256 << 10;
/// What is fetched at a time in the end: a request's latency is small beside it.
const LARGEST_FETCH: u64 = 4 << 20;

/// An object's bytes, read by range: in memory, in a file, in object storage. Calls block.
pub trait ReadAt: Send + Sync {
    /// The object's size.
    fn size(&self) -> u64;

    /// Exactly these bytes.
    ///
    /// # Errors
    /// What the operating system or the store says; an object that is shorter.
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

/// A range of an object as a stream, fetched in pieces that grow.
pub(super) struct Window {
    source: Arc<dyn ReadAt>,
    start: u64,
    /// Where the next piece starts.
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

    /// Bytes that were taken out of it.
    pub(super) fn taken(&self) -> u64 {
        self.next - self.start - self.piece.len() as u64
    }

    /// Whether an error came from the source, and not from what the bytes say.
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
