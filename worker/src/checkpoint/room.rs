//! Room for one snapshot: the next waits until it is stored, so that memory is bounded whatever the store's speed.
//!
//! Its memory stays: a system that has to find as much again at every checkpoint takes longer than the copying, and
//! longest when the store is on the same machine.

use crate::collective::AbortHandle;
use bytes::Bytes;
use memmap2::MmapMut;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Memory is taken in multiples of so many bytes.
const GRAIN: usize = 1 << 16;

/// One process's room. Clones are the same.
#[derive(Clone, Default)]
pub struct Room(Arc<Shared>);

#[derive(Default)]
struct Shared {
    taken: Mutex<bool>,
    freed: Condvar,
    /// Memory of the last snapshot.
    unused: Mutex<Vec<MmapMut>>,
}

impl Room {
    /// Takes the room once it is free; none if `abort` comes first.
    pub fn reserve(&self, abort: &AbortHandle) -> Option<Reserved> {
        abort.on_abort({
            let room = self.0.clone();
            move || {
                // Under the lock: whoever is about to wait is told.
                let _taken = room.lock();
                room.freed.notify_all();
            }
        });
        let wait = |taken: &mut bool| *taken && !abort.is_aborted();
        let mut taken = self.0.freed.wait_while(self.0.lock(), wait).expect("held only to look");
        if abort.is_aborted() {
            return None;
        }
        *taken = true;
        Some(Reserved(self.0.clone()))
    }

    /// Whether a snapshot is being stored.
    pub fn is_taken(&self) -> bool {
        *self.0.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().expect("held only to look")
    }
}

/// The room, taken; dropping it frees it.
pub struct Reserved(Arc<Shared>);

impl Reserved {
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
        *self.0.lock() = false;
        self.0.freed.notify_all();
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
    }
}
