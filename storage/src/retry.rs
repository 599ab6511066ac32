//! Retries of operations, in addition to those of the client.

use crate::patience::Limits;
use crate::{Cause, Error, Storage};
use tokio::time::Instant;

/// The number of attempts at an operation that the client does not retry; see [`Error::may_pass`].
const OUR_ATTEMPTS: u32 = 5;

impl Storage {
    /// Retries an operation if it may succeed a moment later. The client does not retry these by itself: it does
    /// not know that repeating a create is safe because of its token, or that a body arrived damaged.
    pub(crate) async fn insist<T, F: Future<Output = Result<T, Error>>>(
        &self,
        verb: &'static str,
        key: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error> {
        let limits = self.patience.limits();
        let Some(limit) = limits.in_all else { return limits.attempts(attempt).await };
        let late = |_| {
            let what = format!("there was no answer within {} s", limit.as_secs_f64());
            Err(self.caused(verb, key, Cause::Unreachable { what, hint: self.kind.address() }))
        };
        tokio::time::timeout(limit, limits.attempts(attempt)).await.unwrap_or_else(late)
    }
}

impl Limits {
    async fn attempts<T, F: Future<Output = Result<T, Error>>>(
        self,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error> {
        let last = Instant::now() + self.retry_for;
        let mut pause = self.first_pause;
        for _ in 1..OUR_ATTEMPTS {
            match attempt().await {
                Err(error) if error.may_pass() && Instant::now() + pause < last => {
                    tracing::debug!(error = proto::error::chain(&error), "retrying");
                }
                result => return result,
            }
            tokio::time::sleep(pause).await;
            pause = self.longest_pause.min(pause * 2);
        }
        attempt().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Patience;
    use std::cell::Cell;
    use std::time::Duration;

    fn damaged() -> Error {
        Error::Damaged { url: "memory:".into(), key: "k".into(), what: "it is".into() }
    }

    #[tokio::test]
    async fn only_errors_that_may_pass_are_retried() {
        let patience = Patience::Within(Duration::from_secs(10));
        let storage = Storage::memory().patient(patience).unwrap();
        let tried = Cell::new(0);
        let twice = || {
            tried.set(tried.get() + 1);
            std::future::ready(if tried.get() < 3 { Err(damaged()) } else { Ok(tried.get()) })
        };
        assert_eq!(storage.insist("read", "k", twice).await.unwrap(), 3);
        let missing = || {
            tried.set(tried.get() + 1);
            std::future::ready(Err::<(), _>(Error::NotFound { url: "m:".into(), key: "k".into() }))
        };
        storage.insist("read", "k", missing).await.unwrap_err();
        assert_eq!(tried.get(), 4);
    }

    #[tokio::test]
    async fn an_operation_with_a_deadline_ends_by_it() {
        let patience = Patience::Within(Duration::from_millis(50));
        let storage = Storage::memory().patient(patience).unwrap();
        let stuck = || std::future::pending::<Result<(), Error>>();
        let error = storage.insist("create", "k", stuck).await.unwrap_err();
        let (text, cause) = (proto::error::chain(&error), "there was no answer within 0.05 s");
        assert!(text.starts_with(&format!("cannot create `memory:/k`: {cause}")), "{text}");
    }
}
