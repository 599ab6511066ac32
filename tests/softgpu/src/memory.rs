//! The address space: allocations, the blocks announced inside them, and which bytes are defined.
//!
//! An operation sees the blocks that were alive when it was enqueued: it holds a snapshot of the
//! map. A block that the caller takes anew is a new object with no defined byte, so earlier work
//! that still uses its former contents is neither disturbed nor reported.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::report::violation;

/// Addresses `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub start: u64,
    pub end: u64,
}

impl Span {
    pub(crate) fn new(start: u64, bytes: u64) -> Self {
        Self { start, end: start.saturating_add(bytes) }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// Where an allocation lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Memory of the device with this physical index.
    Device(usize),
    /// Pinned memory of the host.
    Pinned,
}

/// A live piece of memory that accesses must stay inside.
#[derive(Debug)]
pub(crate) struct Block {
    pub span: Span,
    pub place: Place,
    /// One bit for each byte of device memory that has been written.
    defined: Mutex<Vec<u64>>,
}

impl Block {
    fn new(span: Span, place: Place) -> Arc<Self> {
        let words = match place {
            Place::Device(_) => (span.end - span.start).div_ceil(64),
            Place::Pinned => 0,
        };
        let words = usize::try_from(words).expect("a block fits in memory");
        Arc::new(Self { span, place, defined: Mutex::new(vec![0; words]) })
    }

    /// Marks bytes as written.
    pub(crate) fn define(&self, span: Span) {
        let mut words = self.bits();
        each_word(self.span.start, span, |index, mask| {
            if let Some(word) = words.get_mut(index) {
                *word |= mask;
            }
            true
        });
    }

    /// The first byte of the range that was never written.
    pub(crate) fn first_undefined(&self, span: Span) -> Option<u64> {
        if self.place == Place::Pinned {
            return None;
        }
        let words = self.bits();
        let mut found = None;
        each_word(self.span.start, span, |index, mask| {
            let missing = mask & !words[index];
            if missing == 0 {
                return true;
            }
            found = Some(self.span.start + index as u64 * 64 + u64::from(missing.trailing_zeros()));
            false
        });
        found
    }

    /// The bits of the defined bytes, 64 for each word, from the start of the block.
    pub(crate) fn bits(&self) -> MutexGuard<'_, Vec<u64>> {
        self.defined.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls `visit(word, mask)` for the bitmap words that cover a range until it answers false.
fn each_word(base: u64, span: Span, mut visit: impl FnMut(usize, u64) -> bool) {
    let (mut at, end) = (span.start - base, span.end - base);
    while at < end {
        let stop = end.min((at / 64 + 1) * 64);
        let ones = if stop - at == 64 { u64::MAX } else { (1 << (stop - at)) - 1 };
        if !visit((at / 64) as usize, ones << (at % 64)) {
            return;
        }
        at = stop;
    }
}

/// The live blocks by address, as one operation sees them.
pub(crate) type Map = Arc<BTreeMap<u64, Arc<Block>>>;

/// The block that holds an address.
pub(crate) fn block_at(map: &Map, address: u64) -> Option<&Arc<Block>> {
    let (_, block) = map.range(..=address).next_back()?;
    (address < block.span.end).then_some(block)
}

/// The block that holds a whole range.
pub(crate) fn block_of(map: &Map, span: Span) -> Option<&Arc<Block>> {
    block_at(map, span.start).filter(|block| span.end <= block.span.end)
}

#[derive(Debug, Clone, Copy)]
struct Allocation {
    span: Span,
    place: Place,
    /// Whether the caller announces its blocks in this allocation.
    announced: bool,
}

/// All allocations of the process.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    allocations: BTreeMap<u64, Allocation>,
    map: Map,
}

impl Memory {
    /// The blocks that are alive now.
    pub(crate) fn snapshot(&self) -> Map {
        Arc::clone(&self.map)
    }

    /// Registers an allocation, which is one block until the caller announces others.
    pub(crate) fn add(&mut self, span: Span, place: Place) {
        self.allocations.insert(span.start, Allocation { span, place, announced: false });
        Arc::make_mut(&mut self.map).insert(span.start, Block::new(span, place));
    }

