//! PURE: the header that opens each call on each link, so that ranks that disagree notice at once.
//!
//! Layout: call number and length (u64 each), kind and root (u32 each), all little-endian.

use crate::collective::{Call, Kind};

pub(super) const HEADER_BYTES: usize = 24;

pub(super) fn encode(call: Call) -> [u8; HEADER_BYTES] {
    let (kind, root) = match call.kind {
        Kind::Reduce => (1, 0),
        Kind::Control => (2, 0),
        Kind::Broadcast { root } => (3, root),
        Kind::Barrier => (4, 0u32),
    };
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&call.number.to_le_bytes());
    header[8..16].copy_from_slice(&call.len.to_le_bytes());
    header[16..20].copy_from_slice(&u32::to_le_bytes(kind));
    header[20..].copy_from_slice(&root.to_le_bytes());
    header
}

/// `None` if these bytes are not a valid header.
pub(super) fn decode(header: &[u8; HEADER_BYTES]) -> Option<Call> {
    let (number, rest) = header.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (kind, rest) = rest.split_first_chunk()?;
    let (root, _) = rest.split_first_chunk()?;
    let kind = match u32::from_le_bytes(*kind) {
        1 => Kind::Reduce,
        2 => Kind::Control,
        3 => Kind::Broadcast { root: u32::from_le_bytes(*root) },
        4 => Kind::Barrier,
        _ => return None,
    };
    Some(Call { number: u64::from_le_bytes(*number), kind, len: u64::from_le_bytes(*len) })
}
