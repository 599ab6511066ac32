//! Memory that is only counted: a rehearsal of a step allocates what the step would, and its buffers hold no elements.
//!
//! Short-lived buffers come from a pool like that of host memory, so that memory that the pool keeps is counted, too.

use super::Dtype;
use super::pool::{POOLED_ELEMENTS_MIN, Pool, Reusable};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The account of a rehearsal. Clones share it.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Account>);

#[derive(Debug)]
struct Account {
    count: Arc<Count>,
    /// A pool for each type, at its [`place`].
    pools: [Pool<Piece>; 4],
}

#[derive(Debug, Default)]
struct Count {
    bytes: AtomicUsize,
    peak: AtomicUsize,
}

fn place(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 0,
        Dtype::Bf16 => 1,
        Dtype::F64 => 2,
        Dtype::U32 => 3,
    }
}

impl Default for Ledger {
    fn default() -> Self {
        let account = Account { count: Arc::default(), pools: [const { Pool::new() }; 4] };
        Self(Arc::new(account))
    }
}

impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Ledger {}

impl Ledger {
    /// Bytes that are held now.
    pub fn bytes(&self) -> usize {
        self.0.count.bytes.load(Ordering::Relaxed)
    }

    /// The most bytes that were held at one time.
    pub fn peak(&self) -> usize {
        self.0.count.peak.load(Ordering::Relaxed)
    }

    /// Memory for a short-lived buffer.
    pub(super) fn take(&self, dtype: Dtype, len: usize) -> Absent {
        let unused =
            if len < POOLED_ELEMENTS_MIN { None } else { self.0.pools[place(dtype)].take(len) };
        let piece = unused.unwrap_or_else(|| self.piece(dtype, len));
        Absent { dtype, len, piece: Some(piece), ledger: self.clone() }
    }

    /// Memory for a long-lived buffer.
    pub(super) fn keep(&self, dtype: Dtype, len: usize) -> Absent {
        Absent { dtype, len, piece: Some(self.piece(dtype, len)), ledger: self.clone() }
    }

    fn piece(&self, dtype: Dtype, len: usize) -> Piece {
        let count = self.0.count.clone();
        let bytes = len * dtype.size();
        let before = count.bytes.fetch_add(bytes, Ordering::Relaxed);
        count.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Piece { room: len, bytes, count }
    }
}

/// The memory of a buffer in a rehearsal.
#[derive(Debug)]
pub struct Absent {
    dtype: Dtype,
    len: usize,
    piece: Option<Piece>,
    ledger: Ledger,
}

impl Absent {
    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Gives the memory to the pool.
    pub(super) fn give(&mut self) {
        let piece = self.piece.take().filter(|_| self.len >= POOLED_ELEMENTS_MIN);
        if let Some(piece) = piece {
            self.ledger.0.pools[place(self.dtype)].give(piece);
        }
    }
}

/// Memory that counts until it is dropped.
#[derive(Debug)]
struct Piece {
    room: usize,
    bytes: usize,
    count: Arc<Count>,
}

impl Reusable for Piece {
    fn room(&self) -> usize {
        self.room
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.count.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn memory_in_use_and_in_the_pool_counts() {
        let ledger = Ledger::default();
        let device = Device::Rehearsal(ledger.clone());
        let kept = device.zeros(Dtype::F32, 100_000);
        drop(device.take(Dtype::Bf16, 50_000));
        assert_eq!((ledger.bytes(), ledger.peak()), (500_000, 500_000));
        let again = device.take(Dtype::Bf16, 40_000);
        assert_eq!((again.len(), ledger.bytes()), (40_000, 500_000), "from the pool");
        drop(device.take(Dtype::F32, 10));
        assert_eq!((ledger.bytes(), ledger.peak()), (500_000, 500_040), "too small for the pool");
        drop(kept);
        assert_eq!((ledger.bytes(), ledger.peak()), (100_000, 500_040));
    }

    #[test]
    fn its_elements_are_zeros() {
        let device = Device::Rehearsal(Ledger::default());
        let mut buffer = device.upload(vec![3f32; 5]);
        buffer.write(1, &[4f32]);
        assert_eq!(*buffer.read::<f32>(), [0.; 5]);
    }
}
