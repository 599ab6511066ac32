//! Buffers that are used again: activations and gradients of one step serve the next.
//!
//! A fresh megabyte costs 256 page faults and a pass of zeros, and a step needs a thousand of them.
//! So a buffer that dies comes here, and the next request of its size gets it back, contents and
//! all. The pool never holds more than what was alive at one time, rounded up by its classes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Below this many elements the allocator is as fast.
const POOLED_ELEMENTS_MIN: usize = 16 * 1024;

static FREE: Mutex<BTreeMap<usize, Vec<Vec<f32>>>> = Mutex::new(BTreeMap::new());

/// A buffer of `len` elements whose contents mean nothing: whoever takes it writes every element
/// before reading.
pub(super) fn take(len: usize) -> Vec<f32> {
    if len < POOLED_ELEMENTS_MIN {
        return vec![0.; len];
    }
    match reuse(len) {
        Some(mut buffer) => {
            // Only what the buffer was too short by is written.
            buffer.resize(len, 0.);
            buffer
        }
        None => vec![0.; len],
    }
}

/// Takes a dead buffer in.
pub(super) fn give(buffer: Vec<f32>) {
    if buffer.len() >= POOLED_ELEMENTS_MIN {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(buffer.capacity()).or_default().push(buffer);
    }
}

/// The smallest free buffer that holds `len` without wasting more than half of itself.
fn reuse(len: usize) -> Option<Vec<f32>> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let (&capacity, same) = free.range_mut(len..=2 * len).next()?;
    let buffer = same.pop();
    if same.is_empty() {
        free.remove(&capacity);
    }
    buffer
}