    /// Forgets an allocation of the same kind of place and returns its range and place.
    pub(crate) fn remove(&mut self, start: u64, pinned: bool) -> Option<(Span, Place)> {
        let allocation = *self.allocations.get(&start)?;
        if (allocation.place == Place::Pinned) != pinned {
            return None;
        }
        self.allocations.remove(&start);
        let Span { start, end } = allocation.span;
        let inside: Vec<u64> = self.map.range(start..end).map(|(at, _)| *at).collect();
        let map = Arc::make_mut(&mut self.map);
        for at in &inside {
            map.remove(at);
        }
        if allocation.announced && !inside.is_empty() {
            let count = inside.len();
            violation(
                "memory.free",
                &format!("an allocation was freed while {count} announced blocks in it are alive"),
                &[("start", format!("{start:#x}"))],
            );
        }
        Some((allocation.span, allocation.place))
    }

    /// Forgets all allocations of a device, whose context was destroyed.
    pub(crate) fn forget_device(&mut self, device: usize) {
        let place = Place::Device(device);
        self.allocations.retain(|_, allocation| allocation.place != place);
        Arc::make_mut(&mut self.map).retain(|_, block| block.place != place);
    }

    /// The place of the allocation that holds a whole range.
    pub(crate) fn place_of(&self, span: Span) -> Option<Place> {
        let (_, allocation) = self.allocations.range(..=span.start).next_back()?;
        (span.start < allocation.span.end && span.end <= allocation.span.end)
            .then_some(allocation.place)
    }

    /// Announces a block, all of whose bytes are undefined.
    pub(crate) fn take(&mut self, span: Span) {
        let Some((_, allocation)) = self.allocations.range_mut(..=span.start).next_back() else {
            return unknown_block("taken", span);
        };
        if span.end > allocation.span.end {
            return unknown_block("taken", span);
        }
        let map = Arc::make_mut(&mut self.map);
        if !allocation.announced {
            allocation.announced = true;
            map.remove(&allocation.span.start);
        }
        let place = allocation.place;
        let overlap = map.range(..span.end).next_back().filter(|(_, b)| b.span.end > span.start);
        if let Some((_, other)) = overlap {
            let message = "a block was taken that overlaps a live block";
            violation("memory.block", message, &names(span, Some(other.span)));
        }
        map.insert(span.start, Block::new(span, place));
    }

    /// Ends the life of a block.
    pub(crate) fn give(&mut self, span: Span) {
        match Arc::make_mut(&mut self.map).remove(&span.start) {
            Some(block) if block.span == span => {}
            _ => unknown_block("given", span),
        }
    }
}

fn unknown_block(verb: &str, span: Span) {
    let message = format!("a block was {verb} where the caller has none");
    violation("memory.block", &message, &names(span, None));
}

fn names(span: Span, other: Option<Span>) -> Vec<(&'static str, String)> {
    let mut list = vec![("range", format!("{:#x}..{:#x}", span.start, span.end))];
    if let Some(other) = other {
        list.push(("other", format!("{:#x}..{:#x}", other.start, other.end)));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undefined_bytes_are_found_across_words() {
        let block = Block::new(Span::new(1000, 300), Place::Device(0));
        block.define(Span { start: 1010, end: 1200 });
        assert_eq!(block.first_undefined(Span { start: 1010, end: 1200 }), None);
        assert_eq!(block.first_undefined(Span { start: 1009, end: 1011 }), Some(1009));
        assert_eq!(block.first_undefined(Span { start: 1100, end: 1300 }), Some(1200));
    }

    #[test]
    fn a_snapshot_keeps_the_blocks_of_its_time() {
        let mut memory = Memory::default();
        memory.add(Span::new(4096, 4096), Place::Device(0));
        memory.take(Span::new(4096, 64));
        let before = memory.snapshot();
        memory.give(Span::new(4096, 64));
        memory.take(Span::new(4096, 128));
        let old = block_of(&before, Span::new(4096, 64)).expect("the block was alive");
        old.define(Span::new(4096, 64));
        let now = memory.snapshot();
        let new = block_of(&now, Span::new(4096, 128)).expect("the block is alive");
        assert_eq!(new.first_undefined(Span::new(4096, 64)), Some(4096));
        assert!(block_of(&now, Span::new(4096, 129)).is_none());
        assert!(block_of(&now, Span::new(4300, 4)).is_none(), "between blocks nothing is alive");
    }
}
