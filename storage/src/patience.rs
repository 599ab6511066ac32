//! How long a storage waits and how often it tries again, by what it is used for.
//!
//! The clients' own patience lasts for minutes, whatever is asked. That is right for data, and would keep a coordinator
//! from learning that it has been deposed until all of its workers have given it up.

use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};
use std::time::Duration;

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
pub(crate) struct Limits {
    /// A host that takes no connection so long will not.
    pub(crate) connect: Duration,
    /// One request with its body, and with its answer's.
    pub(crate) request: Duration,
    /// No attempt begins so long after the first.
    pub(crate) retry_for: Duration,
    /// An operation with all its attempts, where that is bounded.
    pub(crate) in_all: Option<Duration>,
    pub(crate) first_pause: Duration,
    pub(crate) longest_pause: Duration,
}

/// Bounded by time rather than by number: pauses grow to twice the one before.
const ATTEMPTS: usize = 12;

impl Patience {
    pub(crate) fn limits(self) -> Limits {
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

    /// For a client that is configured from the environment.
    pub(crate) fn client(&self) -> [(ClientConfigKey, String); 2] {
        let millis = |d: Duration| format!("{} ms", d.as_millis());
        [
            (ClientConfigKey::ConnectTimeout, millis(self.connect)),
            (ClientConfigKey::Timeout, millis(self.request)),
        ]
    }
}
