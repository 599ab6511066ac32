//! How the bytes of one call go out and come in, as far as the sockets allow at the moment.

use std::io;
use std::ops::Range;

use super::flow::Flow;
use super::header::{self, HEADER_BYTES};
use super::stream::Stream;
use crate::collective::Call;

#[cfg(target_endian = "big")]
compile_error!("values travel in the host's byte order, which must be little-endian on every rank");

/// What is added at once: small enough to stay in a core's second cache between the read and the addition.
pub(super) const SCRATCH_VALUES: usize = 64 * 1024;

/// What one system call may move, so that the other direction gets its turn.
const MAX_TURN_BYTES: usize = 1 << 20;

/// What one look at the incoming link brought.
pub(super) enum Received {
    Nothing,
    Bytes,
    /// The last byte of the header that opens the call.
    Header([u8; HEADER_BYTES]),
}

/// How far a stream has got along its pieces.
struct Cursor<'a> {
    pieces: &'a [Range<usize>],
    /// Bytes of the first of `pieces` that are through.
    offset: usize,
    passed: usize,
}

impl<'a> Cursor<'a> {
    fn new(pieces: &'a [Range<usize>]) -> Self {
        let mut cursor = Self { pieces, offset: 0, passed: 0 };
        cursor.advance(0);
        cursor
    }

    /// The rest of the piece at hand; empty only at the end.
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

/// What a call still has to send.
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

    /// Sends some of what is released; whether anything went.
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

/// What a call still has to take in.
pub(super) struct Incoming<'a> {
    header: [u8; HEADER_BYTES],
    header_read: usize,
    at: Cursor<'a>,
    /// The first so many bytes are added to what is there, the others replace it.
    add: usize,
    /// Bytes of a value whose rest has not come yet, at the start of the scratch.
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

    /// The bytes of the call that are in, added or stored.
    pub(super) fn passed(&self) -> usize {
        self.at.passed
    }

    pub(super) fn is_done(&self) -> bool {
        self.header_read == HEADER_BYTES && self.at.pieces.is_empty()
    }

    /// Takes in some of what has come.
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
        if self.at.passed < self.add {
            return self.receive_and_add(from, &mut bytes[piece], scratch);
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
        piece: &mut [u8],
        scratch: &mut [u8],
    ) -> io::Result<Received> {
        let room = piece.len().min(scratch.len());
        let Some(count) = from.receive(&mut scratch[self.split_value..room])? else {
            return Ok(Received::Nothing);
        };
        let have = self.split_value + count;
        let whole = have - have % size_of::<f32>();
        // Both sides start at a value: pieces are cut between values, and only whole values are passed.
        let sums: &mut [f32] = bytemuck::cast_slice_mut(&mut piece[..whole]);
        let addends: &[f32] = bytemuck::cast_slice(&scratch[..whole]);
        sums.iter_mut().zip(addends).for_each(|(sum, addend)| *sum += addend);
        scratch.copy_within(whole..have, 0);
        self.split_value = have - whole;
        self.at.advance(whole);
        Ok(Received::Bytes)
    }
}
