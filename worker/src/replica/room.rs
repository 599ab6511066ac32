//! The buffer for one snapshot. The next snapshot waits until it is stored, so that memory is bounded whatever the
//! speed of the store. If the store fails instead of being slow, this is reported here, and the next snapshot need
//! not wait.
//!
//! The memory is kept between snapshots: allocating as much again at every checkpoint takes the operating system
//! longer than the copying itself, most of all if the store is on the same machine.

use crate::collective::AbortHandle;
use bytes::Bytes;
use memmap2::MmapMut;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Memory is allocated in multiples of this many bytes.
const GRAIN: usize = 1 << 16;

/// If storing a snapshot takes longer than this, training does not wait for it before the next one.
const SLOW: Duration = Duration::from_secs(60);

/// The snapshot buffer of one process. Clones refer to the same buffer.
#[derive(Clone, Default)]
pub struct Room(Arc<Shared>);

/// Whether a snapshot can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacancy {
    /// The buffer is free.
    Free,
    /// The previous snapshot cannot be stored at the moment, or takes long.
    InTrouble,
}

#[derive(Default)]
struct Shared {
    occupied: Mutex<Option<Occupied>>,
    changed: Condvar,
    /// Memory of previous snapshots, for reuse.
    unused: Mutex<Vec<MmapMut>>,
}

/// The state of a snapshot that is being stored.
#[derive(Default)]
struct Occupied {
    /// Number of its files that the store has refused and not yet accepted.
    failing: usize,
}

impl Room {
    /// Reserves the buffer once it is free; `None` if aborted first.
    pub fn reserve(&self, abort: &AbortHandle) -> Option<Reserved> {
        let mut occupied =
            self.0.wait_while(abort, Duration::MAX, |occupied| occupied.is_some())?;
        *occupied = Some(Occupied::default());
        Some(Reserved(self.0.clone()))
    }

    /// Waits until the buffer is free or known to stay occupied for a while; `None` if aborted first.
    pub fn vacancy(&self, abort: &AbortHandle) -> Option<Vacancy> {
        let is_being_stored =
            |occupied: &Option<Occupied>| occupied.as_ref().is_some_and(|o| o.failing == 0);
        let occupied = self.0.wait_while(abort, SLOW, is_being_stored)?;
        Some(if occupied.is_some() { Vacancy::InTrouble } else { Vacancy::Free })
    }

