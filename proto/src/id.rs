//! Identities and counters, one type each, so that none can stand in for another.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the name as it is.
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
            /// The one after.
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
    /// One submitted training: the name of its folder.
    RunId
}
name! {
    /// A worker's slot: stable over the processes that fill it.
    WorkerId
}
name! {
    /// One process's life. A restarted process is another incarnation.
    Incarnation
}
counter! {
    /// One membership of a run; rises for as long as the run exists.
    Generation
}
counter! {
    /// Rises whenever a run goes back to a checkpoint, so that what came after it cannot be mistaken.
    Lineage
}
counter! {
    /// One coordinator's life; the highest that was persisted is the only one that may speak.
    Epoch
}

/// One checkpoint of a run. A later lineage outranks any step of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointId {
    /// The lineage that it continues.
    pub lineage: Lineage,
    /// Steps committed.
    pub step: u64,
}

/// A name that no other process, file or run will ever bear: time, process, counter and the address of the stack,
/// hashed.
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
