//! Room for one snapshot: the next waits until it is stored, so that memory is bounded whatever the store's speed.
//! Where the store is not slow but fails, the room says so, and the next snapshot need not wait.
//!
//! Its memory stays: a system that has to find as much again at every checkpoint takes longer than the copying, and
//! longest when the store is on the same machine.

use crate::collective::AbortHandle;
use bytes::Bytes;
use memmap2::MmapMut;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Memory is taken in multiples of so many bytes.
const GRAIN: usize = 1 << 16;

/// A snapshot that takes longer than this to store does not keep training waiting for the next one.
const SLOW: Duration = Duration::from_secs(60);

/// One process's room. Clones are the same.
#[derive(Clone, Default)]
pub struct Room(Arc<Shared>);

/// Whether a snapshot can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacancy {
    /// It can.
    Free,
    /// The last one cannot be stored for now, or takes long.
    InTrouble,
}

#[derive(Default)]
struct Shared {
    occupied: Mutex<Option<Occupied>>,
    changed: Condvar,
    /// Memory of the last snapshot.
    unused: Mutex<Vec<MmapMut>>,
}

/// A snapshot is being stored.
#[derive(Default)]
struct Occupied {
    /// Files of it that the store has refused and not yet taken.
    failing: usize,
}

impl Room {
    /// Takes the room once it is free; none if `abort` comes first.
    pub fn reserve(&self, abort: &AbortHandle) -> Option<Reserved> {
        let mut occupied =
            self.0.wait_while(abort, Duration::MAX, |occupied| occupied.is_some())?;
        *occupied = Some(Occupied::default());
        Some(Reserved(self.0.clone()))
    }

    /// Waits until the room is free or known to stay occupied for a while; none if `abort` comes first.
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
        self.occupied.lock().expect("held only to look")
    }

    /// Waits for as long as `wait` holds, and no longer than `limit`; none if `abort` comes first.
    fn wait_while(
        self: &Arc<Self>,
        abort: &AbortHandle,
        limit: Duration,
        wait: impl Fn(&Option<Occupied>) -> bool,
    ) -> Option<MutexGuard<'_, Option<Occupied>>> {
        if wait(&self.lock()) {
            let room = self.clone();
            abort.on_abort(move || {
                // Under the lock: a thread that is about to wait hears of it.
                let _occupied = room.lock();
                room.changed.notify_all();
            });
        }
        let wait = |occupied: &mut Option<Occupied>| wait(occupied) && !abort.is_aborted();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, wait);
        let (occupied, _) = waited.expect("held only to look");
        (!abort.is_aborted()).then_some(occupied)
    }

    fn change(&self, change: impl FnOnce(&mut Option<Occupied>)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The room, taken; dropping it frees it.
pub struct Reserved(Arc<Shared>);

impl Reserved {
    /// One more file, or one fewer, is refused by the store for now.
    pub(crate) fn file_failing(&self, failing: bool) {
        self.0.change(|occupied| {
            let occupied = occupied.as_mut().expect("it is taken until this is dropped");
            occupied.failing = match failing {
                true => occupied.failing + 1,
                false => occupied.failing - 1,
            };
        });
    }

    /// So many bytes, written by `fill`, which finds anything there. Once they are dropped their memory is used again.
    pub(super) fn bytes(&self, count: usize, fill: impl FnOnce(&mut [u8])) -> Bytes {
        // A file's head may grow by a digit.
        let size = count.next_multiple_of(GRAIN);
        let mut unused = self.0.unused.lock().expect("held only to look");
        let fits = unused.iter().position(|memory| memory.len() == size);
        let memory = fits.map(|i| unused.swap_remove(i));
        drop(unused);
        let fresh = || MmapMut::map_anon(size).expect("there is memory for a snapshot");
        let mut memory = memory.unwrap_or_else(fresh);
        fill(&mut memory[..count]);
        Bytes::from_owner(Memory { memory: Some(memory), room: self.0.clone() }).slice(..count)
    }

    /// Gives back to the system what no snapshot like this one needs.
    pub(super) fn tidy(&self) {
        self.0.unused.lock().expect("held only to look").clear();
    }
}

/// A stretch of the room's memory.
struct Memory {
    memory: Option<MmapMut>,
    room: Arc<Shared>,
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_deref().expect("it is taken when dropped")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut unused = self.room.unused.lock().expect("held only to look");
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
    fn the_next_waits_for_the_last_to_be_stored() {
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
    fn the_next_need_not_wait_for_one_that_cannot_be_stored() {
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
    fn the_next_snapshot_finds_the_memory_of_the_last() {
        let (room, abort) = (Room::default(), AbortHandle::new());
        let reserved = room.reserve(&abort).expect("it is free");
        let copy = |byte: u8| reserved.bytes(10_000, |memory| memory.fill(byte));
        let (first, second) = (copy(1), copy(2));
        let places = [first.as_ptr(), second.as_ptr()];
        assert_ne!(places[0], places[1]);
        let piece = first.slice(5_000..);
        drop((first, second));
        // A part of one is still on its way.
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
        assert!(room.reserve(&abort).is_none(), "and every later one");
        assert_eq!(room.vacancy(&abort), None);
    }
}
