//! The signals that something changed.

use tokio::sync::{Notify, watch};

/// Wakes the driver, and everyone who waits for changes.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Counts changes; watches, followed logs and waiting tests listen.
    changes: watch::Sender<u64>,
    wake: Notify,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self { changes: watch::Sender::new(0), wake: Notify::new() }
    }

    /// Tells the driver and all waiters that something changed.
    pub(crate) fn announce(&self) {
        self.show();
        self.wake.notify_one();
    }

    /// Tells waiters what the driver itself changed.
    pub(crate) fn show(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// A receiver that is told of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits for an announcement; one that was made in the meantime counts.
    pub(crate) async fn announced(&self) {
        self.wake.notified().await;
    }
}
