//! A page of global memory in the shadow of a launch.

use std::collections::HashSet;

use super::marks::{Cell, Kind, Mark};
use super::shadow::Problem;
use crate::history::Touched;
use crate::memory::{self, Block, Map, Place, Span};

pub(super) const PAGE_BITS: u32 = 12;
const PAGE: u64 = 1 << PAGE_BITS;
const WORDS: usize = (PAGE / 64) as usize;

/// A live block that reaches into the page.
struct Segment {
    span: Span,
    /// Whether the kernel may only read it.
    constant: bool,
    /// Whether it is memory of another device.
    elsewhere: bool,
}

/// The blocks, bits and cells of one page.
pub(super) struct Page {
    base: u64,
    segments: Vec<Segment>,
    defined: [u64; WORDS],
    read: [u64; WORDS],
    written: [u64; WORDS],
    /// Each cell stands for `1 << shift` bytes.
    shift: u32,
    cells: Vec<Cell>,
}

impl Page {
    /// The page of this number as an operation on `device` finds it; `constant` lists the starts
    /// of the blocks that it may only read.
    pub(super) fn new(number: u64, map: &Map, device: usize, constant: &HashSet<u64>) -> Self {
        let base = number << PAGE_BITS;
        let mut page = Self {
            base,
            segments: Vec::new(),
            defined: [0; WORDS],
            read: [0; WORDS],
            written: [0; WORDS],
            shift: 2,
            cells: vec![Cell::default(); (PAGE / 4) as usize],
        };
        let first = memory::block_at(map, base).map_or(base, |block| block.span.start);
        for (_, block) in map.range(first..base + PAGE) {
            page.segments.push(Segment {
                span: block.span,
                constant: constant.contains(&block.span.start),
                elsewhere: !matches!(block.place, Place::Device(owner) if owner == device)
                    && block.place != Place::Pinned,
            });
            page.copy_defined(base, block);
        }
        page
    }

    /// Checks and notes an access that does not leave the page.
    pub(super) fn access(
        &mut self,
        at: u64,
        bytes: u64,
        kind: Kind,
        now: Mark,
    ) -> Result<(), Problem> {
        let holds = |segment: &&Segment| segment.span.start <= at && at + bytes <= segment.span.end;
        let segment = self.segments.iter().find(holds).ok_or(Problem::Bounds)?;
        if segment.elsewhere {
            return Err(Problem::Device);
        }
        let constant = segment.constant;
        let offset = at - self.base;
        let (word, mask) = ((offset / 64) as usize, ((1_u64 << bytes) - 1) << (offset % 64));
        let known = self.defined[word] | self.written[word];
        let undefined = kind != Kind::Write && known & mask != mask;
        if kind != Kind::Write {
            self.read[word] |= mask;
        }
        if kind != Kind::Read {
            self.written[word] |= mask;
        }
        let race = self.touch(offset, bytes, now, kind);
        if constant && kind != Kind::Read {
            return Err(Problem::Const);
        }
        if undefined {
            return Err(Problem::Undefined);
        }
        race.map_or(Ok(()), |mark| Err(Problem::GlobalRace { other: mark.id() }))
    }

    /// Appends the bytes that were read and written.
    pub(super) fn touched(&self, to: &mut Touched) {
        collect(self.base, &self.read, &mut to.reads);
        collect(self.base, &self.written, &mut to.writes);
    }

    fn copy_defined(&mut self, base: u64, block: &Block) {
        let bits = block.bits();
        let word_of = |index: i64| {
            let index = usize::try_from(index).ok();
            let known = index.and_then(|index| bits.get(index)).copied();
            // Pinned memory has no bits: all of it counts as written.
            known.unwrap_or(if bits.is_empty() { u64::MAX } else { 0 })
        };
        for (index, word) in self.defined.iter_mut().enumerate() {
            let start = base + index as u64 * 64;
            let (low, high) = (start.max(block.span.start), (start + 64).min(block.span.end));
            if low >= high {
                continue;
            }
            let ones = if high - low == 64 { u64::MAX } else { (1 << (high - low)) - 1 };
            let inside = start as i64 - block.span.start as i64;
            let (first, shift) = (inside.div_euclid(64), inside.rem_euclid(64));
            let mut value = word_of(first) >> shift;
            if shift > 0 {
                value |= word_of(first + 1) << (64 - shift);
            }
            *word |= value & (ones << (low - start));
        }
    }

    fn touch(&mut self, offset: u64, bytes: u64, now: Mark, kind: Kind) -> Option<Mark> {
        while (offset | bytes) & ((1 << self.shift) - 1) != 0 {
            self.shift -= 1;
            self.cells = self.cells.iter().flat_map(|cell| [*cell, *cell]).collect();
        }
        let first = (offset >> self.shift) as usize;
        let last = ((offset + bytes) >> self.shift) as usize;
        let mut race = None;
        for cell in &mut self.cells[first..last] {
            race = cell.touch(now, kind).or(race);
        }
        race
    }
}

/// Appends the runs of set bits, joined to a run that ends where they begin.
fn collect(base: u64, bits: &[u64; WORDS], spans: &mut Vec<Span>) {
    for (index, word) in bits.iter().enumerate() {
        let mut rest = *word;
        while rest != 0 {
            let first = rest.trailing_zeros();
            let count = (rest >> first).trailing_ones();
            rest &= if first + count == 64 { 0 } else { u64::MAX << (first + count) };
            let start = base + index as u64 * 64 + u64::from(first);
            let end = start + u64::from(count);
            match spans.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => spans.push(Span { start, end }),
            }
        }
    }
}
