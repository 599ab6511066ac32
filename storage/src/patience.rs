//! Timeouts and retries of a storage, depending on its use.
//!
//! By default, the clients retry for minutes. That is right for data, but too long for a journal: a coordinator would
//! learn that it has been replaced only after all its workers have given it up.

use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};
use std::time::Duration;

/// What a storage is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patience {
    /// For journals: small documents on which everything waits. After at most ten seconds, the outcome of a write is
    /// known, or it is known to be unclear. A restarted coordinator waits fifteen seconds for its workers.
    Journal,
    /// For data sets, plans and models, on which only their reader waits. A run survives a store that is
    /// unavailable for a minute.
    #[default]
    Data,
    /// For listing data sets and looking for models, with one small reply per thousand objects. A run survives a
    /// store that is unavailable for a minute. A store that accepts connections and never replies is given up after
    /// 80 s.
    Listing,
    /// For checkpoints, which are written while a run continues. Their writer retries for as long as the run's spec
    /// says, and must learn about trouble within seconds, so an attempt ends soon. The limit applies to each part
    /// of an object; the total time depends on the number of parts.
    Checkpoint,
    /// For operations with a deadline. It limits each operation, and each part of a large object.
    Within(Duration),
}

/// The limits of a [`Patience`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long connecting may take.
    pub(crate) connect: Duration,
    /// How long one request may take, including its body and the reply's.
    pub(crate) request: Duration,
    /// The time after the first attempt during which further attempts may begin.
    pub(crate) retry_for: Duration,
    /// How long an operation may take with all its attempts, if that is limited.
    pub(crate) in_all: Option<Duration>,
    pub(crate) first_pause: Duration,
    pub(crate) longest_pause: Duration,
}

/// The maximum number of retries. It is high, because the time limit is meant to apply first: pauses double each
/// time.
const ATTEMPTS: usize = 12;

impl Patience {
    pub(crate) fn limits(self) -> Limits {
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        match self {
            Self::Journal => Limits {
                connect: seconds(2),
                // A healthy store needs some tens of milliseconds.
                request: seconds(3),
                retry_for: seconds(6),
                in_all: Some(seconds(10)),
                first_pause: millis(50),
                longest_pause: seconds(1),
            },
            Self::Data => Limits {
                connect: seconds(5),
                // Enough for the largest object that is written with one request: a gigabyte at 6 MB/s.
                request: seconds(180),
                retry_for: seconds(60),
                in_all: None,
                first_pause: millis(100),
                longest_pause: seconds(15),
            },
            Self::Listing => Limits {
                connect: seconds(5),
                // For one page of a listing, or the metadata of one object.
                request: seconds(20),
                retry_for: seconds(60),
                in_all: None,
                first_pause: millis(100),
                longest_pause: seconds(15),
            },
            Self::Checkpoint => Limits {
                connect: seconds(5),
                // Enough for one part: 8 MiB at 140 kB/s.
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
    pub(crate) fn retry(&self) -> RetryConfig {
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

    /// The settings of a client that is configured from the environment.
    pub(crate) fn client(&self) -> [(ClientConfigKey, String); 2] {
        let millis = |d: Duration| format!("{} ms", d.as_millis());
        [
            (ClientConfigKey::ConnectTimeout, millis(self.connect)),
            (ClientConfigKey::Timeout, millis(self.request)),
        ]
    }
}