    /// Whether a snapshot is being stored.
    pub fn is_taken(&self) -> bool {
        self.0.lock().is_some()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Occupied>> {
        self.occupied.lock().expect("no code panics while holding the lock")
    }

    /// Waits while `wait` holds, at most for `limit`; `None` if aborted first.
    fn wait_while(
        self: &Arc<Self>,
        abort: &AbortHandle,
        limit: Duration,
        wait: impl Fn(&Option<Occupied>) -> bool,
    ) -> Option<MutexGuard<'_, Option<Occupied>>> {
        if wait(&self.lock()) {
            let room = self.clone();
            abort.on_abort(move || {
                // Notify under the lock, so that a thread that is about to wait cannot miss it.
                let _occupied = room.lock();
                room.changed.notify_all();
            });
        }
        let wait = |occupied: &mut Option<Occupied>| wait(occupied) && !abort.is_aborted();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, wait);
        let (occupied, _) = waited.expect("no code panics while holding the lock");
        (!abort.is_aborted()).then_some(occupied)
    }

    fn change(&self, change: impl FnOnce(&mut Option<Occupied>)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The reserved buffer, which is freed when this is dropped.
pub struct Reserved(Arc<Shared>);

impl Reserved {
    /// Records that the store refuses one more file (`true`), or one fewer (`false`).
    pub(crate) fn file_failing(&self, failing: bool) {
        self.0.change(|occupied| {
            let occupied = occupied.as_mut().expect("it is taken until this is dropped");
            occupied.failing = match failing {
                true => occupied.failing + 1,
                false => occupied.failing - 1,
            };
        });
    }

    /// `count` bytes written by `fill`, whose initial contents are unspecified. Their memory is reused once they are
    /// dropped.
    pub(super) fn bytes(&self, count: usize, fill: impl FnOnce(&mut [u8])) -> Bytes {
        // Rounded up, so that the memory still fits if a file's header grows by a digit.
        let size = count.next_multiple_of(GRAIN);
        let mut unused = self.0.unused.lock().expect("no code panics while holding the lock");
        let fits = unused.iter().position(|memory| memory.len() == size);
        let memory = fits.map(|i| unused.swap_remove(i));
        drop(unused);
        let fresh = || MmapMut::map_anon(size).expect("there is memory for a snapshot");
        let mut memory = memory.unwrap_or_else(fresh);
        fill(&mut memory[..count]);
        Bytes::from_owner(Memory { memory: Some(memory), room: self.0.clone() }).slice(..count)
    }

    /// Returns unused memory to the system: a snapshot like this one does not need it.
    pub(super) fn tidy(&self) {
        self.0.unused.lock().expect("no code panics while holding the lock").clear();
    }
}

/// A piece of the buffer's memory.
struct Memory {
    memory: Option<MmapMut>,
    room: Arc<Shared>,
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_deref().expect("it is taken only on drop")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut unused = self.room.unused.lock().expect("no code panics while holding the lock");
        unused.extend(self.memory.take());
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.change(|occupied| *occupied = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_waits_until_the_previous_one_is_stored() {
        let (room, abort) = (Room::default(), AbortHandle::new());
        let first = room.reserve(&abort).expect("it is free");
        let waiting = std::thread::spawn({
            let (room, abort) = (room.clone(), abort.clone());
            move || room.reserve(&abort).is_some()
        });
        assert!(room.is_taken());
        drop(first);
        assert!(waiting.join().expect("it only waits"));
        assert!(!room.is_taken());
    }

    #[test]
    fn a_snapshot_does_not_wait_for_one_that_cannot_be_stored() {
        let (room, abort) = (Room::default(), AbortHandle::new());
        assert_eq!(room.vacancy(&abort), Some(Vacancy::Free));
        let first = room.reserve(&abort).expect("it is free");
        let waiting = std::thread::spawn({
            let (room, abort) = (room.clone(), abort.clone());
            move || room.vacancy(&abort)
        });
        first.file_failing(true);
        first.file_failing(true);
        assert_eq!(waiting.join().expect("it only waits"), Some(Vacancy::InTrouble));
        first.file_failing(false);
        assert_eq!(room.vacancy(&abort), Some(Vacancy::InTrouble), "another one is failing");
        first.file_failing(false);
        let waiting = std::thread::spawn({
            let (room, abort) = (room.clone(), abort.clone());
            move || room.vacancy(&abort)
        });
        drop(first);
        assert_eq!(waiting.join().expect("it only waits"), Some(Vacancy::Free));
    }

    #[test]
    fn a_snapshot_reuses_the_memory_of_the_previous_one() {
        let (room, abort) = (Room::default(), AbortHandle::new());
        let reserved = room.reserve(&abort).expect("it is free");
        let copy = |byte: u8| reserved.bytes(10_000, |memory| memory.fill(byte));
        let (first, second) = (copy(1), copy(2));
        let places = [first.as_ptr(), second.as_ptr()];
        assert_ne!(places[0], places[1]);
        let piece = first.slice(5_000..);
        drop((first, second));
        // A part of the first one is still in use.
        let (third, fourth) = (copy(3), copy(4));
        assert_eq!(third.as_ptr(), places[1]);
        assert_ne!(fourth.as_ptr(), places[0]);
        assert!(piece.iter().all(|byte| *byte == 1));
        drop(piece);
        assert_eq!(copy(5).as_ptr(), places[0]);
        reserved.tidy();
        assert!(third.iter().all(|byte| *byte == 3));
    }

    #[test]
    fn an_abort_ends_the_wait() {
        let (room, abort) = (Room::default(), AbortHandle::new());
        let _first = room.reserve(&abort).expect("it is free");
        let waiting = std::thread::spawn({
            let (room, abort) = (room.clone(), abort.clone());
            move || room.reserve(&abort).is_none()
        });
        abort.abort();
        assert!(waiting.join().expect("it only waits"));
        assert!(room.reserve(&abort).is_none(), "and every later reservation");
        assert_eq!(room.vacancy(&abort), None);
    }
}
