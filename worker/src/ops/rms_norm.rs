//! RMSNorm (Zhang and Sennrich 2019), as `transformers`' `LlamaRMSNorm`: `w x / sqrt(mean(x^2) +
//! eps)`.

use std::sync::Arc;

use rayon::prelude::*;

use super::{
    array::Array,
    error::{Result, expect_shape},
    kernel::{self, dot, vectorized},
    parameters::ParamId,
    pool,
    tape::{Backward, Onto, Op, Tape, Value},
};

impl Tape<'_> {
    /// Normalizes every group of `w`'s length: the whole row, or each head of it (QK norm).
    ///
    /// # Errors
    /// [`super::Error::Shape`] if the rows are not a multiple of `w`'s length.
    pub fn rms_norm(&self, x: &Value, w: ParamId, eps: f32) -> Result<Value> {
        let width = self.params().elements(w);
        let fits = width > 0 && x.cols().is_multiple_of(width);
        let expected = || format!("a multiple of {width} features");
        expect_shape("rms_norm", fits, expected, || x.cols().to_string())?;

        let mut y = pool::take(x.rows() * x.cols());
        let (x_data, scale) = (x.array.read(), self.params().elements_of(w));
        let (x_data, scale): (&[f32], &[f32]) = (&x_data, &scale);
        let len = kernel::task_rows(width) * width;
        y.par_chunks_mut(len).zip(x_data.par_chunks(len)).for_each(|(y, x)| {
            vectorized(|| {
                for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let r = inverse_rms(x, eps);
                    for ((y, x), w) in y.iter_mut().zip(x).zip(scale) {
                        *y = w * (x * r);
                    }
                }
            });
        });
        let y = Array::new(y, x.rows(), x.cols())?;
        Ok(self.push(y, &[x], &[w], |_| RmsNorm { x: x.clone(), w, eps }))
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1. / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

struct RmsNorm {
    x: Value,
    w: ParamId,
    eps: f32,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn saved_bytes(&self) -> usize {
        self.x.array.bytes()
    }

    /// With n = x r: `dw = sum(dy n)`, `dx = r (w dy - n mean(w dy n))`.
    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let Self { x, w, eps } = *self;
        let width = flow.params().elements(w);
        let (x_data, dy) = (x.array.read(), dy.read());
        if let Some(dw) = flow.vector(w) {
            add_weight_gradient(dw, &x_data, &dy, eps);
        }
        flow.release(w);

        let mut dx = flow.open(&x);
        if let Some(dx) = &mut dx {
            let scale = flow.params().elements_of(w);
            let scale: &[f32] = &scale;
            let len = kernel::task_rows(width) * width;
            let onto = dx.onto;
            dx.data
                .par_chunks_mut(len)
                .zip(x_data.par_chunks(len).zip(dy.par_chunks(len)))
                .for_each(|(dx, (x, dy))| {
                    vectorized(|| {
                        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
                        for (dx, (x, dy)) in dx.chunks_exact_mut(width).zip(rows) {
                            add_row_gradient(dx, onto, x, dy, scale, eps);
                        }
                    });
                });
        }
        drop(x_data);
        flow.close(&x, dx)
    }
}

#[inline(always)]
fn add_row_gradient(dx: &mut [f32], onto: Onto, x: &[f32], dy: &[f32], w: &[f32], eps: f32) {
    let r = inverse_rms(x, eps);
    let mut sum = [0f32; kernel::LANES];
    let lanes = kernel::LANES;
    let whole = x.len() / lanes * lanes;
    for at in (0..whole).step_by(lanes) {
        let (x, dy, w) = (&x[at..][..lanes], &dy[at..][..lanes], &w[at..][..lanes]);
        for i in 0..lanes {
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

/// Blocks of rows first, then the blocks in order, as in [`kernel::add_rows`].
fn add_weight_gradient(dw: &mut [f32], x: &[f32], dy: &[f32], eps: f32) {
    let width = dw.len();
    let len = kernel::BLOCK_ROWS * width;
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
    for block in blocks {
        dw.iter_mut().zip(block).for_each(|(dw, block)| *dw += block);
    }
}
