//! Host memory: vectors, and a pool for short-lived ones.
//!
//! A fresh megabyte costs 256 page faults and a pass that zeroes it, and a step needs a thousand megabytes: on a 135M
//! model, that took a quarter of the step's CPU time, even with mimalloc. The memory of a dropped activation is
//! therefore kept, and the next request of a suitable size gets it with its old contents.

use super::Dtype;
use half::bf16;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Requests for fewer elements go to the allocator, which is just as fast.
const POOLED_ELEMENTS_MIN: usize = 16 * 1024;

/// The elements of a buffer, by type.
#[derive(Debug)]
pub enum Memory {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F64(Vec<f64>),
    U32(Vec<u32>),
}

/// Evaluates the same expression on the vector of any type.
macro_rules! each {
    ($memory:expr, $vec:ident => $do:expr) => {
        match $memory {
            Memory::F32($vec) => $do,
            Memory::Bf16($vec) => $do,
            Memory::F64($vec) => $do,
            Memory::U32($vec) => $do,
        }
    };
}

impl Memory {
    pub(super) fn take(dtype: Dtype, len: usize) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(take(len)),
            Dtype::Bf16 => Self::Bf16(take(len)),
            Dtype::F64 => Self::F64(take(len)),
            Dtype::U32 => Self::U32(take(len)),
        }
    }

    pub(super) fn zeros(dtype: Dtype, len: usize) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(vec![0.; len]),
            Dtype::Bf16 => Self::Bf16(vec![bf16::ZERO; len]),
            Dtype::F64 => Self::F64(vec![0.; len]),
            Dtype::U32 => Self::U32(vec![0; len]),
        }
    }

    pub(super) fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::Bf16(_) => Dtype::Bf16,
            Self::F64(_) => Dtype::F64,
            Self::U32(_) => Dtype::U32,
        }
    }

    pub(super) fn len(&self) -> usize {
        each!(self, vec => vec.len())
    }

    /// Gives the memory to the pool.
    pub(super) fn give(&mut self) {
        each!(self, vec => give(std::mem::take(vec)));
    }
}

/// A type that host memory can hold.
pub trait Stored: Copy + Default + Send + Sync + std::fmt::Debug + 'static {
    /// The type's run-time counterpart.
    const DTYPE: Dtype;
    #[doc(hidden)]
    fn memory(values: Vec<Self>) -> Memory;
    #[doc(hidden)]
    fn slice(memory: &Memory) -> &[Self];
    #[doc(hidden)]
    fn vec_mut(memory: &mut Memory) -> &mut Vec<Self>;
    #[doc(hidden)]
    fn pool() -> &'static Pool<Self>;
}

macro_rules! stored {
    ($type:ty, $variant:ident) => {
        impl Stored for $type {
            const DTYPE: Dtype = Dtype::$variant;

            fn memory(values: Vec<Self>) -> Memory {
                Memory::$variant(values)
            }

            fn slice(memory: &Memory) -> &[Self] {
                match memory {
                    Memory::$variant(values) => values,
                    other => panic!("a buffer of {:?} read as {:?}", other.dtype(), Self::DTYPE),
                }
            }

            fn vec_mut(memory: &mut Memory) -> &mut Vec<Self> {
                match memory {
                    Memory::$variant(values) => values,
                    other => panic!("a buffer of {:?} written as {:?}", other.dtype(), Self::DTYPE),
                }
            }

            fn pool() -> &'static Pool<Self> {
                static POOL: Pool<$type> = Pool::new();
                &POOL
            }
        }
    };
}

stored!(f32, F32);
stored!(bf16, Bf16);
stored!(f64, F64);
stored!(u32, U32);

/// A vector of `len` elements whose contents are unspecified: every element must be written before it is read.
pub(crate) fn take<T: Stored>(len: usize) -> Vec<T> {
    if len < POOLED_ELEMENTS_MIN { vec![T::default(); len] } else { T::pool().take(len) }
}

/// Keeps the memory of a vector that is no longer needed.
pub(crate) fn give<T: Stored>(vec: Vec<T>) {
    if vec.len() >= POOLED_ELEMENTS_MIN {
        T::pool().give(vec);
    }
}

/// A pool of unused vectors, by capacity.
pub struct Pool<T>(Mutex<BTreeMap<usize, Vec<Vec<T>>>>);

impl<T: Stored> Pool<T> {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Returns the smallest unused vector that holds `len` elements without wasting more than half of its capacity,
    /// or a new one. A new one replaces the largest that was too small: sizes that are no longer requested do not
    /// stay, and there are never more vectors than were in use at one time.
    fn take(&self, len: usize) -> Vec<T> {
        let mut unused = self.unused();
        if let Some(capacity) = unused.range(len..=2 * len).next().map(|(&capacity, _)| capacity) {
            let mut vec = pop(&mut unused, capacity);
            drop(unused);
            // Writes only the elements by which the vector's last use was too short.
            vec.resize(len, T::default());
            return vec;
        }
        let smaller = unused.range(..len).next_back().map(|(&capacity, _)| capacity);
        let replaced = smaller.map(|capacity| pop(&mut unused, capacity));
        drop(unused);
        drop(replaced);
        vec![T::default(); len]
    }

    fn give(&self, vec: Vec<T>) {
        self.unused().entry(vec.capacity()).or_default().push(vec);
    }

    fn unused(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Vec<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out a vector of this capacity, of which the pool holds at least one.
fn pop<T>(unused: &mut BTreeMap<usize, Vec<Vec<T>>>, capacity: usize) -> Vec<T> {
    let same = unused.entry(capacity).or_default();
    let vec = same.pop().unwrap_or_default();
    if same.is_empty() {
        unused.remove(&capacity);
    }
    vec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacities(pool: &Pool<f32>) -> Vec<usize> {
        let unused = pool.unused();
        unused.iter().flat_map(|(&capacity, same)| same.iter().map(move |_| capacity)).collect()
    }

    #[test]
    fn a_dropped_buffer_serves_the_next_request_that_it_fits() {
        let pool = Pool::new();
        pool.give(vec![7.; 100]);
        let vec = pool.take(60);
        assert_eq!((vec.len(), vec.capacity()), (60, 100));
        pool.give(vec);
        assert_eq!(pool.take(49).len(), 49);
        assert_eq!(capacities(&pool), [100], "too large for 49");
    }

    #[test]
    fn growing_requests_do_not_pile_up_smaller_buffers() {
        let pool = Pool::new();
        for len in 100..200 {
            let two = [pool.take(len), pool.take(len)];
            two.into_iter().for_each(|vec| pool.give(vec));
        }
        assert_eq!(capacities(&pool), [199, 199]);
    }
}
