//! Buffers that are used again: activations and gradients of one step serve the next.
//!
//! A fresh megabyte costs 256 page faults and a pass of zeros, and a step needs a thousand of them:
//! measured on a 135M model, a quarter of the step's processor time, with mimalloc. So a buffer
//! that dies comes here, and the next request that it fits gets it back, contents and all.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Below this many elements the allocator is as fast.
const POOLED_ELEMENTS_MIN: usize = 16 * 1024;

static POOL: Pool = Pool::new();

/// A buffer of `len` elements whose contents mean nothing: whoever takes it writes every element
/// before reading.
pub(super) fn take(len: usize) -> Vec<f32> {
    if len < POOLED_ELEMENTS_MIN { vec![0.; len] } else { POOL.take(len) }
}

/// Takes a dead buffer in.
pub(super) fn give(buffer: Vec<f32>) {
    if buffer.len() >= POOLED_ELEMENTS_MIN {
        POOL.give(buffer);
    }
}

/// Free buffers, by capacity.
struct Pool(Mutex<BTreeMap<usize, Vec<Vec<f32>>>>);

impl Pool {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The smallest free buffer that holds `len` without wasting more than half of itself, or a new
    /// one. A new one replaces the largest that was too small: sizes that are no longer asked for
    /// do not stay, and there are never more buffers than were alive at one time.
    fn take(&self, len: usize) -> Vec<f32> {
        let mut free = self.free();
        if let Some(capacity) = free.range(len..=2 * len).next().map(|(&capacity, _)| capacity) {
            let mut buffer = pop(&mut free, capacity);
            drop(free);
            // Writes only what the buffer's last use was too short by.
            buffer.resize(len, 0.);
            return buffer;
        }
        let smaller = free.range(..len).next_back().map(|(&capacity, _)| capacity);
        let replaced = smaller.map(|capacity| pop(&mut free, capacity));
        drop(free);
        drop(replaced);
        vec![0.; len]
    }

    fn give(&self, buffer: Vec<f32>) {
        self.free().entry(buffer.capacity()).or_default().push(buffer);
    }

    fn free(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Vec<f32>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a free buffer of a capacity that is there.
fn pop(free: &mut BTreeMap<usize, Vec<Vec<f32>>>, capacity: usize) -> Vec<f32> {
    let same = free.entry(capacity).or_default();
    let buffer = same.pop().unwrap_or_default();
    if same.is_empty() {
        free.remove(&capacity);
    }
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacities(pool: &Pool) -> Vec<usize> {
        let free = pool.free();
        free.iter().flat_map(|(&capacity, same)| same.iter().map(move |_| capacity)).collect()
    }

    #[test]
    fn a_dead_buffer_serves_the_next_request_that_it_fits() {
        let pool = Pool::new();
        pool.give(vec![7.; 100]);
        let buffer = pool.take(60);
        assert_eq!((buffer.len(), buffer.capacity()), (60, 100));
        pool.give(buffer);
        assert_eq!(pool.take(49).len(), 49);
        assert_eq!(capacities(&pool), [100], "too large for 49");
    }

    #[test]
    fn growing_requests_do_not_pile_up_smaller_buffers() {
        let pool = Pool::new();
        for len in 100..200 {
            let two = [pool.take(len), pool.take(len)];
            two.into_iter().for_each(|buffer| pool.give(buffer));
        }
        assert_eq!(capacities(&pool), [199, 199]);
    }
}
