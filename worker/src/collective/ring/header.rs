//! PURE: the header that opens each call on each link, so that ranks that disagree notice at once.
//!
//! Layout: call number and length (u64 each), kind and detail (u32 each), all little-endian. The detail is the root of
//! a broadcast, and the type of the elements of a reduction.

use crate::collective::{Call, Kind};
use crate::device::Dtype;

pub(super) const HEADER_BYTES: usize = 24;

pub(super) fn encode(call: Call) -> [u8; HEADER_BYTES] {
    let (kind, detail) = match call.kind {
        Kind::Reduce(dtype) => (1, code(dtype)),
        Kind::Control => (2, 0),
        Kind::Broadcast { root } => (3, root),
        Kind::Barrier => (4, 0u32),
    };
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&call.number.to_le_bytes());
    header[8..16].copy_from_slice(&call.len.to_le_bytes());
    header[16..20].copy_from_slice(&u32::to_le_bytes(kind));
    header[20..].copy_from_slice(&detail.to_le_bytes());
    header
}

/// `None` if these bytes are not a valid header.
pub(super) fn decode(header: &[u8; HEADER_BYTES]) -> Option<Call> {
    let (number, rest) = header.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (kind, rest) = rest.split_first_chunk()?;
    let (detail, _) = rest.split_first_chunk()?;
    let detail = u32::from_le_bytes(*detail);
    let kind = match u32::from_le_bytes(*kind) {
        1 => Kind::Reduce(dtype(detail)?),
        2 => Kind::Control,
        3 => Kind::Broadcast { root: detail },
        4 => Kind::Barrier,
        _ => return None,
    };
    Some(Call { number: u64::from_le_bytes(*number), kind, len: u64::from_le_bytes(*len) })
}

const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::Bf16, Dtype::F64, Dtype::U32];

fn code(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 => 0,
        Dtype::Bf16 => 1,
        Dtype::F64 => 2,
        Dtype::U32 => 3,
    }
}

fn dtype(wanted: u32) -> Option<Dtype> {
    DTYPES.into_iter().find(|dtype| code(*dtype) == wanted)
}
