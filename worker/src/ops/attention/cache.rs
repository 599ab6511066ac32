//! Attention against keys and values of earlier calls, for generation.

use std::sync::Arc;

use rayon::prelude::*;

use super::{
    Attention,
    head::{HeadKeys, attend},
};
use crate::ops::{
    array::Array,
    error::{Error, Result},
    kernel::Matrix,
    pool,
    rotary::{Rotary, Turn, merge_heads, split_heads},
    tape::{Onto, Tape, Value},
};

/// One layer's rotated keys and its values, of every position so far; by head, so that new
/// positions are appended.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    heads: Vec<HeadCache>,
    positions: usize,
}

#[derive(Clone, Debug, Default)]
struct HeadCache {
    k: Vec<f32>,
    v: Vec<f32>,
}

impl KvCache {
    /// No positions yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Positions so far.
    pub fn positions(&self) -> usize {
        self.positions
    }

    fn append(&mut self, k: &[f32], v: &[f32], kv_heads: usize, rows: usize) {
        self.heads.resize_with(kv_heads, HeadCache::default);
        let part = k.len() / kv_heads;
        for (head, (k, v)) in
            self.heads.iter_mut().zip(k.chunks_exact(part).zip(v.chunks_exact(part)))
        {
            head.k.extend_from_slice(k);
            head.v.extend_from_slice(v);
        }
        self.positions += rows;
    }
}

impl Tape<'_> {
    /// Attention of the next rows of one sequence, to all before them and to themselves; their keys
    /// and values join `cache`.
    ///
    /// # Errors
    /// As [`Tape::attention`]; [`Error::NoBackward`] on a training tape.
    pub fn attention_cached(
        &self,
        [q, k, v]: [&Value; 3],
        rotary: &Rotary,
        cache: &mut KvCache,
        a: &Attention,
    ) -> Result<Value> {
        if self.records() {
            return Err(Error::NoBackward { op: "attention_cached" });
        }
        a.check(q, k, v)?;
        let rows = q.rows();
        rotary.check(a.head_dim, cache.positions + rows)?;
        if rows == 0 {
            return Ok(self.input(Arc::new(Array::new(Vec::new(), 0, q.cols())?), false));
        }
        let positions: Vec<_> = (cache.positions..cache.positions + rows).collect();
        let turned = |scale| Turn { rotary: Some((rotary, &positions)), scale };
        let q = split_heads(&q.array.read(), a.heads, a.head_dim, turned(a.scale));
        let k = split_heads(&k.array.read(), a.kv_heads, a.head_dim, turned(1.));
        let v = split_heads(&v.array.read(), a.kv_heads, a.head_dim, Turn::NONE);
        cache.append(&k, &v, a.kv_heads, rows);

        let part = rows * a.head_dim;
        let mut o = pool::take(q.len());
        o.par_chunks_mut(part).zip(q.par_chunks(part)).enumerate().for_each(|(head, (o, q))| {
            let HeadCache { k, v } = &cache.heads[head / a.group()];
            let keys = |x| Matrix::new(x, cache.positions, a.head_dim);
            let keys = HeadKeys { k_t: keys(k).t(), v: keys(v) };
            attend(a, (q, cache.positions), keys, o, &mut vec![0.; rows]);
        });
        let mut y = pool::take(o.len());
        merge_heads(&mut y, Onto::Fresh, &o, (a.head_dim, 1), rows, Turn::NONE);
        [q, k, v, o].into_iter().for_each(pool::give);
        Ok(self.input(Arc::new(Array::new(y, rows, a.heads * a.head_dim)?), false))
    }

    /// The last row of `x`, to predict only the next token.
    ///
    /// # Errors
    /// [`Error::NoBackward`] on a training tape, [`Error::Shape`] if there is no row.
    pub fn last_row(&self, x: &Value) -> Result<Value> {
        if self.records() {
            return Err(Error::NoBackward { op: "last_row" });
        }
        let data = x.array.read();
        let Some(row) = data.chunks_exact(x.cols().max(1)).next_back() else {
            let (expected, got) = ("at least one row".into(), "none".into());
            return Err(Error::Shape { op: "last_row", expected, got });
        };
        Ok(self.input(Arc::new(Array::new(row.to_vec(), 1, x.cols())?), false))
    }
}
