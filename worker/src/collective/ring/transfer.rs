//! Sends and receives the bytes of one call, as far as the sockets allow at the moment.

use std::io;
use std::ops::Range;

use super::flow::{Addends, Flow};
use super::header::{self, HEADER_BYTES};
use super::stream::Stream;
use crate::collective::{Call, sum};
use crate::device::Dtype;

#[cfg(target_endian = "big")]
compile_error!("values travel in the host's byte order, which must be little-endian on every rank");

/// The room, in f32, for what is read and added at a time: small enough to stay in a core's L2 cache in between.
pub(super) const SCRATCH_VALUES: usize = 64 * 1024;

/// Maximum number of bytes per system call, so that the other direction gets its turn.
const MAX_TURN_BYTES: usize = 1 << 20;

/// The result of one read from the incoming link.
pub(super) enum Received {
    Nothing,
    Bytes,
    /// The header that opens the call is now complete.
    Header([u8; HEADER_BYTES]),
}

/// The position of a stream within its pieces.
struct Cursor<'a> {
    pieces: &'a [Range<usize>],
    /// Bytes of the first of `pieces` that have been transferred.
    offset: usize,
    passed: usize,
}

impl<'a> Cursor<'a> {
    fn new(pieces: &'a [Range<usize>]) -> Self {
        let mut cursor = Self { pieces, offset: 0, passed: 0 };
        cursor.advance(0);
        cursor
    }

    /// The rest of the current piece; empty only at the end.
    fn piece(&self) -> Range<usize> {
        self.pieces.first().map_or(0..0, |piece| piece.start + self.offset..piece.end)
    }

    fn advance(&mut self, bytes: usize) {
        self.offset += bytes;
        self.passed += bytes;
        while let [piece, rest @ ..] = self.pieces
            && self.offset == piece.len()
        {
            self.pieces = rest;
            self.offset = 0;
        }
    }
}

/// The bytes that a call still has to send.
pub(super) struct Outgoing<'a> {
    header: [u8; HEADER_BYTES],
    header_sent: usize,
    at: Cursor<'a>,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(call: Call, flow: &'a Flow) -> Self {
        Self { header: header::encode(call), header_sent: 0, at: Cursor::new(&flow.send) }
    }

    pub(super) fn is_done(&self) -> bool {
        self.header_sent == HEADER_BYTES && self.at.pieces.is_empty()
    }

    pub(super) fn has_more(&self, released: usize) -> bool {
        self.header_sent < HEADER_BYTES || self.at.passed < released
    }

    /// Sends some of the first `released` bytes; returns whether any were sent.
    pub(super) fn send(&mut self, to: &Stream, bytes: &[u8], released: usize) -> io::Result<bool> {
        if self.header_sent < HEADER_BYTES {
            let Some(count) = to.send(&self.header[self.header_sent..])? else {
                return Ok(false);
            };
            self.header_sent += count;
            return Ok(true);
        }
        let piece = self.at.piece();
        let turn = piece.len().min(released - self.at.passed).min(MAX_TURN_BYTES);
        if turn == 0 {
            return Ok(false);
        }
        let Some(count) = to.send(&bytes[piece.start..][..turn])? else {
            return Ok(false);
        };
        self.at.advance(count);
        Ok(true)
    }
}

/// The bytes that a call still has to receive.
pub(super) struct Incoming<'a> {
    header: [u8; HEADER_BYTES],
    header_read: usize,
    at: Cursor<'a>,
    /// What is added to the existing values; the following bytes replace them.
    add: Option<Addends>,
    /// Number of bytes at the start of the scratch that belong to an incomplete value.
    split_value: usize,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(flow: &'a Flow) -> Self {
        Self {
            header: [0; HEADER_BYTES],
            header_read: 0,
            at: Cursor::new(&flow.receive),
            add: flow.add,
            split_value: 0,
        }
    }

    /// Number of bytes received so far, and added or stored.
    pub(super) fn passed(&self) -> usize {
        self.at.passed
    }

    pub(super) fn is_done(&self) -> bool {
        self.header_read == HEADER_BYTES && self.at.pieces.is_empty()
    }

    /// Receives some of the available bytes.
    pub(super) fn receive(
        &mut self,
        from: &Stream,
        bytes: &mut [u8],
        scratch: &mut [u8],
    ) -> io::Result<Received> {
        if self.header_read < HEADER_BYTES {
            let Some(count) = from.receive(&mut self.header[self.header_read..])? else {
                return Ok(Received::Nothing);
            };
            self.header_read += count;
            let complete = self.header_read == HEADER_BYTES;
            return Ok(if complete { Received::Header(self.header) } else { Received::Bytes });
        }
        let piece = self.at.piece();
        if piece.is_empty() {
            return Ok(Received::Nothing);
        }
        if let Some(Addends { bytes: add, dtype }) = self.add
            && self.at.passed < add
        {
            return self.receive_and_add(from, dtype, &mut bytes[piece], scratch);
        }
        let turn = piece.len().min(MAX_TURN_BYTES);
        let Some(count) = from.receive(&mut bytes[piece.start..][..turn])? else {
            return Ok(Received::Nothing);
        };
        self.at.advance(count);
        Ok(Received::Bytes)
    }

    fn receive_and_add(
        &mut self,
        from: &Stream,
        dtype: Dtype,
        piece: &mut [u8],
        scratch: &mut [u8],
    ) -> io::Result<Received> {
        let room = piece.len().min(scratch.len());
        let Some(count) = from.receive(&mut scratch[self.split_value..room])? else {
            return Ok(Received::Nothing);
        };
        let have = self.split_value + count;
        let whole = have - have % dtype.size();
        // Both slices start at a value boundary: pieces are cut between values, and the cursor advances by whole
        // values.
        sum::add_bytes(dtype, &mut piece[..whole], &scratch[..whole]);
        scratch.copy_within(whole..have, 0);
        self.split_value = have - whole;
        self.at.advance(whole);
        Ok(Received::Bytes)
    }
}
