//! PURE: which bytes a rank sends and receives, and in which order, for each kind of call.
//!
//! Every call is one stream of bytes out to the next rank and one in from the previous rank. Bytes that are not a
//! rank's own are sent on as soon as they have been received, byte by byte. A ring is therefore pipelined without
//! chunk sizes or frames, and needs one rule only: *the first `own` bytes are sent at once; byte `own + i` is sent
//! once byte `i` has been received.*
//!
//! ```text
//!  all-reduce over 3 ranks, as seen by rank 0; a, b, c are the thirds of its bucket
//!    out   a   c+   b++  a++         each + stands for one more rank's values in the sum
//!    in    c   b+   a++  c++         the first world_size - 1 pieces are added, the others stored
//! ```

use crate::device::Dtype;
use std::ops::Range;

/// One rank's part in one call: ranges of its bytes, in the order in which they travel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) send: Vec<Range<usize>>,
    pub(super) receive: Vec<Range<usize>>,
    /// Number of bytes to send that do not depend on received bytes.
    pub(super) own: usize,
    /// What is added of the received bytes; the rest is stored.
    pub(super) add: Option<Addends>,
}

/// The first received bytes of a call, whose elements are added to existing ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addends {
    pub(super) bytes: usize,
    pub(super) dtype: Dtype,
}

impl Flow {
    /// All-reduces `len` elements. Each piece travels around the ring once to collect its sum (reduce-scatter), and
    /// once more to distribute it (all-gather), so that every rank stores the same bits. Each rank sends 2 (n - 1) / n
    /// of the bucket, which is the minimum (Patarasuk and Yuan 2009, section 4).
    pub(super) fn reduce(rank: usize, world_size: usize, len: usize, dtype: Dtype) -> Self {
        let pieces = 2 * (world_size - 1);
        let piece = |back: usize| {
            let index = (rank + 2 * world_size - back) % world_size;
            let elements = cut(len, world_size, index);
            elements.start * dtype.size()..elements.end * dtype.size()
        };
        let send: Vec<_> = (0..pieces).map(piece).collect();
        let receive: Vec<_> = (1..=pieces).map(piece).collect();
        let own = send.first().map_or(0, Range::len);
        let bytes = receive[..world_size - 1].iter().map(Range::len).sum();
        Self { send, receive, own, add: Some(Addends { bytes, dtype }) }
    }

    /// Copies every rank's slot of `slot` bytes to every rank (all-gather).
    pub(super) fn gather(rank: usize, world_size: usize, slot: usize) -> Self {
        let piece = |back: usize| {
            let index = (rank + world_size - back) % world_size;
            index * slot..(index + 1) * slot
        };
        let send: Vec<_> = (0..world_size - 1).map(piece).collect();
        let receive = (1..world_size).map(piece).collect();
        let own = send.first().map_or(0, Range::len);
        Self { send, receive, own, add: None }
    }

    /// Passes the root's `bytes` along the ring, as far as the rank before the root.
    pub(super) fn broadcast(rank: usize, world_size: usize, root: usize, bytes: usize) -> Self {
        let whole = |there: bool| there.then_some(0..bytes).into_iter().collect();
        let is_root = rank == root;
        Self {
            send: whole((rank + 1) % world_size != root),
            receive: whole(!is_root),
            own: if is_root { bytes } else { 0 },
            add: None,
        }
    }
}

/// Piece `index` of `len` elements that are cut into `parts` pieces, whose sizes differ by at most one.
fn cut(len: usize, parts: usize, index: usize) -> Range<usize> {
    let bound = |index: usize| index * (len / parts) + index.min(len % parts);
    bound(index)..bound(index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_rank_receives_exactly_what_is_sent() {
        for world_size in 1..=5 {
            for len in [0, 1, 3, 4, 5, 1001] {
                for rank in 0..world_size {
                    let next = (rank + 1) % world_size;
                    for dtype in [Dtype::F32, Dtype::Bf16] {
                        let [a, b] =
                            [rank, next].map(|rank| Flow::reduce(rank, world_size, len, dtype));
                        assert_eq!(a.send, b.receive, "reduce {len} {dtype} over {world_size}");
                    }
                    let (a, b) =
                        (Flow::gather(rank, world_size, len), Flow::gather(next, world_size, len));
                    assert_eq!(a.send, b.receive, "gather {len} over {world_size}");
                    let root = len % world_size;
                    let [a, b] =
                        [rank, next].map(|rank| Flow::broadcast(rank, world_size, root, len));
                    assert_eq!(a.send, b.receive, "broadcast {len} over {world_size}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_own_was_received_in_the_same_order() {
        for world_size in 2..=5 {
            for rank in 0..world_size {
                let reduce = Flow::reduce(rank, world_size, 1001, Dtype::F32);
                assert_eq!(reduce.send[1..], reduce.receive[..reduce.receive.len() - 1]);
                let gather = Flow::gather(rank, world_size, 16);
                assert_eq!(gather.send[1..], gather.receive[..gather.receive.len() - 1]);
            }
        }
    }

    #[test]
    fn pieces_cover_every_value_once() {
        for (len, parts) in [(0, 3), (2, 3), (10, 3), (11, 5), (usize::MAX / 64, 7)] {
            let mut end = 0;
            for piece in (0..parts).map(|index| cut(len, parts, index)) {
                assert_eq!(piece.start, end);
                end = piece.end;
            }
            assert_eq!(end, len);
        }
    }

    #[test]
    fn a_reduction_sends_each_element_in_its_own_width() {
        for (dtype, width) in [(Dtype::F32, 4), (Dtype::Bf16, 2)] {
            for rank in 0..4 {
                let sent = Flow::reduce(rank, 4, 1000, dtype).send;
                assert_eq!(sent.iter().map(Range::len).sum::<usize>(), 2 * 750 * width);
            }
        }
    }
}
