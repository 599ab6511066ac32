//! Attention to the keys and values of earlier calls, for generation.

use super::{attend, check, split_all};
use crate::device::{Buffer, Dtype};
use crate::kernels::{Attention, Kernels, Span, Spans};
use crate::ops::error::{Error, Result};
use crate::ops::placement::Rotary;
use crate::ops::tape::{Tape, Value};
use std::sync::Arc;

/// One layer's rotated keys and its values for all positions so far.
#[derive(Debug, Default)]
pub struct KvCache {
    /// Keys and values `[K, capacity, E]`; `None` while the cache is empty.
    heads: Option<[Buffer; 2]>,
    capacity: usize,
    positions: usize,
}

impl KvCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of positions so far.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Appends keys and values `[K, rows, E]`; returns the buffers with those of all positions.
    fn append(
        &mut self,
        kernels: &dyn Kernels,
        new: [&Buffer; 2],
        rows: usize,
        a: &Attention,
    ) -> &[Buffer; 2] {
        let end = self.positions + rows;
        let old = (self.positions, self.capacity);
        let grown = end > self.capacity || self.heads.is_none();
        if grown {
            self.capacity = end.next_power_of_two();
            let len = a.kv_heads * self.capacity * a.head_dim;
            let take = || kernels.device().zeros(new[0].dtype(), len);
            let before = self.heads.replace([take(), take()]);
            for (to, from) in self.heads.iter_mut().flatten().zip(before.iter().flatten()) {
                copy_heads(kernels, (to, self.capacity, 0), (from, old.1, old.0), a);
            }
        }
        self.positions = end;
        let heads = self.heads.as_mut().expect("allocated above");
        for (to, from) in heads.iter_mut().zip(new) {
            copy_heads(kernels, (to, self.capacity, old.0), (from, rows, rows), a);
        }
        heads
    }
}

/// Copies the first `count` rows of each head of `from` behind the first `at` rows of the same head of `to`.
fn copy_heads(
    kernels: &dyn Kernels,
    (to, to_rows, at): (&mut Buffer, usize, usize),
    (from, from_rows, count): (&Buffer, usize, usize),
    a: &Attention,
) {
    let width = a.head_dim;
    for head in 0..a.kv_heads {
        let start = (head * to_rows + at) * width;
        let window = head * from_rows * width..(head * from_rows + count) * width;
        kernels.copy(to.window_mut(start..start + count * width), from.window(window));
    }
}

impl Tape<'_> {
    /// Attention of the next rows of one sequence to all earlier rows and to themselves; their keys and values are
    /// appended to `cache`.
    ///
    /// # Errors
    /// Those of [`Tape::attention`], and [`Error::NoBackward`] on a training tape.
    pub fn attention_cached(
        &self,
        qkv: [&Value; 3],
        rotary: &Rotary,
        cache: &mut KvCache,
        a: &Attention,
    ) -> Result<Value> {
        if self.records() {
            return Err(Error::NoBackward { op: "attention_cached" });
        }
        check(a, qkv)?;
        let rows = qkv[0].rows();
        let end = cache.positions + rows;
        rotary.check(a.head_dim, end)?;
        let positions = (cache.positions..end).map(|position| position as u32).collect();
        let positions = self.device().stage::<u32>(positions);
        let [q, k, v] = split_all(self.kernels(), qkv, a, (rotary, &positions));
        let [k, v] = cache.append(self.kernels(), [&k, &v], rows, a);
        let mut log_sums = self.device().take(Dtype::F32, rows * a.heads);
        let spans = vec![Span { queries: 0..rows, keys: 0..end }];
        let spans = Spans::new(self.device(), rows, spans);
        let qkv = [q.all(), k.all(), v.all()];
        let y = attend(self.kernels(), qkv, &mut log_sums, (a, &spans));
        Ok(self.input(Arc::new(y), false))
    }
}
