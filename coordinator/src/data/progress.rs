//! A deadline that starts again with every answer, for listing sources.
//!
//! A fixed deadline does not work here. Listing a million objects takes minutes although the store is healthy; a server
//! that accepts a connection and never answers has to be given up, and so has a network file system without a server.

use crate::core::Fault;
use proto::event::Failure;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;

/// Work is given up after this long without an answer. A store's own limit is shorter, about eighty seconds
/// ([`Patience::Listing`](storage::Patience)), because its error says more.
const STALLED: Duration = Duration::from_secs(120);

/// The current task, as the user would name it. Every update counts as progress.
#[derive(Debug)]
pub(crate) struct Progress {
    at: watch::Sender<String>,
    patience: Duration,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { at: watch::Sender::new(String::new()), patience: STALLED }
    }

    /// Starts a task; `what` names it in the error.
    pub(crate) fn begin(&self, what: impl Into<String>) {
        self.at.send_replace(what.into());
    }

    /// Records that an answer arrived.
    pub(crate) fn note(&self) {
        self.at.send_modify(|_| {});
    }

    /// Runs the work until it ends or makes no progress.
    ///
    /// # Errors
    /// The work's own, and an infrastructure fault that names the task without progress.
    pub(crate) async fn watch<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let mut work = pin!(work);
        let mut changes = self.at.subscribe();
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                changed = tokio::time::timeout(self.patience, changes.changed()) => {
                    if changed.is_err() {
                        return Err(self.stalled());
                    }
                }
            }
        }
    }

    fn stalled(&self) -> Fault {
        let message = format!(
            "{}: there was no answer for {} s\n\
             hint: check the address, the network, and network file systems that the path leads to",
            *self.at.borrow(),
            self.patience.as_secs()
        );
        Fault { kind: Failure::Infrastructure, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::{Instant, sleep};

    fn with_a_second() -> Progress {
        Progress { patience: Duration::from_secs(1), ..Progress::new() }
    }

    #[tokio::test]
    async fn stalled_work_is_given_up_and_named() {
        let progress = with_a_second();
        let work = async {
            progress.begin("data source `a`");
            progress.begin("data source `b`");
            pending::<Result<(), Fault>>().await
        };
        let fault = progress.watch(work).await.unwrap_err();
        assert_eq!(fault.kind, Failure::Infrastructure);
        let wanted = "data source `b`: there was no answer for 1 s\nhint: ";
        assert!(fault.message.starts_with(wanted), "{}", fault.message);
    }

    #[tokio::test]
    async fn work_that_makes_progress_may_take_longer_than_its_patience() {
        let (progress, began) = (with_a_second(), Instant::now());
        let work = async {
            while began.elapsed() < 2 * progress.patience {
                sleep(Duration::from_millis(50)).await;
                progress.note();
            }
            Ok(7)
        };
        assert_eq!(progress.watch(work).await.unwrap(), 7);
    }
}
