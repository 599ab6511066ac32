//! Encrypted records: what one side of a link sends in AES-256-GCM, and the other side authenticates.
//!
//! A record has no header. Both sides know the length of the next one: that of a call's header, or the rest of a piece
//! of the values up to [`RECORD_BYTES`]. Records are numbered, so one that is missing, repeated or moved is not
//! authentic.

use std::io;

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use super::notice::NOTICE_BYTES;
use super::secret::{Secret, Use};
use super::stream::Stream;

/// Maximum number of bytes of values in a record.
pub(super) const RECORD_BYTES: usize = 64 * 1024;
/// What authentication adds to a record.
pub(super) const TAG_BYTES: usize = 16;
pub(super) const SEALED_NOTICE_BYTES: usize = NOTICE_BYTES + TAG_BYTES;

/// How many records one key may encrypt, since the guarantees of AES-GCM weaken with the amount of data. This is 2^32
/// blocks, less than a fifth of what TLS 1.3 allows (RFC 8446, section 5.5).
const RECORDS_PER_KEY: u64 = 1 << 20;

/// The keys of one direction: which key and which nonce are next.
struct Numbered {
    secret: Secret,
    key: LessSafeKey,
    /// Number of records so far.
    count: u64,
}

impl Numbered {
    fn new(secret: Secret) -> Self {
        let key = secret.key(Use::Values(0));
        Self { secret, key, count: 0 }
    }

    fn next(&mut self) -> (&LessSafeKey, Nonce) {
        if self.count > 0 && self.count.is_multiple_of(RECORDS_PER_KEY) {
            self.key = self.secret.key(Use::Values(self.count / RECORDS_PER_KEY));
        }
        let nonce = nonce(self.count);
        self.count += 1;
        (&self.key, nonce)
    }
}

/// Encrypts records, and sends them as far as the socket allows.
pub(super) struct Sealer {
    keys: Numbered,
    /// The record that is being sent.
    record: Vec<u8>,
    sent: usize,
}

impl Sealer {
    pub(super) fn new(secret: Secret) -> Self {
        Self { keys: Numbered::new(secret), record: Vec::new(), sent: 0 }
    }

    /// Whether nothing is left to send.
    pub(super) fn is_idle(&self) -> bool {
        self.sent == self.record.len()
    }

    /// Makes a record of these bytes; the last one has been sent.
    pub(super) fn seal(&mut self, bytes: &[u8]) {
        debug_assert!(self.is_idle());
        self.record.clear();
        self.record.extend_from_slice(bytes);
        self.sent = 0;
        let (key, nonce) = self.keys.next();
        key.seal_in_place_append_tag(nonce, Aad::empty(), &mut self.record)
            .expect("a record is shorter than AES-GCM's limit");
    }

    /// Sends some of the record; returns whether any bytes were sent.
    pub(super) fn send(&mut self, to: &Stream) -> io::Result<bool> {
        let count = to.send(&self.record[self.sent..])?;
        self.sent += count.unwrap_or(0);
        Ok(count.is_some())
    }
}

/// Receives records, and decrypts those that are complete and authentic.
pub(super) struct Opener {
    keys: Numbered,
    /// The record that is being received.
    record: Vec<u8>,
    received: usize,
}

/// The result of one read of a record.
pub(super) enum Opened<'a> {
    Nothing,
    /// Some bytes, and the record is not complete yet.
    Bytes,
    Record(&'a [u8]),
}

impl Opener {
    pub(super) fn new(secret: Secret) -> Self {
        Self { keys: Numbered::new(secret), record: Vec::new(), received: 0 }
    }

    /// Receives some of a record of `len` bytes, not counting the tag.
    ///
    /// # Errors
    /// Those of the stream, and [`io::ErrorKind::InvalidData`] for a record that the other side has not sent as the
    /// next one.
    pub(super) fn receive(&mut self, from: &Stream, len: usize) -> io::Result<Opened<'_>> {
        if self.record.len() < len + TAG_BYTES {
            self.record.resize(len + TAG_BYTES, 0);
        }
        let record = &mut self.record[..len + TAG_BYTES];
        let Some(count) = from.receive(&mut record[self.received..])? else {
            return Ok(Opened::Nothing);
        };
        self.received += count;
        if self.received < record.len() {
            return Ok(Opened::Bytes);
        }
        self.received = 0;
        let (key, nonce) = self.keys.next();
        let opened = key.open_in_place(nonce, Aad::empty(), record).map_err(|_| forged())?;
        Ok(Opened::Record(opened))
    }
}

pub(super) fn seal_notice(
    secret: &Secret,
    notice: [u8; NOTICE_BYTES],
) -> [u8; SEALED_NOTICE_BYTES] {
    let mut sealed = [0; SEALED_NOTICE_BYTES];
    let (bytes, tag) = sealed.split_at_mut(NOTICE_BYTES);
    bytes.copy_from_slice(&notice);
    // A link carries one notice at most.
    let made = secret
        .key(Use::Notice)
        .seal_in_place_separate_tag(nonce(0), Aad::empty(), bytes)
        .expect("a notice is shorter than AES-GCM's limit");
    tag.copy_from_slice(made.as_ref());
    sealed
}

/// `None` if the notice is not authentic.
pub(super) fn open_notice(
    secret: &Secret,
    mut sealed: [u8; SEALED_NOTICE_BYTES],
) -> Option<[u8; NOTICE_BYTES]> {
    let opened = secret.key(Use::Notice).open_in_place(nonce(0), Aad::empty(), &mut sealed);
    opened.ok()?.first_chunk().copied()
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn forged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "received bytes that the rank has not sent")
}
