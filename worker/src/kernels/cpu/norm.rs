//! RMSNorm (Zhang and Sennrich 2019), as in `transformers`' `LlamaRMSNorm`: `w x / sqrt(mean(x^2) + eps)`.

use super::rows::add_blocks;
use super::simd::{LANES, dot, vectorized};
use super::{BLOCK_ROWS, task_rows};
use crate::kernels::Onto;
use rayon::prelude::*;

pub(super) fn forward(y: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    let width = w.len();
    let len = task_rows(width) * width;
    y.par_chunks_mut(len).zip(x.par_chunks(len)).for_each(|(y, x)| {
        vectorized(|| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let r = inverse_rms(x, eps);
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = w * (x * r);
                }
            }
        });
    });
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1. / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

pub(super) fn backward(
    (dx, onto): (&mut [f32], Onto),
    dy: &[f32],
    x: &[f32],
    (w, eps): (&[f32], f32),
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
fn row_backward((dx, onto): (&mut [f32], Onto), x: &[f32], dy: &[f32], (w, eps): (&[f32], f32)) {
    let r = inverse_rms(x, eps);
    let mut sum = [0f32; LANES];
    let whole = x.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let (x, dy, w) = (&x[at..][..LANES], &dy[at..][..LANES], &w[at..][..LANES]);
        for i in 0..LANES {
            sum[i] += w[i] * dy[i] * x[i];
        }
    }
    let rest: f32 = (whole..x.len()).map(|i| w[i] * dy[i] * x[i]).sum();
    let mean = (sum.into_iter().sum::<f32>() + rest) / x.len() as f32;
    let c = mean * r * r;
    let each = dx.iter_mut().zip(x).zip(dy.iter().zip(w));
    match onto {
        Onto::Fresh => each.for_each(|((dx, x), (dy, w))| *dx = r * (w * dy - x * c)),
        Onto::Sum => each.for_each(|((dx, x), (dy, w))| *dx += r * (w * dy - x * c)),
    }
}

/// Sums blocks of rows first, and then the block sums in order, like every sum over rows.
pub(super) fn weight_backward(dw: &mut [f32], dy: &[f32], x: &[f32], eps: f32) {
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
                        *sum += dy * (x * r);
                    }
                }
            });
            sum
        })
        .collect();
    add_blocks(dw, blocks);
}
