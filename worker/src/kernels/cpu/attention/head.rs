//! Attention of one head in one span, on one thread: queries are processed in blocks, each against all keys that its
//! queries attend to.
//!
//! Only the log-sum-exps are saved; the backward recomputes the probabilities (Dao et al. 2022). Each query head
//! computes its own part of its key head's gradient; the parts are summed afterwards, in order.

use super::super::gemm::{Matrix, MatrixMut};
use super::super::simd::{exp, exponentials, vectorized};
use super::products::{BLOCK_ROWS_MAX, Products};
use crate::device::{give, take};
use crate::kernels::{Attention, Onto};
use std::ops::Range;

/// One head's keys `[E, rows]` and values `[rows, E]`, starting at position 0.
#[derive(Clone, Copy)]
pub(super) struct HeadKeys<'a, T> {
    pub(super) k_t: Matrix<'a, T>,
    pub(super) v: Matrix<'a, T>,
}

/// Attention of one head's queries `q` `[n, E]`, rotated and scaled, at the last n of `end` positions. Writes `o`
/// `[n, E]` and each query's log-sum-exp.
pub(super) fn attend<T: Products>(
    a: &Attention,
    (q, end): (&[T], usize),
    keys: HeadKeys<'_, T>,
    (o, log_sums): (&mut [T], &mut [f32]),
) {
    let width = a.head_dim;
    let first = end - q.len() / width;
    for (queries, seen) in blocks::<T>(a, first..end) {
        let (n, m) = (queries.len(), seen.len());
        let own = queries.start - first..queries.end - first;
        let features = own.start * width..own.end * width;

        let mut p = take::<f32>(n * m);
        let q = Matrix::new(&q[features.clone()], n, width);
        T::multiply(MatrixMut::new(&mut p, n, m), Onto::Fresh, q, keys.k_t.cols(seen.clone()));
        let mut sums = [0f32; BLOCK_ROWS_MAX];
        vectorized(|| {
            for (i, (p, sum)) in p.chunks_exact_mut(m).zip(&mut sums).enumerate() {
                let position = queries.start + i;
                let visible = a.first_key(position) - seen.start..position + 1 - seen.start;
                let largest;
                (largest, *sum) = exponentials(p, visible);
                log_sums[own.start + i] = largest + sum.ln();
            }
        });
        T::computed(&mut o[features], |o| {
            T::rounded(&p, |p| {
                let (p, v) = (Matrix::new(p, n, m), keys.v.rows(seen));
                T::multiply(MatrixMut::new(o, n, width), Onto::Fresh, p, v);
            });
            vectorized(|| {
                for (o, sum) in o.chunks_exact_mut(width).zip(sums) {
                    let r = 1. / sum;
                    o.iter_mut().for_each(|o| *o *= r);
                }
            });
        });
        give(p);
    }
}

/// One head's keys `[n, E]`, and the transposed keys and values `[E, n]`.
#[derive(Clone, Copy)]
pub(super) struct TurnedKeys<'a, T> {
    pub(super) k: Matrix<'a, T>,
    pub(super) k_t: Matrix<'a, T>,
    pub(super) v_t: Matrix<'a, T>,
}

/// Inputs of the backward for the queries of one head.
pub(super) struct Queries<'a, T> {
    /// Rotated and scaled queries `[n, E]`.
    pub(super) q: &'a [T],
    /// Gradients of the outputs `[n, E]`.
    pub(super) dy: &'a [T],
    pub(super) log_sums: &'a [f32],
    /// Each query's scalar product of output and output gradient.
    pub(super) means: &'a [f32],
}

/// Computes the gradients of one head's rotated queries, keys and values. With P the probabilities and D the means:
/// `dV = P^T dO`, `dS = P (dO V^T - D)`, `dQ = dS K`, `dK = dS^T Q`.
pub(super) fn attend_backward<T: Products>(
    a: &Attention,
    rows: Queries<'_, T>,
    keys: TurnedKeys<'_, T>,
    [dq, dk, dv]: [&mut [T]; 3],
) {
    T::computed(dk, |dk| {
        T::computed(dv, |dv| {
            dk.fill(0.);
            dv.fill(0.);
            sum_blocks(a, &rows, keys, (dq, [dk, dv]));
        });
    });
}

/// Computes `dq`, and adds to `dk` and `dv` a block of queries at a time.
fn sum_blocks<T: Products>(
    a: &Attention,
    rows: &Queries<'_, T>,
    keys: TurnedKeys<'_, T>,
    (dq, [dk, dv]): (&mut [T], [&mut [f32]; 2]),
) {
    let width = a.head_dim;
    for (queries, seen) in blocks::<T>(a, 0..rows.q.len() / width) {
        let (n, m) = (queries.len(), seen.len());
        let own = queries.start * width..queries.end * width;
        let all = seen.start * width..seen.end * width;
        let q = Matrix::new(&rows.q[own.clone()], n, width);
        let dy = Matrix::new(&rows.dy[own.clone()], n, width);

        let (mut p, mut ds) = (take::<f32>(n * m), take::<f32>(n * m));
        T::multiply(MatrixMut::new(&mut p, n, m), Onto::Fresh, q, keys.k_t.cols(seen.clone()));
        T::multiply(MatrixMut::new(&mut ds, n, m), Onto::Fresh, dy, keys.v_t.cols(seen.clone()));
        vectorized(|| {
            for (i, (p, ds)) in p.chunks_exact_mut(m).zip(ds.chunks_exact_mut(m)).enumerate() {
                let position = queries.start + i;
                let visible = a.first_key(position) - seen.start..position + 1 - seen.start;
                let (log_sum, mean) = (rows.log_sums[position], rows.means[position]);
                for x in [&mut *p, &mut *ds] {
                    x[..visible.start].fill(0.);
                    x[visible.end..].fill(0.);
                }
                for (p, ds) in p[visible.clone()].iter_mut().zip(&mut ds[visible]) {
                    *p = exp(*p - log_sum);
                    *ds = *p * (*ds - mean);
                }
            }
        });
        T::rounded(&p, |p| {
            let dv = MatrixMut::new(&mut dv[all.clone()], m, width);
            T::multiply(dv, Onto::Sum, Matrix::new(p, n, m).t(), dy);
        });
        T::rounded(&ds, |ds| {
            let ds = Matrix::new(ds, n, m);
            T::multiply(MatrixMut::new(&mut dk[all], m, width), Onto::Sum, ds.t(), q);
            T::computed(&mut dq[own], |dq| {
                let dq = MatrixMut::new(dq, n, width);
                T::multiply(dq, Onto::Fresh, ds, keys.k.rows(seen));
            });
        });
        give(p);
        give(ds);
    }
}

/// Blocks of the queries at these positions, each with the keys that at least one of its queries attends to.
fn blocks<T: Products>(
    a: &Attention,
    positions: Range<usize>,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let starts = positions.clone().step_by(T::BLOCK_ROWS);
    starts.map(move |start| {
        let end = positions.end.min(start + T::BLOCK_ROWS);
        (start..end, a.first_key(start)..end)
    })
}
