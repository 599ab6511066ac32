//! What attention does differently for f32 and bf16.
//!
//! Scores, probabilities and sums are f32. In bf16, probabilities and gradients of scores are rounded before they are
//! multiplied, since matrix units accept no other type.

use super::super::float::Float;
use super::super::gemm::{Matrix, MatrixMut, gemm, transpose};
use super::super::gemm_bf16;
use super::super::simd::vectorized;
use crate::device::{give, take};
use crate::kernels::Onto;
use half::bf16;

/// The most queries per block of any type.
pub(super) const BLOCK_ROWS_MAX: usize = 96;

/// A type of queries, keys and values.
pub(in super::super) trait Products: Float {
    /// Queries per block, chosen by measurement. A larger block would compute more scores that the causal mask
    /// discards; a smaller one would pack each key that it reads more often.
    const BLOCK_ROWS: usize;

    /// `c = a b` or `c += a b`, on this thread.
    fn multiply(c: MatrixMut<'_>, onto: Onto, a: Matrix<'_, Self>, b: Matrix<'_, Self>);

    /// Each head transposed, from `[heads, rows, width]` to `[heads, width, rows]`, if products are faster then.
    fn turned(x: &[Self], rows: usize, width: usize) -> Option<Vec<Self>>;

    /// Calls `f` with the numbers, each rounded.
    fn rounded<R>(x: &[f32], f: impl FnOnce(&[Self]) -> R) -> R;

    /// Calls `f` with memory for the elements in f32, whose contents are unspecified, and rounds what it writes.
    fn computed<R>(x: &mut [Self], f: impl FnOnce(&mut [f32]) -> R) -> R;
}

impl Products for f32 {
    const BLOCK_ROWS: usize = 48;

    fn multiply(c: MatrixMut<'_>, onto: Onto, a: Matrix<'_>, b: Matrix<'_>) {
        gemm(c, onto, a, b);
    }

    /// Matrix products of f32 are fastest if the right operand has contiguous rows.
    fn turned(x: &[Self], rows: usize, width: usize) -> Option<Vec<Self>> {
        let mut y = take::<f32>(x.len());
        let size = (rows * width).max(1);
        for (y, x) in y.chunks_exact_mut(size).zip(x.chunks_exact(size)) {
            transpose(y, Matrix::new(x, rows, width));
        }
        Some(y)
    }

    fn rounded<R>(x: &[f32], f: impl FnOnce(&[Self]) -> R) -> R {
        f(x)
    }

    fn computed<R>(x: &mut [Self], f: impl FnOnce(&mut [f32]) -> R) -> R {
        f(x)
    }
}

impl Products for bf16 {
    const BLOCK_ROWS: usize = BLOCK_ROWS_MAX;

    fn multiply(c: MatrixMut<'_>, onto: Onto, a: Matrix<'_, Self>, b: Matrix<'_, Self>) {
        gemm_bf16::gemm(c, onto, a, b);
    }

    fn turned(_: &[Self], _: usize, _: usize) -> Option<Vec<Self>> {
        None
    }

    fn rounded<R>(x: &[f32], f: impl FnOnce(&[Self]) -> R) -> R {
        let mut rounded = take::<bf16>(x.len());
        round(&mut rounded, x);
        let result = f(&rounded);
        give(rounded);
        result
    }

    fn computed<R>(x: &mut [Self], f: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut wide = take::<f32>(x.len());
        let result = f(&mut wide);
        round(x, &wide);
        give(wide);
        result
    }
}

fn round(y: &mut [bf16], x: &[f32]) {
    vectorized(|| y.iter_mut().zip(x).for_each(|(y, x)| *y = bf16::round(*x)));
}
