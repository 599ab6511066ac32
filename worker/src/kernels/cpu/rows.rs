//! Kernels on whole rows.

use super::float::Float;
use super::simd::vectorized;
use super::{BLOCK_ROWS, task_rows};
use rayon::prelude::*;

/// Sets every row of `y` to `row`.
pub(super) fn repeat<T: Float>(y: &mut [T], row: &[T]) {
    y.chunks_exact_mut(row.len().max(1)).for_each(|y| y.copy_from_slice(row));
}

/// Adds every row of `x` to `sum`.
///
/// Blocks of rows are summed independently first, and then the block sums in order, so that the bits are the same for
/// any number of threads.
pub(super) fn sum<T: Float>(sum: &mut [f32], x: &[T]) {
    let cols = sum.len();
    let blocks: Vec<_> = x
        .par_chunks(BLOCK_ROWS * cols)
        .map(|x| {
            let mut sum = vec![0.; cols];
            vectorized(|| {
                for x in x.chunks_exact(cols) {
                    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.widen());
                }
            });
            sum
        })
        .collect();
    add_blocks(sum, blocks);
}

/// Adds the sums of blocks in order.
pub(super) fn add_blocks(sum: &mut [f32], blocks: Vec<Vec<f32>>) {
    for block in blocks {
        sum.iter_mut().zip(block).for_each(|(sum, block)| *sum += block);
    }
}

/// Sets row `i` of `y` to row `rows[i]` of `x`.
pub(super) fn gather<T: Float>(y: &mut [T], x: &[T], rows: &[u32], width: usize) {
    let task = task_rows(width);
    y.par_chunks_mut(task * width).zip(rows.par_chunks(task)).for_each(|(y, rows)| {
        for (y, &row) in y.chunks_exact_mut(width).zip(rows) {
            y.copy_from_slice(&x[row as usize * width..][..width]);
        }
    });
}

/// Adds row `i` of `x` to row `rows[i]` of a matrix; `y` holds rows of that matrix starting at `first`.
///
/// Runs on one thread, in the order of the rows: a row that occurs twice must not race, and this takes only a
/// thousandth of a step.
pub(super) fn scatter_add<Y: Float, X: Float>(
    (y, first): (&mut [Y], usize),
    x: &[X],
    rows: &[u32],
    width: usize,
) {
    let present = first..first + y.len() / width.max(1);
    vectorized(|| {
        for (x, &row) in x.chunks_exact(width.max(1)).zip(rows) {
            if present.contains(&(row as usize)) {
                let y = &mut y[(row as usize - first) * width..][..width];
                y.iter_mut().zip(x).for_each(|(y, x)| *y = Y::round(y.widen() + x.widen()));
            }
        }
    });
}
