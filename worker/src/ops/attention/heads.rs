//! Rows on their way to heads.

use std::ops::Range;

use super::{
    Attention,
    head::{AllKeys, HeadKeys},
};
use crate::ops::{
    kernel::{Matrix, transpose},
    pool,
    rotary::{Documents, Rotary, Turn, split_heads},
    tape::Value,
};

/// Queries, keys and values by head, `[H, T, E]` and twice `[K, T, E]`; queries rotated and scaled,
/// keys rotated. Keys are also there as `[K, E, T]`: products are fastest on rows of the right
/// operand.
pub(super) struct Heads<'a> {
    a: &'a Attention,
    rows: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    k_t: Vec<f32>,
    v: Vec<f32>,
}

impl<'a> Heads<'a> {
    pub(super) fn split(
        a: &'a Attention,
        rotary: &Rotary,
        docs: &Documents,
        [q, k, v]: [&Value; 3],
    ) -> Self {
        let (positions, rows) = (docs.positions(), docs.rows());
        let turned = |scale| Turn { rotary: Some((rotary, &positions)), scale };
        let q = split_heads(&q.array.read(), a.heads, a.head_dim, turned(a.scale));
        let k = split_heads(&k.array.read(), a.kv_heads, a.head_dim, turned(1.));
        let v = split_heads(&v.array.read(), a.kv_heads, a.head_dim, Turn::NONE);
        let k_t = transpose_heads(&k, rows, a.head_dim);
        Self { a, rows, q, k, k_t, v }
    }

    pub(super) fn queries(&self, head: usize, doc: &Range<usize>) -> &[f32] {
        &self.q[self.part(head, doc)]
    }

    /// The keys and values that serve query head `head`.
    pub(super) fn keys(&self, head: usize, doc: &Range<usize>) -> HeadKeys<'_> {
        let head = head / self.a.group();
        let v = &self.v[self.part(head, doc)];
        let k_t = self.transposed(&self.k_t, head, doc);
        HeadKeys { k_t, v: Matrix::new(v, doc.len(), self.a.head_dim) }
    }

    /// The values, `[K, E, T]`.
    pub(super) fn transposed_values(&self) -> Vec<f32> {
        transpose_heads(&self.v, self.rows, self.a.head_dim)
    }

    /// The same for a backward, with the transposed values.
    pub(super) fn all_keys<'x>(
        &'x self,
        head: usize,
        doc: &Range<usize>,
        v_t: &'x [f32],
    ) -> AllKeys<'x> {
        let head = head / self.a.group();
        AllKeys {
            k: Matrix::new(&self.k[self.part(head, doc)], doc.len(), self.a.head_dim),
            k_t: self.transposed(&self.k_t, head, doc),
            v_t: self.transposed(v_t, head, doc),
        }
    }

    /// Where a document's rows of one head lie in `[heads, T, E]`.
    pub(super) fn part(&self, head: usize, doc: &Range<usize>) -> Range<usize> {
        let row = head * self.rows + doc.start;
        row * self.a.head_dim..(row + doc.len()) * self.a.head_dim
    }

    /// A document's columns of one head in `[heads, E, T]`.
    fn transposed<'x>(&self, x: &'x [f32], head: usize, doc: &Range<usize>) -> Matrix<'x> {
        let size = self.a.head_dim * self.rows;
        Matrix::new(&x[head * size..][..size], self.a.head_dim, self.rows).cols(doc.clone())
    }

    pub(super) fn give(self) {
        [self.q, self.k, self.k_t, self.v].into_iter().for_each(pool::give);
    }
}

/// From `[heads, T, E]` to `[heads, E, T]`.
fn transpose_heads(x: &[f32], rows: usize, head_dim: usize) -> Vec<f32> {
    let mut y = pool::take(x.len());
    let size = (rows * head_dim).max(1);
    for (y, x) in y.chunks_exact_mut(size).zip(x.chunks_exact(size)) {
        transpose(y, Matrix::new(x, rows, head_dim));
    }
    y
}
