//! The handle that ends a collective from outside its training thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Ends one rank's part in a collective, from any thread: pending and later calls return
/// [`Error::Aborted`](super::Error::Aborted) at once, and the other ranks soon get
/// [`Error::Broken`](super::Error::Broken). A handle serves one generation: an abort is permanent.
#[derive(Clone, Default)]
pub struct AbortHandle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    aborted: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

type Waker = Box<dyn Fn() + Send + Sync>;

impl AbortHandle {
    /// A handle with no callbacks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Aborts the collective. A second call does nothing.
    pub fn abort(&self) {
        self.0.aborted.store(true, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *self.wakers());
        wakers.iter().for_each(|wake| wake());
    }

    /// Whether `abort` was called.
    pub fn is_aborted(&self) -> bool {
        self.0.aborted.load(Ordering::SeqCst)
    }

    /// Calls `wake` once, on abort; immediately if already aborted.
    pub(crate) fn on_abort(&self, wake: impl Fn() + Send + Sync + 'static) {
        let mut wakers = self.wakers();
        // Read under the lock: an abort after this read finds the waker in the list.
        if self.is_aborted() {
            drop(wakers);
            wake();
        } else {
            wakers.push(Box::new(wake));
        }
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AbortHandle").field(&self.is_aborted()).finish()
    }
}
