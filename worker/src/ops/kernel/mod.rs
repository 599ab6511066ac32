//! The arithmetic under the operations: matrix products, and element-wise loops over rows.

mod gemm;
mod simd;

pub(super) use gemm::{Matrix, MatrixMut, gemm, gemm_parallel, transpose};
pub(super) use simd::{LANES, dot, exp, exponentials, max, sigmoid, sum_f64, vectorized};

use rayon::prelude::*;

/// Elements that one task of an element-wise loop handles: enough to pay for handing it out, few
/// enough to balance.
pub(super) const TASK_ELEMENTS: usize = 32 * 1024;

/// Rows that a sum over rows takes as one block.
pub(super) const BLOCK_ROWS: usize = 64;

/// Rows of `cols` elements that make one task.
pub(super) fn task_rows(cols: usize) -> usize {
    (TASK_ELEMENTS / cols.max(1)).max(1)
}

/// `y = x`, in parallel.
pub(super) fn copy(y: &mut [f32], x: &[f32]) {
    y.par_chunks_mut(TASK_ELEMENTS)
        .zip(x.par_chunks(TASK_ELEMENTS))
        .for_each(|(y, x)| y.copy_from_slice(x));
}

/// `y += x`, in parallel.
pub(super) fn add_assign(y: &mut [f32], x: &[f32]) {
    y.par_chunks_mut(TASK_ELEMENTS)
        .zip(x.par_chunks(TASK_ELEMENTS))
        .for_each(|(y, x)| vectorized(|| y.iter_mut().zip(x).for_each(|(y, x)| *y += x)));
}

/// Adds every row of `x` to `sum`.
///
/// Blocks of rows are summed first, each on its own, then the blocks in order: the bits are the
/// same for any number of threads.
pub(super) fn add_rows(sum: &mut [f32], x: &[f32]) {
    let cols = sum.len();
    let blocks: Vec<_> = x
        .par_chunks(BLOCK_ROWS * cols)
        .map(|x| {
            let mut sum = vec![0.; cols];
            vectorized(|| {
                for x in x.chunks_exact(cols) {
                    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
                }
            });
            sum
        })
        .collect();
    for block in blocks {
        sum.iter_mut().zip(block).for_each(|(sum, block)| *sum += block);
    }
}
