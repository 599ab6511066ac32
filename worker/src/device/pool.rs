//! A pool of unused memory, by size.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Requests for fewer elements go to the allocator, which is just as fast.
pub(super) const POOLED_ELEMENTS_MIN: usize = 16 * 1024;

/// Memory that can be used again.
pub trait Reusable {
    /// The number of elements for which there is room.
    fn room(&self) -> usize;
}

impl<T> Reusable for Vec<T> {
    fn room(&self) -> usize {
        self.capacity()
    }
}

/// A pool of unused vectors, by capacity.
#[derive(Debug)]
pub struct Pool<V>(Mutex<BTreeMap<usize, Vec<V>>>);

impl<V: Reusable> Pool<V> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Takes out the smallest unused vector with room for `len` elements that does not waste more than half of it.
    /// If there is none, the largest that is too small is freed, since a new one will replace it: sizes that are no
    /// longer requested do not stay, and there are never more vectors than were in use at one time.
    pub(super) fn take(&self, len: usize) -> Option<V> {
        let mut unused = self.unused();
        let fits = unused.range(len..=2 * len).next().map(|(&room, _)| room);
        if let Some(room) = fits {
            return pop(&mut unused, room);
        }
        let smaller = unused.range(..len).next_back().map(|(&room, _)| room);
        let replaced = smaller.and_then(|room| pop(&mut unused, room));
        drop(unused);
        drop(replaced);
        None
    }

    pub(super) fn give(&self, vec: V) {
        self.unused().entry(vec.room()).or_default().push(vec);
    }

    fn unused(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out a vector with this much room.
fn pop<V>(unused: &mut BTreeMap<usize, Vec<V>>, room: usize) -> Option<V> {
    let same = unused.get_mut(&room)?;
    let vec = same.pop();
    if same.is_empty() {
        unused.remove(&room);
    }
    vec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(pool: &Pool<Vec<f32>>) -> Vec<usize> {
        let unused = pool.unused();
        unused.iter().flat_map(|(&room, same)| same.iter().map(move |_| room)).collect()
    }

    #[test]
    fn a_dropped_buffer_serves_the_next_request_that_it_fits() {
        let pool = Pool::new();
        pool.give(vec![7f32; 100]);
        let vec = pool.take(60).expect("it fits");
        assert_eq!(vec.capacity(), 100);
        pool.give(vec);
        assert!(pool.take(49).is_none());
        assert_eq!(rooms(&pool), [100], "too large for 49");
    }

    #[test]
    fn growing_requests_do_not_pile_up_smaller_buffers() {
        let pool = Pool::new();
        let take = |len| pool.take(len).unwrap_or_else(|| vec![0f32; len]);
        for len in 100..200 {
            let two = [take(len), take(len)];
            two.into_iter().for_each(|vec| pool.give(vec));
        }
        assert_eq!(rooms(&pool), [199, 199]);
    }
}
