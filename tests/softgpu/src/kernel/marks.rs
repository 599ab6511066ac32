//! Who touched a word and when: the marks that find races within a launch.

const ATOMIC: u32 = 1 << 29;
const ID: u32 = ATOMIC - 1;
const SPREAD_SHIFT: u32 = 30;
/// An epoch that has reached this value no longer tells accesses apart.
pub(super) const LAST_EPOCH: u32 = 0xffff;

/// How memory is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Atomic,
}

/// One or several threads at one time: `who` holds a block, a thread, a flag for atomics and how
/// far the threads are spread; `when` counts the block's and the warp's synchronizations.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    pub who: u32,
    pub when: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Spread {
    Thread,
    Warp,
    Block,
    Grid,
}

impl Mark {
    pub(super) fn is_none(self) -> bool {
        self.who == 0
    }

    pub(super) fn is_atomic(self) -> bool {
        self.who & ATOMIC != 0
    }

    /// The block and thread in one number, as in `Problem`.
    pub(super) fn id(self) -> u32 {
        self.who & ID
    }

    pub(super) fn same_block(self, other: Self) -> bool {
        self.id() >> 10 == other.id() >> 10
    }

    fn spread(self) -> Spread {
        match self.who >> SPREAD_SHIFT {
            0 => Spread::Thread,
            1 => Spread::Warp,
            2 => Spread::Block,
            _ => Spread::Grid,
        }
    }

    /// Whether this earlier access has ended before `now`.
    pub(super) fn before(self, now: Self) -> bool {
        if self.is_none() {
            return true;
        }
        let spread = self.spread();
        if spread == Spread::Grid || !self.same_block(now) {
            return false;
        }
        if spread == Spread::Thread && self.id() == now.id() {
            return true;
        }
        let barriers = self.when >> 16;
        if barriers < now.when >> 16 || barriers == LAST_EPOCH {
            return true;
        }
        let meetings = self.when & LAST_EPOCH;
        spread <= Spread::Warp
            && self.id() >> 5 == now.id() >> 5
            && (meetings < now.when & LAST_EPOCH || meetings == LAST_EPOCH)
    }

    /// Adds an access to those that are not ordered before it.
    pub(super) fn with(self, now: Self) -> Self {
        if self.before(now) {
            return now;
        }
        let spread = if !self.same_block(now) {
            Spread::Grid
        } else if self.id() >> 5 == now.id() >> 5 {
            Spread::Warp
        } else {
            Spread::Block
        };
        let spread = spread.max(self.spread()) as u32;
        Self { who: now.who | spread << SPREAD_SHIFT, when: self.when.max(now.when) }
    }
}

/// The last writers and readers of a word or of a part of one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cell {
    pub write: Mark,
    pub read: Mark,
}

impl Cell {
    /// Notes an access and returns an earlier one that races with it.
    pub(super) fn touch(&mut self, now: Mark, kind: Kind) -> Option<Mark> {
        match kind {
            Kind::Read => {
                let race = (!self.write.before(now)).then_some(self.write);
                self.read = self.read.with(now);
                race
            }
            Kind::Write => {
                let race = [self.write, self.read].into_iter().find(|mark| !mark.before(now));
                *self = Self { write: now, read: Mark::default() };
                race
            }
            Kind::Atomic => {
                let both = self.write.is_atomic();
                let races = |mark: &Mark| !mark.before(now);
                let race = Some(self.write).filter(|mark| !both && races(mark));
                let race = race.or(Some(self.read).filter(races));
                let now = Mark { who: now.who | ATOMIC, ..now };
                self.write = if both { self.write.with(now) } else { now };
                race
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread of a block after some barriers and, since then, meetings of its warp.
    fn mark(block: u32, thread: u32, barriers: u32, meetings: u32) -> Mark {
        Mark { who: block << 10 | thread, when: barriers << 16 | meetings }
    }

    #[test]
    fn barriers_order_a_block_and_meetings_a_warp() {
        let first = mark(1, 5, 0, 0);
        assert!(first.before(mark(1, 5, 0, 0)), "a thread is ordered with itself");
        assert!(!first.before(mark(1, 6, 0, 0)));
        assert!(first.before(mark(1, 6, 0, 1)), "the lanes have met");
        assert!(!first.before(mark(1, 40, 0, 1)), "another warp has met");
        assert!(first.before(mark(1, 40, 1, 0)), "the block has passed a barrier");
        assert!(!first.before(mark(2, 5, 1, 0)), "another block");
    }

    #[test]
    fn several_readers_are_kept_as_a_spread() {
        let mut cell = Cell::default();
        assert!(cell.touch(mark(1, 0, 0, 0), Kind::Read).is_none());
        assert!(cell.touch(mark(1, 1, 0, 0), Kind::Read).is_none());
        let mut after_meeting = cell;
        assert!(after_meeting.touch(mark(1, 0, 0, 1), Kind::Write).is_none());
        assert!(cell.touch(mark(1, 0, 0, 0), Kind::Write).is_some(), "lane 1 has read it, too");
    }

    #[test]
    fn atomics_race_only_with_plain_accesses() {
        let mut cell = Cell::default();
        assert!(cell.touch(mark(1, 0, 0, 0), Kind::Atomic).is_none());
        assert!(cell.touch(mark(2, 0, 0, 0), Kind::Atomic).is_none());
        assert!(cell.touch(mark(2, 0, 9, 0), Kind::Read).is_some(), "block 1 is not ordered");
    }
}
