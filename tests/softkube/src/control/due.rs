//! When controllers have to run again.

use crate::clock::Time;

/// The earlier of two due times.
pub(super) fn sooner(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    one.into_iter().chain(other).min()
}
