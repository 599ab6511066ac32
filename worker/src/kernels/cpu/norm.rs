//! RMSNorm (Zhang and Sennrich 2019), as in `transformers`' `LlamaRMSNorm`: `w x / sqrt(mean(x^2) + eps)`.

use super::float::{Float, dot};
use super::rows::add_blocks;
use super::simd::{LANES, vectorized};
use super::{BLOCK_ROWS, task_rows};
use crate::kernels::Onto;
use rayon::prelude::*;

pub(super) fn forward<T: Float>(y: &mut [T], x: &[T], w: &[T], eps: f32) {
    let width = w.len();
    let len = task_rows(width) * width;
    y.par_chunks_mut(len).zip(x.par_chunks(len)).for_each(|(y, x)| {
        vectorized(|| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let r = inverse_rms(x, eps);
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = T::round(w.widen() * (x.widen() * r));
                }
            }
        });
    });
}

#[inline(always)]
fn inverse_rms<T: Float>(x: &[T], eps: f32) -> f32 {
    1. / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

pub(super) fn backward<T: Float>(
    (dx, onto): (&mut [T], Onto),
    dy: &[T],
    x: &[T],
    (w, eps): (&[T], f32),
) {
    let width = w.len();
    let len = task_rows(width) * width;
    dx.par_chunks_mut(len).zip(x.par_chunks(len).zip(dy.par_chunks(len))).for_each(
        |(dx, (x, dy))| {
            vectorized(|| {
                let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
                for (dx, (x, dy)) in dx.chunks_exact_mut(width).zip(rows) {
                    row_backward((dx, onto), x, dy, (w, eps));
                }
            });
        },
    );
}

#[inline(always)]
fn row_backward<T: Float>((dx, onto): (&mut [T], Onto), x: &[T], dy: &[T], (w, eps): (&[T], f32)) {
    let r = inverse_rms(x, eps);
    let mut sum = [0f32; LANES];
    let whole = x.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let (x, dy, w) = (&x[at..][..LANES], &dy[at..][..LANES], &w[at..][..LANES]);
        for i in 0..LANES {
            sum[i] += w[i].widen() * dy[i].widen() * x[i].widen();
        }
    }
    let rest: f32 = (whole..x.len()).map(|i| w[i].widen() * dy[i].widen() * x[i].widen()).sum();
    let mean = (sum.into_iter().sum::<f32>() + rest) / x.len() as f32;
    let c = mean * r * r;
    let each = dx.iter_mut().zip(x).zip(dy.iter().zip(w));
    let each = each.map(|((dx, x), (dy, w))| (dx, r * (w.widen() * dy.widen() - x.widen() * c)));
    match onto {
        Onto::Fresh => each.for_each(|(dx, part)| *dx = T::round(part)),
        Onto::Sum => each.for_each(|(dx, part)| *dx = T::round(dx.widen() + part)),
    }
}

/// Sums blocks of rows first, and then the block sums in order, like every sum over rows.
pub(super) fn weight_backward<T: Float>(dw: &mut [f32], dy: &[T], x: &[T], eps: f32) {
    let width = dw.len();
    let len = BLOCK_ROWS * width;
    let blocks: Vec<_> = x
        .par_chunks(len)
        .zip(dy.par_chunks(len))
        .map(|(x, dy)| {
            let mut sum = vec![0f32; width];
            vectorized(|| {
                for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
                    let r = inverse_rms(x, eps);
                    for ((sum, x), dy) in sum.iter_mut().zip(x).zip(dy) {
                        *sum += dy.widen() * (x.widen() * r);
                    }
                }
            });
            sum
        })
        .collect();
    add_blocks(dw, blocks);
}
