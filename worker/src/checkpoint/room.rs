//! Room for one snapshot: the next waits until it is stored, so that memory is bounded whatever the store's speed.

use crate::collective::AbortHandle;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// One process's room. Clones are the same.
#[derive(Clone, Default)]
pub struct Room(Arc<Shared>);

#[derive(Default)]
struct Shared {
    taken: Mutex<bool>,
    freed: Condvar,
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
