//! PURE: which addresses of some reserved memory are in use.
//!
//! ```text
//! segment   | block | hole | block |        fresh        |
//!           start                  top                 end
//! ```
//!
//! A block goes into the smallest hole that it fits, or else on top. Where a block is placed therefore depends only on
//! the blocks before it, and not on the size of the segment: the height that a rehearsal reached in an endless segment
//! is exactly what a run with the same requests needs.

use std::collections::BTreeMap;

/// Alignment of all blocks, in bytes: that of the driver's own allocations.
const ALIGNMENT: u64 = 256;

/// Addresses of reserved memory, in use or not.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    segments: Vec<Segment>,
    /// Unused ranges below the tops: sizes by address.
    holes: BTreeMap<u64, u64>,
}

/// Reserved memory.
#[derive(Debug)]
struct Segment {
    start: u64,
    /// The memory above has no block.
    top: u64,
    /// The highest top so far.
    highest: u64,
    end: u64,
}

/// The size of a block for `bytes`, which is at least 1.
pub(super) fn rounded(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(ALIGNMENT)
}

impl Arena {
    /// Adds a segment of reserved memory, whose address and size are multiples of the alignment.
    pub(in crate::device) fn add(&mut self, start: u64, bytes: u64) {
        self.segments.push(Segment { start, top: start, highest: start, end: start + bytes });
    }

    /// The address of a new block for `bytes`; `None` if there is no room.
    pub(in crate::device) fn take(&mut self, bytes: u64) -> Option<u64> {
        let bytes = rounded(bytes);
        let fitting = self.holes.iter().filter(|(_, size)| **size >= bytes);
        let smallest = fitting.min_by_key(|(start, size)| (**size, **start));
        if let Some((&start, &size)) = smallest {
            self.holes.remove(&start);
            if size > bytes {
                self.holes.insert(start + bytes, size - bytes);
            }
            return Some(start);
        }
        let segment = self.segments.iter_mut().find(|s| s.end - s.top >= bytes)?;
        let start = segment.top;
        segment.top += bytes;
        segment.highest = segment.highest.max(segment.top);
        Some(start)
    }

    /// Ends the block at `start`, which was taken for `bytes`.
    pub(in crate::device) fn give(&mut self, start: u64, bytes: u64) {
        let segment = self.segments.iter_mut().find(|s| (s.start..s.top).contains(&start));
        let segment = segment.expect("the block lies in a segment");
        let (mut start, mut end) = (start, start + rounded(bytes));
        if let Some((&before, &size)) = self.holes.range(segment.start..start).next_back()
            && before + size == start
        {
            self.holes.remove(&before);
            start = before;
        }
        // A hole at the end of the segment would be another segment's, which may follow at once.
        if end < segment.end
            && let Some(size) = self.holes.remove(&end)
        {
            end += size;
        }
        if end == segment.top {
            segment.top = start;
        } else {
            self.holes.insert(start, end - start);
        }
    }

    /// Bytes from the segments' starts to their highest tops.
    pub(in crate::device) fn height(&self) -> u64 {
        self.segments.iter().map(|s| s.highest - s.start).sum()
    }

    /// Bytes of the largest segment.
    pub(super) fn largest(&self) -> u64 {
        self.segments.iter().map(|s| s.end - s.start).max().unwrap_or(0)
    }

    /// Removes the segments without blocks; returns their addresses.
    pub(super) fn remove_unused(&mut self) -> Vec<u64> {
        let unused = self.segments.extract_if(.., |s| s.top == s.start);
        unused.map(|s| s.start).collect()
    }

    /// Bytes of all segments.
    pub(super) fn reserved(&self) -> u64 {
        self.segments.iter().map(|s| s.end - s.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arena(bytes: u64) -> Arena {
        let mut arena = Arena::default();
        arena.add(4096, bytes);
        arena
    }

    #[test]
    fn a_block_takes_the_smallest_hole_that_it_fits() {
        let mut arena = arena(1 << 20);
        let blocks: Vec<u64> =
            [512, 256, 1024, 256, 768, 256].iter().flat_map(|b| arena.take(*b)).collect();
        for (at, bytes) in [(0, 512), (2, 1024), (4, 768)] {
            arena.give(blocks[at], bytes);
        }
        assert_eq!(arena.take(600), Some(blocks[4]), "768 fits better than 1024");
        assert_eq!(arena.take(512), Some(blocks[0]));
        assert_eq!(arena.take(1), Some(blocks[2]));
        assert_eq!(arena.take(768), Some(blocks[2] + 256), "the rest of the hole");
    }

    #[test]
    fn neighbouring_holes_become_one_and_the_last_one_lowers_the_top() {
        let mut arena = arena(1024);
        let blocks: Vec<u64> = (0..4).flat_map(|_| arena.take(256)).collect();
        assert_eq!(arena.take(1), None);
        for at in [0, 2, 1] {
            arena.give(blocks[at], 256);
        }
        assert_eq!(arena.take(768), Some(blocks[0]));
        arena.give(blocks[3], 256);
        arena.give(blocks[0], 768);
        assert_eq!(arena.take(1024), Some(4096));
        assert_eq!((arena.height(), arena.reserved()), (1024, 1024));
    }

    #[test]
    fn holes_of_neighbouring_segments_stay_apart() {
        let mut arena = arena(512);
        arena.add(4096 + 512, 512);
        let blocks: Vec<u64> = (0..4).flat_map(|_| arena.take(256)).collect();
        arena.give(blocks[2], 256);
        arena.give(blocks[1], 256);
        assert_eq!(arena.take(512), None, "no block lies in two segments");
        arena.give(blocks[0], 256);
        assert_eq!(arena.remove_unused(), [4096]);
        assert_eq!((arena.take(512), arena.take(256)), (None, Some(blocks[2])));
    }

    #[test]
    fn a_second_segment_serves_what_the_first_has_no_room_for() {
        let mut arena = arena(512);
        arena.add(1 << 30, 1024);
        assert_eq!(arena.take(1024), Some(1 << 30));
        assert_eq!(arena.take(512), Some(4096));
        assert_eq!(arena.take(1), None);
    }

    /// Takes a block for each `Some`, and gives back a live one for each `None`.
    fn replay(arena: &mut Arena, requests: &[(Option<u64>, usize)]) -> Vec<(u64, u64)> {
        let mut live: Vec<(u64, u64)> = Vec::new();
        let mut all = Vec::new();
        for (request, which) in requests {
            match request {
                Some(bytes) => {
                    let start = arena.take(*bytes).expect("there is room");
                    for (other, size) in &live {
                        let apart = start + rounded(*bytes) <= *other || other + size <= start;
                        assert!(apart, "{start} + {bytes} and {other} + {size}");
                    }
                    live.push((start, rounded(*bytes)));
                    all.push((start, *bytes));
                }
                None if live.is_empty() => {}
                None => {
                    let (start, bytes) = live.swap_remove(which % live.len());
                    arena.give(start, bytes);
                }
            }
        }
        all
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_a_segment_of_the_rehearsed_height_suffices(
            requests in prop::collection::vec(
                (prop::option::weighted(0.6, 1u64..5000), any::<usize>()), 1..200)
        ) {
            let mut endless = arena(u64::MAX / 2);
            let rehearsed = replay(&mut endless, &requests);
            let mut exact = arena(endless.height());
            prop_assert_eq!(replay(&mut exact, &requests), rehearsed);
        }
    }
}
