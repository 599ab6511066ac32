//! Sends and receives the bytes of one call, as far as the sockets allow at the moment.
//!
//! The header is an encrypted record. So are the values, except those of reductions if the spec does not ask for it.

use std::io;
use std::ops::Range;

use super::flow::{Addends, Flow};
use super::header::{self, HEADER_BYTES};
use super::records::{Opened, Opener, RECORD_BYTES, Sealer};
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
    /// What the sealer has not got yet.
    header: Option<[u8; HEADER_BYTES]>,
    /// Moves past the bytes of a record when they are sealed, before they are sent.
    at: Cursor<'a>,
    is_sealed: bool,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(call: Call, flow: &'a Flow, is_sealed: bool) -> Self {
        Self { header: Some(header::encode(call)), at: Cursor::new(&flow.send), is_sealed }
    }

    pub(super) fn is_done(&self, sealer: &Sealer) -> bool {
        self.header.is_none() && self.at.pieces.is_empty() && sealer.is_idle()
    }

    pub(super) fn has_more(&self, sealer: &Sealer, released: usize) -> bool {
        self.header.is_some() || !sealer.is_idle() || self.turn(released) > 0
    }

    /// Number of bytes of the current piece that can be sent next, of which the first `released` of the call are known.
    fn turn(&self, released: usize) -> usize {
        let (piece, known) = (self.at.piece().len(), released - self.at.passed);
        let record = piece.min(RECORD_BYTES);
        match self.is_sealed {
            // Both sides know where a record ends, so it is sent only once it is complete.
            true if known < record => 0,
            true => record,
            false => piece.min(known).min(MAX_TURN_BYTES),
        }
    }

    /// Sends some of the first `released` bytes; returns whether any were sent.
    pub(super) fn send(
        &mut self,
        (to, sealer): (&Stream, &mut Sealer),
        bytes: &[u8],
        released: usize,
    ) -> io::Result<bool> {
        if sealer.is_idle() {
            if let Some(header) = self.header.take() {
                sealer.seal(&header);
                return sealer.send(to);
            }
            let turn = &bytes[self.at.piece().start..][..self.turn(released)];
            if turn.is_empty() {
                return Ok(false);
            }
            if !self.is_sealed {
                let sent = to.send(turn)?;
                self.at.advance(sent.unwrap_or(0));
                return Ok(sent.is_some());
            }
            sealer.seal(turn);
            self.at.advance(turn.len());
        }
        sealer.send(to)
    }
}

/// The bytes that a call still has to receive.
pub(super) struct Incoming<'a> {
    has_header: bool,
    at: Cursor<'a>,
    /// What is added to the existing values; the following bytes replace them.
    add: Option<Addends>,
    /// Number of bytes at the start of the scratch that belong to an incomplete value.
    split_value: usize,
    is_sealed: bool,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(flow: &'a Flow, is_sealed: bool) -> Self {
        let at = Cursor::new(&flow.receive);
        Self { has_header: false, at, add: flow.add, split_value: 0, is_sealed }
    }

    /// Number of bytes received so far, and added or stored.
    pub(super) fn passed(&self) -> usize {
        self.at.passed
    }

    pub(super) fn is_done(&self) -> bool {
        self.has_header && self.at.pieces.is_empty()
    }

    /// Receives some of the available bytes.
    pub(super) fn receive(
        &mut self,
        (from, opener): (&Stream, &mut Opener),
        bytes: &mut [u8],
        scratch: &mut [u8],
    ) -> io::Result<Received> {
        if !self.has_header {
            return Ok(match opener.receive(from, HEADER_BYTES)? {
                Opened::Nothing => Received::Nothing,
                Opened::Bytes => Received::Bytes,
                Opened::Record(header) => {
                    self.has_header = true;
                    Received::Header(header.try_into().expect("a record of a header's length"))
                }
            });
        }
        let piece = &mut bytes[self.at.piece()];
        if piece.is_empty() {
            return Ok(Received::Nothing);
        }
        let adds = self.add.filter(|add| self.at.passed < add.bytes);
        if self.is_sealed {
            return self.receive_record((from, opener), piece, adds);
        }
        if let Some(Addends { dtype, .. }) = adds {
            return self.receive_and_add(from, dtype, piece, scratch);
        }
        let turn = piece.len().min(MAX_TURN_BYTES);
        let Some(count) = from.receive(&mut piece[..turn])? else {
            return Ok(Received::Nothing);
        };
        self.at.advance(count);
        Ok(Received::Bytes)
    }

    fn receive_record(
        &mut self,
        (from, opener): (&Stream, &mut Opener),
        piece: &mut [u8],
        adds: Option<Addends>,
    ) -> io::Result<Received> {
        let len = piece.len().min(RECORD_BYTES);
        let record = match opener.receive(from, len)? {
            Opened::Nothing => return Ok(Received::Nothing),
            Opened::Bytes => return Ok(Received::Bytes),
            Opened::Record(record) => record,
        };
        // Pieces are cut between values, and a full record has a whole number of them.
        match adds {
            Some(Addends { dtype, .. }) => sum::add_bytes(dtype, &mut piece[..len], record),
            None => piece[..len].copy_from_slice(record),
        }
        self.at.advance(len);
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
