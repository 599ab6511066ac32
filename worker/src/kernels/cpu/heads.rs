//! Splits rows into heads and merges them back, with rotation.

use super::float::Float;
use super::simd::vectorized;
use super::task_rows;
use crate::kernels::{self, Heads, Onto};
use rayon::prelude::*;

/// Number of rows per task.
const TASK_ROWS: usize = 128;

/// A [`kernels::Turn`] whose tables are in host memory.
pub(super) struct Turn<'a> {
    rotation: Option<Rotation<'a>>,
    scale: f32,
}

struct Rotation<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    positions: &'a [u32],
}

impl<'a> From<kernels::Turn<'a>> for Turn<'a> {
    fn from(turn: kernels::Turn<'a>) -> Self {
        let rotation = turn.rotation.map(|rotation| Rotation {
            cos: rotation.cos.host(),
            sin: rotation.sin.host(),
            positions: rotation.positions.host(),
        });
        Self { rotation, scale: turn.scale }
    }
}

impl Rotation<'_> {
    /// Rotates `x` by the angles of `row`'s position, multiplies it by `scale`, and writes it to `y`.
    #[inline(always)]
    fn rotate<T: Float>(&self, y: &mut [T], x: &[T], row: usize, scale: f32) {
        let pairs = x.len() / 2;
        let (cos, sin) = self.tables(row, pairs);
        let (y1, y2) = y.split_at_mut(pairs);
        let (x1, x2) = x.split_at(pairs);
        let ys = y1.iter_mut().zip(y2);
        for (((y1, y2), (x1, x2)), (c, s)) in ys.zip(x1.iter().zip(x2)).zip(cos.iter().zip(sin)) {
            let (x1, x2) = (x1.widen(), x2.widen());
            *y1 = T::round((x1 * c - x2 * s) * scale);
            *y2 = T::round((x2 * c + x1 * s) * scale);
        }
    }

    /// Rotates `x` back in place: the transpose of [`Rotation::rotate`].
    #[inline(always)]
    fn rotate_back(&self, x: &mut [f32], row: usize, scale: f32) {
        let pairs = x.len() / 2;
        let (cos, sin) = self.tables(row, pairs);
        let (x1, x2) = x.split_at_mut(pairs);
        for ((x1, x2), (c, s)) in x1.iter_mut().zip(x2).zip(cos.iter().zip(sin)) {
            (*x1, *x2) = ((*x1 * c + *x2 * s) * scale, (*x2 * c - *x1 * s) * scale);
        }
    }

    #[inline(always)]
    fn tables(&self, row: usize, pairs: usize) -> (&[f32], &[f32]) {
        let start = self.positions[row] as usize * pairs;
        (&self.cos[start..start + pairs], &self.sin[start..start + pairs])
    }
}

/// Splits rows `[T, H E]` into heads `[H, T, E]`, and applies `turn`.
pub(super) fn split<T: Float>(
    y: &mut [T],
    x: &[T],
    Heads { heads, head_dim }: Heads,
    turn: &Turn<'_>,
) {
    if x.is_empty() {
        return;
    }
    let width = heads * head_dim;
    let rows = x.len() / width;
    y.par_chunks_mut(rows * head_dim).enumerate().for_each(|(head, y)| {
        y.par_chunks_mut(TASK_ROWS * head_dim).enumerate().for_each(|(task, y)| {
            vectorized(|| {
                for (i, y) in y.chunks_exact_mut(head_dim).enumerate() {
                    let row = task * TASK_ROWS + i;
                    let x = &x[row * width + head * head_dim..][..head_dim];
                    match &turn.rotation {
                        Some(rotation) => rotation.rotate(y, x, row, turn.scale),
                        None => y
                            .iter_mut()
                            .zip(x)
                            .for_each(|(y, x)| *y = T::round(x.widen() * turn.scale)),
                    }
                }
            });
        });
    });
}

/// Merges heads `[H, T, E]` into rows, and applies the transpose of `turn`. If rows have fewer heads, neighbouring
/// heads are summed in order.
pub(super) fn merge<T: Float>(
    (y, onto): (&mut [T], Onto),
    x: &[T],
    Heads { heads, head_dim }: Heads,
    turn: &Turn<'_>,
) {
    if x.is_empty() {
        return;
    }
    let group = x.len() / y.len();
    let rows = x.len() / (heads * head_dim);
    let width = y.len() / rows;
    y.par_chunks_mut(task_rows(width) * width).enumerate().for_each(|(task, y)| {
        let mut sum = vec![0f32; head_dim];
        vectorized(|| {
            for (i, y) in y.chunks_exact_mut(width).enumerate() {
                let row = task * task_rows(width) + i;
                for (head, y) in y.chunks_exact_mut(head_dim).enumerate() {
                    sum.fill(0.);
                    for member in head * group..(head + 1) * group {
                        let x = &x[(member * rows + row) * head_dim..][..head_dim];
                        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.widen());
                    }
                    match &turn.rotation {
                        Some(rotation) => rotation.rotate_back(&mut sum, row, turn.scale),
                        None => sum.iter_mut().for_each(|sum| *sum *= turn.scale),
                    }
                    let each = y.iter_mut().zip(&sum);
                    match onto {
                        Onto::Fresh => each.for_each(|(y, sum)| *y = T::round(*sum)),
                        Onto::Sum => each.for_each(|(y, sum)| *y = T::round(y.widen() + sum)),
                    }
                }
            }
        });
    });
}
