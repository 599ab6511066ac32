//! Identities and counters, each with its own type, so that they cannot be confused.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps a name without checking it.
            pub fn new(name: impl Into<String>) -> Self {
                Self(name.into())
            }

            /// The name itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The next number.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name! {
    /// The identity of a run, which is the name of its folder.
    RunId
}
name! {
    /// The name of a worker's slot, which stays the same when the process in it is restarted.
    WorkerId
}
name! {
    /// The identity of one worker process. A restarted process is another incarnation.
    Incarnation
}
counter! {
    /// The number of a membership of a run. It rises for as long as the run exists.
    Generation
}
counter! {
    /// A number that rises whenever a run goes back to a checkpoint, so that the abandoned steps after the
    /// checkpoint are not mistaken for those that replace them.
    Lineage
}
counter! {
    /// The number of a coordinator process. Only the coordinator with the highest epoch in the journal may direct
    /// workers.
    Epoch
}

/// The identity of a checkpoint of a run. A checkpoint of a later lineage is newer than any of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointId {
    /// The lineage in which it was written.
    pub lineage: Lineage,
    /// Number of steps committed.
    pub step: u64,
}

/// Returns a name that no other process, file or run has: a hash of the time, the process id, a counter and the
/// address of the stack.
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{SystemTime, UNIX_EPOCH};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let here = 0u8;
    let seed = format!(
        "{}-{}-{}-{:p}",
        since.as_nanos(),
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed),
        &here,
    );
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(seed.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unique_names_differ() {
        let names: std::collections::BTreeSet<_> = (0..1000).map(|_| unique()).collect();
        assert_eq!(names.len(), 1000);
    }
}
