//! Whether listing still gets anywhere: a deadline that starts anew with every answer.
//!
//! No deadline for the whole would do. A bucket of a million objects takes minutes and is healthy; a server that takes
//! the connection and never answers is not, and neither is a network file system whose server is gone.

use crate::core::Fault;
use proto::event::Failure;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;

/// Work without an answer for this long is given up. Stores give up by themselves after eighty seconds
/// ([`Patience::Listing`](proto::storage::Patience)) and say more about it, so they come first.
const STALLED: Duration = Duration::from_secs(120);

/// What the work is at. Every change is progress.
#[derive(Debug)]
pub(crate) struct Progress {
    at: watch::Sender<String>,
    patience: Duration,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { at: watch::Sender::new(String::new()), patience: STALLED }
    }

    /// The work begins with `what`, as the user calls it.
    pub(crate) fn begin(&self, what: impl Into<String>) {
        self.at.send_replace(what.into());
    }

    /// Something came.
    pub(crate) fn note(&self) {
        self.at.send_modify(|_| {});
    }

    /// Does the work, for as long as it gets anywhere.
    ///
    /// # Errors
    /// The work's own; a fault of the infrastructure's that names what it was at.
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
             hint: look at the address, at the network, and at network file systems below a path",
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
    async fn work_that_stands_still_is_given_up_by_name() {
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
    async fn work_that_goes_on_may_take_longer_than_its_patience() {
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
