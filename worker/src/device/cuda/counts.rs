//! How often a GPU was asked for what costs time besides arithmetic.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a GPU was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Kernels that were started, besides those of products.
    pub launches: u64,
    /// Calls for a matrix product, or for several at a time.
    pub products: u64,
    /// How often the host waited for the GPU.
    pub waits: u64,
    /// Allocations of device memory and of pinned memory.
    pub allocations: u64,
}

impl Counts {
    /// The mean over `times` of what was counted since `before`.
    pub fn mean_since(&self, before: &Self, times: u64) -> Self {
        let mean = |count: fn(&Self) -> u64| (count(self) - count(before)) / times.max(1);
        Self {
            launches: mean(|counts| counts.launches),
            products: mean(|counts| counts.products),
            waits: mean(|counts| counts.waits),
            allocations: mean(|counts| counts.allocations),
        }
    }
}

/// Counters, which any thread may advance.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) launches: Counter,
    pub(super) products: Counter,
    pub(super) waits: Counter,
    pub(super) allocations: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn advance(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(super) fn counts(&self) -> Counts {
        let Self { launches, products, waits, allocations } = self;
        Counts {
            launches: launches.value(),
            products: products.value(),
            waits: waits.value(),
            allocations: allocations.value(),
        }
    }
}
