//! PURE: the notice that a rank sends to the previous rank before it closes its links. It travels against the
//! direction of the data, where nothing else is sent.
//!
//! A notice distinguishes a rank that left gracefully from one that died. It also carries the number of a dead rank
//! around the ring, so that ranks far from it do not blame their neighbour.

pub(super) const NOTICE_BYTES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// The rank left gracefully after completing this number of calls.
    Left(u32),
    /// The rank leaves because this other rank was lost.
    Lost(u32),
}

impl Notice {
    pub(super) fn encode(self) -> [u8; NOTICE_BYTES] {
        let (mark, number) = match self {
            Self::Left(calls) => (b"left", calls),
            Self::Lost(rank) => (b"lost", rank),
        };
        let mut notice = [0; NOTICE_BYTES];
        notice[..4].copy_from_slice(mark);
        notice[4..].copy_from_slice(&number.to_le_bytes());
        notice
    }

    /// `None` for bytes that are not a notice, or that name a rank outside the world.
    pub(super) fn decode(notice: &[u8; NOTICE_BYTES], world_size: usize) -> Option<Self> {
        let (mark, number) = notice.split_first_chunk::<4>()?;
        let number = u32::from_le_bytes(*number.first_chunk()?);
        match mark {
            b"left" => Some(Self::Left(number)),
            b"lost" if (number as usize) < world_size => Some(Self::Lost(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_arrive_as_sent_and_name_members_only() {
        for notice in [Notice::Left(7), Notice::Lost(0), Notice::Lost(2)] {
            assert_eq!(Notice::decode(&notice.encode(), 3), Some(notice));
        }
        assert_eq!(Notice::decode(&Notice::Lost(3).encode(), 3), None);
        assert_eq!(Notice::decode(&[0; NOTICE_BYTES], 3), None);
    }
}
