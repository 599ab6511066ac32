//! The AdamW update, and the gradient norm for clipping.
//!
//! Both give the same bits on every host and for any number of threads: AdamW treats each element independently, and
//! the norm sums chunks of a fixed size in order.

use super::simd::{sum_f64, vectorized};
use crate::kernels::AdamStep;
use rayon::prelude::*;

/// Number of elements per partial sum and per parallel task.
const CHUNK_ELEMENTS: usize = 64 * 1024;

pub(super) fn adamw([p, m, v]: [&mut [f32]; 3], g: &[f32], step: &AdamStep) {
    assert_eq!([g.len(), m.len(), v.len()], [p.len(); 3], "one moment pair per element");
    let AdamStep { gradient_scale, new1, beta2, new2, keep, rate, root, eps } = *step;
    let n = CHUNK_ELEMENTS;
    let moments = m.par_chunks_mut(n).zip(v.par_chunks_mut(n));
    p.par_chunks_mut(n).zip(g.par_chunks(n)).zip(moments).for_each(|((p, g), (m, v))| {
        vectorized(|| {
            for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                let g = g * gradient_scale;
                *m += (g - *m) * new1;
                *v = *v * beta2 + new2 * (g * g);
                *p = *p * keep - rate * (*m / (v.sqrt() * root + eps));
            }
        });
    });
}

/// The sum of squares, in f64: chunks are summed in 16 lanes (element i in lane i mod 16) that are added in order, and
/// then the chunks in order.
pub(super) fn sum_squares(x: &[f32]) -> f64 {
    let chunks = x.par_chunks(CHUNK_ELEMENTS);
    let sums: Vec<f64> = chunks.map(|x| vectorized(|| sum_f64(x, |x| x * x))).collect();
    sums.into_iter().sum()
}
