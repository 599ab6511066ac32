//! An event that happens at most once, with callbacks from any thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An event that may happen once. Clones stand for the same event.
#[derive(Clone, Default)]
pub(super) struct Signal(Arc<Shared>);

#[derive(Default)]
struct Shared {
    raised: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

type Waker = Box<dyn Fn() + Send + Sync>;

impl Signal {
    /// Lets the event happen. A second call does nothing.
    pub(super) fn raise(&self) {
        self.0.raised.store(true, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *self.wakers());
        wakers.iter().for_each(|wake| wake());
    }

    pub(super) fn is_raised(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// Calls `wake` once, when the event happens; immediately if it has happened.
    pub(super) fn on_raise(&self, wake: impl Fn() + Send + Sync + 'static) {
        let mut wakers = self.wakers();
        // Read under the lock: an event after this read finds the waker in the list.
        if self.is_raised() {
            drop(wakers);
            wake();
        } else {
            wakers.push(Box::new(wake));
        }
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signal").field(&self.is_raised()).finish()
    }
}
