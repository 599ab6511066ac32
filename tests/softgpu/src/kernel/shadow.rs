//! What a launch knows of each byte: who read and wrote it, and whether that was allowed.
//!
//! Global memory is looked up by pages of 4 KiB. A page holds the live blocks in it, bits for the
//! bytes defined, read and written, and one cell for each word with its last reader and writer;
//! the cells are split when the kernel touches parts of words.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::image::{Image, image};
use super::marks::{Kind, LAST_EPOCH, Mark};
use super::page::{PAGE_BITS, Page};
use super::shared::Shared;
use crate::history::Touched;
use crate::memory::{self, Map, Span};

const CACHE_BITS: u32 = 8;
/// Block numbers in a mark start again after this many.
const BLOCK_NUMBERS: u64 = (1 << 19) - 1;

/// What is wrong with an access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    Bounds,
    Alignment,
    Device,
    Const,
    Undefined,
    SharedBounds,
    SharedUndefined,
    GlobalRace { other: u32 },
    SharedRace { other: u32 },
}

/// Addresses that a kernel received, by what it may do with their blocks.
#[derive(Debug, Default)]
pub(super) struct Rights {
    pub writable: Vec<u64>,
    pub constant: Vec<u64>,
}

/// The shadow of one launch.
pub(super) struct Shadow {
    device: usize,
    map: Map,
    constant: HashSet<u64>,
    pages: HashMap<u64, Box<Page>, BuildHasherDefault<PageHasher>>,
    /// The pages used lately, by a hash of their numbers.
    cache: [(u64, *mut Page); 1 << CACHE_BITS],
    shared: Shared,
    image: Image,
    stack: (u64, u64),
    now: Mark,
    block: u32,
    barriers: u32,
    /// How often each thread has met its warp since the latest barrier.
    meetings: Vec<u32>,
    /// Kinds of problems that this launch has reported.
    pub reported: HashSet<&'static str>,
}

impl Shadow {
    pub(super) fn new(
        device: usize,
        map: &Map,
        rights: &Rights,
        shared_arrays: Option<&'static [(u64, u64)]>,
    ) -> Self {
        let blocks = |addresses: &[u64]| -> HashSet<u64> {
            let found = addresses.iter().filter_map(|at| memory::block_at(map, *at));
            found.map(|block| block.span.start).collect()
        };
        let writable = blocks(&rights.writable);
        let constant = blocks(&rights.constant).difference(&writable).copied().collect();
        let image = image();
        Self {
            device,
            map: Map::clone(map),
            constant,
            pages: HashMap::default(),
            cache: [(u64::MAX, std::ptr::null_mut()); 1 << CACHE_BITS],
            shared: Shared::of_thread(image.locals, shared_arrays),
            image,
            stack: (0, 0),
            now: Mark::default(),
            block: 0,
            barriers: 0,
            meetings: Vec::new(),
            reported: HashSet::new(),
        }
    }

    pub(super) fn enter_block(&mut self, number: u64, threads: u32, dynamic_shared: u32) {
        self.block = (number % BLOCK_NUMBERS) as u32 + 1;
        self.barriers = 0;
        self.shared.enter_block();
        self.meetings.clear();
        self.meetings.resize(threads as usize, 0);
        self.shared.limit_dynamic(dynamic_shared);
    }

    pub(super) fn enter_stack(&mut self, stack: (u64, u64)) {
        self.stack = stack;
    }

    pub(super) fn enter_thread(&mut self, number: u32) {
        let when = self.barriers << 16 | self.meetings[number as usize];
        self.now = Mark { who: self.block << 10 | number, when };
    }

    pub(super) fn pass_barrier(&mut self) {
        self.barriers = (self.barriers + 1).min(LAST_EPOCH);
        self.meetings.fill(0);
        self.enter_thread(self.now.who & 1023);
    }

    pub(super) fn pass_warp(&mut self, warp: u32, mask: u32) {
        let first = (warp * 32) as usize;
        let lanes = self.meetings[first..].iter_mut().take(32).enumerate();
        let members = lanes.filter(|(lane, _)| mask & (1 << lane) != 0).map(|(_, count)| count);
        let mut members: Vec<&mut u32> = members.collect();
        let next = members.iter().map(|count| **count).max().unwrap_or(0) + 1;
        for count in &mut members {
            **count = next.min(LAST_EPOCH);
        }
        self.enter_thread(self.now.who & 1023);
    }

    /// Checks and notes an access by the running thread.
    pub(super) fn access(&mut self, at: u64, bytes: u64, kind: Kind) -> Result<(), Problem> {
        let inside = |(start, end): (u64, u64)| start <= at && at < end;
        let page = at >> PAGE_BITS;
        if self.cache[slot(page)].0 != page {
            if inside(self.stack) {
                return Ok(());
            }
            if inside(self.image.locals) {
                return self.shared.access(at, bytes, kind, self.now);
            }
            if inside(self.image.data) {
                // Constants, and the counters of coverage.
                return Ok(());
            }
        }
        if !at.is_multiple_of(bytes) {
            return Err(Problem::Alignment);
        }
        let now = self.now;
        self.page(page).access(at, bytes, kind, now)
    }

    fn page(&mut self, number: u64) -> &mut Page {
        let slot = slot(number);
        if self.cache[slot].0 != number {
            let make = || Box::new(Page::new(number, &self.map, self.device, &self.constant));
            let page = self.pages.entry(number).or_insert_with(make);
            self.cache[slot] = (number, &raw mut **page);
        }
        // SAFETY: the boxes live as long as the shadow and do not move.
        unsafe { &mut *self.cache[slot].1 }
    }

    /// Marks what the launch wrote as defined, and returns what it touched.
    pub(super) fn finish(&mut self) -> Touched {
        let mut numbers: Vec<u64> = self.pages.keys().copied().collect();
        numbers.sort_unstable();
        let mut touched = Touched::default();
        for number in numbers {
            let page = &self.pages[&number];
            page.touched(&mut touched);
        }
        std::mem::take(&mut self.shared).keep();
        for span in &touched.writes {
            let first =
                memory::block_at(&self.map, span.start).map_or(span.start, |b| b.span.start);
            for (_, block) in self.map.range(first..span.end) {
                let start = span.start.max(block.span.start);
                block.define(Span { start, end: span.end.min(block.span.end).max(start) });
            }
        }
        touched
    }
}

/// Where the cache keeps a page.
fn slot(page: u64) -> usize {
    (page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - CACHE_BITS)) as usize
}

/// Spreads page numbers; the usual hasher costs more than the lookup.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}
