//! The handle that ends a collective from outside its training thread.

use super::signal::Signal;

/// Ends one rank's part in a collective, from any thread: pending and later calls return
/// [`Error::Aborted`](super::Error::Aborted) at once, and the other ranks soon get
/// [`Error::Broken`](super::Error::Broken). A handle serves one generation: an abort is permanent.
#[derive(Clone, Debug, Default)]
pub struct AbortHandle(Signal);

impl AbortHandle {
    /// A handle with no callbacks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Aborts the collective. A second call does nothing.
    pub fn abort(&self) {
        self.0.raise();
    }

    /// Whether `abort` was called.
    pub fn is_aborted(&self) -> bool {
        self.0.is_raised()
    }

    /// Calls `wake` once, on abort; immediately if already aborted.
    pub(crate) fn on_abort(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.0.on_raise(wake);
    }
}
