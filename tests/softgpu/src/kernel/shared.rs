//! Shared memory: one cell for each byte of the thread's thread-local variables.
//!
//! Each block that runs on a thread has a number of its own, and a byte remembers the number of the
//! last block that touched it: what an earlier block left behind counts as never written.

use std::cell::Cell as Slot;

use super::marks::{Cell, Kind, Mark};
use super::shadow::Problem;

/// Shared memory of the running block.
#[derive(Default)]
pub(super) struct Shared {
    start: u64,
    end: u64,
    /// Empty until the thread's first access.
    bytes: Vec<Byte>,
    /// The kernel's static arrays, by their distance from `start`; `None` if unknown.
    arrays: Option<&'static [(u64, u64)]>,
    /// Each dynamic array: its first address, and the bytes that the build reserved.
    dynamic_arrays: Vec<(u64, u64)>,
    dynamic: u64,
    block: u64,
}

#[derive(Clone, Copy, Default)]
struct Byte {
    cell: Cell,
    block: u64,
}

thread_local! {
    /// The memory of the thread's latest launch, kept because it is large.
    static KEPT: Slot<Option<Shared>> = const { Slot::new(None) };
}

/// The most dynamic shared memory that a block may have.
#[cfg(softgpu_kernels)]
const RESERVED: u64 = 232_448;

#[cfg(softgpu_kernels)]
unsafe extern "C" {
    fn softgpu_dynamic_shared(out: *mut *mut u8) -> u32;
}

#[cfg(softgpu_kernels)]
fn dynamic_arrays() -> Vec<(u64, u64)> {
    const MOST: usize = 64;
    let mut out = [std::ptr::null_mut(); MOST];
    // SAFETY: the build generates the function; it writes one address for each dynamic array.
    let count = unsafe { softgpu_dynamic_shared(out.as_mut_ptr()) } as usize;
    assert!(count <= MOST, "the source has at most {MOST} dynamic shared arrays");
    out[..count].iter().map(|at| (*at as u64, RESERVED)).collect()
}

#[cfg(not(softgpu_kernels))]
fn dynamic_arrays() -> Vec<(u64, u64)> {
    Vec::new()
}

impl Shared {
    /// The shared memory within a thread's thread-local variables, for a kernel's static arrays.
    pub(super) fn of_thread(
        (start, end): (u64, u64),
        arrays: Option<&'static [(u64, u64)]>,
    ) -> Self {
        let fresh = || Self { start, end, dynamic_arrays: dynamic_arrays(), ..Self::default() };
        Self { arrays, ..KEPT.take().unwrap_or_else(fresh) }
    }

    /// Keeps the memory for the thread's next launch.
    pub(super) fn keep(self) {
        KEPT.set(Some(self));
    }

    /// Forgets what earlier blocks wrote.
    pub(super) fn enter_block(&mut self) {
        self.block += 1;
    }

    /// Sets how many bytes of each dynamic array the launch has.
    pub(super) fn limit_dynamic(&mut self, bytes: u32) {
        self.dynamic = u64::from(bytes);
    }

    /// Checks and notes an access.
    pub(super) fn access(
        &mut self,
        at: u64,
        bytes: u64,
        kind: Kind,
        now: Mark,
    ) -> Result<(), Problem> {
        if !self.holds(at, at + bytes) {
            return Err(Problem::SharedBounds);
        }
        if !at.is_multiple_of(bytes) {
            return Err(Problem::Alignment);
        }
        if self.bytes.is_empty() {
            self.bytes.resize((self.end - self.start) as usize, Byte::default());
        }
        let first = (at - self.start) as usize;
        let touched = self.bytes.get_mut(first..first + bytes as usize);
        let mut undefined = false;
        let mut race = None;
        for byte in touched.ok_or(Problem::SharedBounds)? {
            if byte.block != self.block {
                *byte = Byte { cell: Cell::default(), block: self.block };
            }
            undefined |= kind != Kind::Write && byte.cell.write.is_none();
            race = byte.cell.touch(now, kind).or(race);
        }
        if let Some(mark) = race {
            return Err(Problem::SharedRace { other: mark.id() });
        }
        if undefined { Err(Problem::SharedUndefined) } else { Ok(()) }
    }

    /// Whether a range lies in one array, as far as the arrays are known.
    fn holds(&self, at: u64, end: u64) -> bool {
        let dynamic =
            self.dynamic_arrays.iter().find(|(start, size)| (*start..start + size).contains(&at));
        if let Some((start, _)) = dynamic {
            return end <= start + self.dynamic;
        }
        let inside =
            |(first, last): &(u64, u64)| self.start + first <= at && end <= self.start + last;
        self.arrays.is_none_or(|arrays| arrays.iter().any(inside))
    }
}
