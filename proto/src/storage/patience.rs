//! How long a storage waits and how often it tries again, by what it is used for.
//!
//! The clients' own patience lasts for minutes, whatever is asked. That is right for data, and would keep a coordinator
//! from learning that it has been deposed until all of its workers have given it up.

use super::open::Kind;
use super::{Cause, Error, Storage, open};
use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};
use std::time::Duration;
use tokio::time::Instant;

/// What a storage is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patience {
    /// A journal: small documents upon which everybody waits. Whether one was written is known within ten seconds, or
    /// that it cannot be known; a restarted coordinator grants its workers fifteen.
    Journal,
    /// Data sets, plans and models, which only their reader waits for: a store that is away for a minute costs no run.
    #[default]
    Data,
    /// Listing data sets and looking for models, with one small answer for every thousand objects. A store that is away
    /// for a minute costs no run. One that accepts connections and never answers is given up after eighty seconds.
    Listing,
    /// Checkpoints, which are written while a run goes on. Their writer tries again for as long as the run's spec says,
    /// and wants to know within seconds that there is trouble: an attempt is given up soon. What is bounded is the time
    /// of a part; how long all of them take is a matter of their number.
    Checkpoint,
    /// Whatever must be over by a deadline, as a drain must: no operation lasts longer, and no part of a large object.
    Within(Duration),
}

/// The same in figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// A host that takes no connection so long will not.
    pub(super) connect: Duration,
    /// One request with its body, and with its answer's.
    pub(super) request: Duration,
    /// No attempt begins so long after the first.
    pub(super) retry_for: Duration,
    /// An operation with all its attempts, where that is bounded.
    in_all: Option<Duration>,
    first_pause: Duration,
    longest_pause: Duration,
}

/// Bounded by time rather than by number: pauses grow to twice the one before.
const ATTEMPTS: usize = 12;
/// Attempts at what the client itself does not try again: see [`Error::may_pass`].
const OUR_ATTEMPTS: u32 = 5;

impl Patience {
    pub(super) fn limits(self) -> Limits {
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        match self {
            Self::Journal => Limits {
                connect: seconds(2),
                // A healthy store takes a few hundredths of a second.
                request: seconds(3),
                retry_for: seconds(6),
                in_all: Some(seconds(10)),
                first_pause: millis(50),
                longest_pause: seconds(1),
            },
            Self::Data => Limits {
                connect: seconds(5),
                // The largest object that is written at once must fit: a gigabyte at 6 MB/s.
                request: seconds(180),
                retry_for: seconds(60),
                in_all: None,
                first_pause: millis(100),
                longest_pause: seconds(15),
            },
            Self::Listing => Limits {
                connect: seconds(5),
                // A page of a listing, or what is known of one object.
                request: seconds(20),
                retry_for: seconds(60),
                in_all: None,
                first_pause: millis(100),
                longest_pause: seconds(15),
            },
            Self::Checkpoint => Limits {
                connect: seconds(5),
                // A part: 8 MiB at 140 kB/s.
                request: seconds(60),
                retry_for: seconds(5),
                in_all: None,
                first_pause: millis(100),
                longest_pause: seconds(2),
            },
            Self::Within(limit) => Limits {
                connect: limit / 2,
                request: limit / 2,
                retry_for: limit / 2,
                in_all: Some(limit),
                first_pause: limit / 100,
                longest_pause: limit / 10,
            },
        }
    }
}

impl Limits {
    pub(super) fn retry(&self) -> RetryConfig {
        RetryConfig {
            max_retries: ATTEMPTS,
            retry_timeout: self.retry_for,
            backoff: BackoffConfig {
                init_backoff: self.first_pause,
                max_backoff: self.longest_pause,
                base: 2.0,
            },
        }
    }

    /// For a client that is configured from the environment.
    pub(super) fn client(&self) -> [(ClientConfigKey, String); 2] {
        let millis = |d: Duration| format!("{} ms", d.as_millis());
        [
            (ClientConfigKey::ConnectTimeout, millis(self.connect)),
            (ClientConfigKey::Timeout, millis(self.request)),
        ]
    }
}

impl Storage {
    /// The same storage with another patience: the same client where that makes no difference, else one more.
    ///
    /// # Errors
    /// [`Error::Location`] if the environment no longer configures the store.
    pub fn patient(&self, patience: Patience) -> Result<Self, Error> {
        let same = patience == self.patience;
        match self.kind {
            Kind::S3 | Kind::Gcs | Kind::Azure if !same => open::existing(&self.url, patience),
            // A disk does not wait. What is only read was opened with the patience of its one use, and the URL of a
            // web server's folder lacks the query that it was opened with.
            Kind::S3 | Kind::Gcs | Kind::Azure | Kind::Local | Kind::Web | Kind::Hub => {
                Ok(Self { patience, ..self.clone() })
            }
        }
    }

    /// Tries again what may go better a moment later, and what a client does not try again by itself: it does not know
    /// that a create carries a token, nor that a body came damaged.
    pub(super) async fn insist<T, F: Future<Output = Result<T, Error>>>(
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
                    tracing::debug!(error = crate::error::chain(&error), "tried again");
                }
                settled => return settled,
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
    use std::cell::Cell;

    fn damaged() -> Error {
        Error::Damaged { url: "memory:".into(), key: "k".into(), what: "it is".into() }
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_nothing_else() {
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
    async fn an_operation_with_a_deadline_is_over_by_it() {
        let patience = Patience::Within(Duration::from_millis(50));
        let storage = Storage::memory().patient(patience).unwrap();
        let stuck = || std::future::pending::<Result<(), Error>>();
        let error = storage.insist("create", "k", stuck).await.unwrap_err();
        let (text, said) = (crate::error::chain(&error), "there was no answer within 0.05 s");
        assert!(text.starts_with(&format!("cannot create `memory:/k`: {said}")), "{text}");
    }
}
