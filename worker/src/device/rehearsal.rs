//! Memory that is only counted: a rehearsal of a step allocates what the step would, and its buffers hold no elements.
//!
//! Short-lived buffers come from a pool like that of host memory, or from an arena like that of a GPU, so that memory
//! that is kept for later is counted, too.

use super::Dtype;
use super::cuda::Arena;
use super::pool::{POOLED_ELEMENTS_MIN, Pool, Reusable};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The account of a rehearsal. Clones share it.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Account>);

#[derive(Debug)]
struct Account {
    count: Arc<Count>,
    short_lived: ShortLived,
}

/// Where short-lived buffers come from.
#[derive(Debug)]
enum ShortLived {
    /// From host memory: a pool for each type, at its [`place`].
    Pools([Pool<Piece>; 4]),
    /// From a GPU's memory, in a segment without end.
    Arena(Mutex<Arena>),
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

impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Ledger {}

impl Ledger {
    /// An account of host memory.
    pub fn of_host() -> Self {
        Self::new(ShortLived::Pools([const { Pool::new() }; 4]))
    }

    /// An account of a GPU's memory.
    pub fn of_gpu() -> Self {
        let mut arena = Arena::default();
        arena.add(0, u64::MAX / 2);
        Self::new(ShortLived::Arena(Mutex::new(arena)))
    }

    fn new(short_lived: ShortLived) -> Self {
        Self(Arc::new(Account { count: Arc::default(), short_lived }))
    }

    /// Whether it is of a GPU's memory.
    pub(crate) fn is_of_gpu(&self) -> bool {
        self.arena().is_some()
    }

    /// Bytes that are held now.
    pub fn bytes(&self) -> usize {
        self.0.count.bytes.load(Ordering::Relaxed) + self.height()
    }

    /// The most bytes that were held at one time.
    pub fn peak(&self) -> usize {
        self.0.count.peak.load(Ordering::Relaxed) + self.height()
    }

    /// Bytes of short-lived buffers that a GPU has to reserve.
    pub fn height(&self) -> usize {
        self.arena().map_or(0, |arena| arena.height() as usize)
    }

    fn arena(&self) -> Option<MutexGuard<'_, Arena>> {
        match &self.0.short_lived {
            ShortLived::Pools(_) => None,
            ShortLived::Arena(arena) => Some(arena.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Memory for a short-lived buffer.
    pub(super) fn take(&self, dtype: Dtype, len: usize) -> Absent {
        let ledger = self.clone();
        if let Some(mut arena) = self.arena() {
            let at = arena.take((len * dtype.size()) as u64).expect("the segment has no end");
            return Absent { dtype, len, memory: Some(Pretended::Block(at)), ledger };
        }
        let unused = match &self.0.short_lived {
            ShortLived::Pools(pools) if len >= POOLED_ELEMENTS_MIN => pools[place(dtype)].take(len),
            _ => None,
        };
        let piece = unused.unwrap_or_else(|| self.piece(dtype, len));
        Absent { dtype, len, memory: Some(Pretended::Piece(piece)), ledger }
    }

    /// Memory for a long-lived buffer.
    pub(super) fn keep(&self, dtype: Dtype, len: usize) -> Absent {
        let memory = Some(Pretended::Piece(self.piece(dtype, len)));
        Absent { dtype, len, memory, ledger: self.clone() }
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
    memory: Option<Pretended>,
    ledger: Ledger,
}

/// Memory that is only counted.
#[derive(Debug)]
enum Pretended {
    Piece(Piece),
    /// A block of the arena, by its address.
    Block(u64),
}

impl Absent {
    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Gives the memory back to where it came from.
    pub(super) fn give(&mut self) {
        match (self.memory.take(), &self.ledger.0.short_lived) {
            (Some(Pretended::Piece(piece)), ShortLived::Pools(pools))
                if self.len >= POOLED_ELEMENTS_MIN =>
            {
                pools[place(self.dtype)].give(piece);
            }
            (Some(Pretended::Block(at)), ShortLived::Arena(_)) => {
                let bytes = (self.len * self.dtype.size()) as u64;
                self.ledger.arena().expect("it was taken there").give(at, bytes);
            }
            _ => {}
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
        let ledger = Ledger::of_host();
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
        let device = Device::Rehearsal(Ledger::of_host());
        let mut buffer = device.upload(vec![3f32; 5]);
        buffer.write(1, &[4f32]);
        assert_eq!(*buffer.read::<f32>(), [0.; 5]);
    }
}
