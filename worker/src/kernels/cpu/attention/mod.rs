//! Causal attention, with one task per query head and span.
//!
//! Keys (and values, in the backward) are transposed once for all heads if that makes products faster. For the few
//! queries of cached generation, it would cost more than it saves.

mod head;
mod products;

use super::float::dot;
use super::gemm::Matrix;
use super::simd::vectorized;
use crate::device::give;
use crate::kernels::{Attention, Span};
use head::{HeadKeys, Queries, TurnedKeys};
pub(super) use products::Products;
use rayon::prelude::*;
use std::ops::Range;

/// Computes the output of attention by head `[H, T, E]`, and the log-sum-exps `[H, T]`.
pub(super) fn forward<T: Products>(
    (o, log_sums): (&mut [T], &mut [f32]),
    [q, k, v]: [&[T]; 3],
    a: &Attention,
    spans: &[Span],
) {
    let width = a.head_dim;
    let cached = spans.iter().any(|span| span.queries.len() < span.keys.len());
    let (keys, rows) = (by_head(k, a.kv_heads), by_head(q, a.heads));
    let turned = if cached { None } else { T::turned(k, keys / width, width) };
    let mut tasks = Vec::new();
    let heads = o.chunks_mut(rows.max(1)).zip(log_sums.chunks_mut((rows / width).max(1)));
    for (head, (o, log_sums)) in heads.enumerate() {
        let (mut os, mut sums) = (Cut::new(o), Cut::new(log_sums));
        for span in spans {
            let o = os.take(elements(&span.queries, width));
            tasks.push((head, span, o, sums.take(span.queries.clone())));
        }
    }
    tasks.into_par_iter().with_max_len(1).for_each(|(head, span, o, log_sums)| {
        let q = &q[head * rows..][elements(&span.queries, width)];
        let head = head / a.group();
        let part = elements(&span.keys, width);
        let rows_of = |x| Matrix::new(x, span.keys.len(), width);
        let k_t = match &turned {
            Some(k_t) => Matrix::new(&k_t[head * keys..][..keys], width, keys / width)
                .cols(span.keys.clone()),
            None => rows_of(&k[head * keys..][part.clone()]).t(),
        };
        let v = rows_of(&v[head * keys..][part]);
        head::attend(a, (q, span.keys.len()), HeadKeys { k_t, v }, (o, log_sums));
    });
    turned.into_iter().for_each(give);
}

/// The inputs and results of the forward.
pub(super) struct Done<'a, T> {
    pub(super) qkv: [&'a [T]; 3],
    pub(super) y: &'a [T],
    pub(super) log_sums: &'a [f32],
}

/// Computes the gradients of queries, keys and values by query head, all `[H, T, E]`.
pub(super) fn backward<T: Products>(
    gradients: [&mut [T]; 3],
    dy: &[T],
    done: &Done<'_, T>,
    (a, spans): (&Attention, &[Span]),
) {
    let width = a.head_dim;
    let [q, k, v] = done.qkv;
    let size = by_head(q, a.heads);
    let rows = size / width;
    let turned = [k, v].map(|x| T::turned(x, rows, width));
    let mut tasks = Vec::new();
    let [dq, dk, dv] = gradients.map(|x| x.chunks_mut(size.max(1)));
    for (head, ((dq, dk), dv)) in dq.zip(dk).zip(dv).enumerate() {
        let mut parts = [dq, dk, dv].map(Cut::new);
        for span in spans {
            assert_eq!(span.queries, span.keys, "every key has a query in a backward");
            let own = elements(&span.keys, width);
            tasks.push((head, span, parts.each_mut().map(|part| part.take(own.clone()))));
        }
    }
    tasks.into_par_iter().with_max_len(1).for_each(|(head, span, gradients)| {
        let own = elements(&span.queries, width);
        let dy = &dy[head * size..][own.clone()];
        let stride = a.heads * width;
        let ys = done.y[elements(&span.queries, stride)].chunks_exact(stride);
        let means: Vec<_> = ys
            .zip(dy.chunks_exact(width))
            .map(|(y, dy)| vectorized(|| dot(&y[head * width..][..width], dy)))
            .collect();
        let queries = Queries {
            q: &q[head * size..][own.clone()],
            dy,
            log_sums: &done.log_sums[head * rows..][span.queries.clone()],
            means: &means,
        };
        let head = head / a.group();
        let [k, v] =
            [k, v].map(|x| Matrix::new(&x[head * size..][own.clone()], span.keys.len(), width));
        let [k_t, v_t] = [(k, &turned[0]), (v, &turned[1])].map(|(x, turned)| match turned {
            Some(x) => Matrix::new(&x[head * size..][..size], width, rows).cols(span.keys.clone()),
            None => x.t(),
        });
        let keys = TurnedKeys { k, k_t, v_t };
        head::attend_backward(a, queries, keys, gradients);
    });
    turned.into_iter().flatten().for_each(give);
}

/// Number of elements of one head.
fn by_head<T>(x: &[T], heads: usize) -> usize {
    x.len() / heads.max(1)
}

/// The range of elements of these rows of `width` elements.
fn elements(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// Takes ascending ranges out of a slice.
struct Cut<'a, T> {
    rest: &'a mut [T],
    at: usize,
}

impl<'a, T> Cut<'a, T> {
    fn new(rest: &'a mut [T]) -> Self {
        Self { rest, at: 0 }
    }

    fn take(&mut self, range: Range<usize>) -> &'a mut [T] {
        let skipped = range.start.checked_sub(self.at).expect("spans ascend");
        let rest = &mut std::mem::take(&mut self.rest)[skipped..];
        let (taken, rest) = rest.split_at_mut(range.len());
        self.rest = rest;
        self.at = range.end;
        taken
    }
}
