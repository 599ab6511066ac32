//! The kernels for this host's CPUs, which run in parallel on the threads of the current rayon pool.
//!
//! ```text
//! gemm.rs        products of f32      simd.rs      loops compiled for the features of this CPU
//! gemm_bf16/     products of bf16     float.rs     f32 and bf16, for kernels that are written once for both
//! elementwise.rs sums, SwiGLU         rows.rs      gathers, scatters, repeats and sums of rows
//! norm.rs        RMSNorm              heads.rs     splits rows into heads and merges them, with rotation
//! attention/     causal attention     loss.rs      cross-entropy
//! optimizer.rs   AdamW, norms         scratch.rs   the memory that kernels take while they run
//! ```

mod attention;
mod elementwise;
mod float;
mod gemm;
mod gemm_bf16;
mod heads;
mod loss;
mod norm;
mod optimizer;
mod rows;
pub(super) mod scratch;
mod simd;

pub(crate) use simd::{exp, max, vectorized};

use super::{AdamStep, Attended, Attention, Heads, Kernels, Norm, Operand, Out, Rows, Spans, Turn};
use crate::device::{Device, Dtype, Window, WindowMut};
use float::with_float;
use gemm::{Matrix, MatrixMut};
use half::bf16;

/// Elements per task of an element-wise loop: enough to pay for the scheduling, few enough to balance the load.
const TASK_ELEMENTS: usize = 32 * 1024;

/// Rows per block of a sum over rows.
const BLOCK_ROWS: usize = 64;

/// Number of rows of `cols` elements per task.
fn task_rows(cols: usize) -> usize {
    (TASK_ELEMENTS / cols.max(1)).max(1)
}

/// Kernels that compute in host memory.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    device: Device,
}

impl Cpu {
    /// The order in which products of bf16 are summed on this CPU, by which results differ: `pairs` of terms, or
    /// `tiles` of 32 terms on AMX.
    pub fn bf16_order() -> &'static str {
        gemm_bf16::order()
    }
}

impl Kernels for Cpu {
    fn device(&self) -> &Device {
        &self.device
    }

    fn clear(&self, y: WindowMut<'_>) {
        match y.dtype() {
            Dtype::F32 => y.host::<f32>().fill(0.),
            Dtype::Bf16 => y.host::<bf16>().fill(bf16::ZERO),
            Dtype::F64 => y.host::<f64>().fill(0.),
            Dtype::U32 => y.host::<u32>().fill(0),
        }
    }

    fn copy(&self, y: WindowMut<'_>, x: Window<'_>) {
        elementwise::copy(y, x);
    }

    fn add(&self, y: WindowMut<'_>, a: Window<'_>, b: Window<'_>) {
        with_float!(y.dtype(), T => elementwise::add::<T>(y.host(), a.host(), b.host()));
    }

    fn add_assign(&self, y: WindowMut<'_>, x: Window<'_>) {
        with_float!(y.dtype(), T => elementwise::add_assign::<T>(y.host(), x.host()));
    }

    fn repeat_row(&self, y: WindowMut<'_>, row: Window<'_>) {
        with_float!(y.dtype(), T => rows::repeat::<T>(y.host(), row.host()));
    }

    fn sum_rows(&self, sum: WindowMut<'_>, x: Window<'_>) {
        with_float!(x.dtype(), T => rows::sum::<T>(sum.host(), x.host()));
    }

    fn gemm(&self, c: Out<'_>, a: Operand<'_>, b: Operand<'_>) {
        match a.window.dtype() {
            Dtype::Bf16 => with_float!(c.to.dtype(), C => {
                let (a, b) = (Matrix::of(a), Matrix::of(b));
                gemm_bf16::gemm_parallel::<C>(c.to.host(), c.onto, a, b);
            }),
            _ => {
                let product = MatrixMut::new(c.to.host(), a.rows, b.cols);
                gemm::gemm_parallel(product, c.onto, Matrix::of(a), Matrix::of(b));
            }
        }
    }

    fn gather_rows(&self, y: WindowMut<'_>, x: Window<'_>, rows: Rows<'_>) {
        with_float!(y.dtype(), T => {
            rows::gather::<T>(y.host(), x.host(), rows.indices.host(), rows.width);
        });
    }

    fn scatter_add_rows(&self, y: WindowMut<'_>, first: usize, x: Window<'_>, rows: Rows<'_>) {
        with_float!(y.dtype(), Y => with_float!(x.dtype(), X => {
            let (indices, width) = (rows.indices.host(), rows.width);
            rows::scatter_add::<Y, X>((y.host(), first), x.host(), indices, width);
        }));
    }

    fn rms_norm(&self, y: WindowMut<'_>, x: Window<'_>, norm: Norm<'_>) {
        with_float!(y.dtype(), T => {
            norm::forward::<T>(y.host(), x.host(), norm.w.host(), norm.eps);
        });
    }

    fn rms_norm_back(&self, dx: Out<'_>, dy: Window<'_>, x: Window<'_>, norm: Norm<'_>) {
        with_float!(x.dtype(), T => {
            let (dx, norm) = ((dx.to.host(), dx.onto), (norm.w.host(), norm.eps));
            norm::backward::<T>(dx, dy.host(), x.host(), norm);
        });
    }

    fn rms_norm_weight_back(&self, dw: WindowMut<'_>, dy: Window<'_>, x: Window<'_>, eps: f32) {
        with_float!(x.dtype(), T => {
            norm::weight_backward::<T>(dw.host(), dy.host(), x.host(), eps);
        });
    }

    fn swiglu(&self, y: WindowMut<'_>, gate: Window<'_>, up: Window<'_>) {
        with_float!(y.dtype(), T => elementwise::swiglu::<T>(y.host(), gate.host(), up.host()));
    }

    fn swiglu_gate_back(&self, dgate: Out<'_>, dy: Window<'_>, gate: Window<'_>, up: Window<'_>) {
        with_float!(dy.dtype(), T => {
            let operands = [dy.host(), gate.host(), up.host()];
            elementwise::swiglu_gate::<T>(dgate.to.host(), dgate.onto, operands);
        });
    }

    fn swiglu_up_back(&self, dup: Out<'_>, dy: Window<'_>, gate: Window<'_>) {
        with_float!(dy.dtype(), T => {
            elementwise::swiglu_up::<T>(dup.to.host(), dup.onto, [dy.host(), gate.host()]);
        });
    }

    fn split_heads(&self, y: WindowMut<'_>, x: Window<'_>, heads: Heads, turn: Turn<'_>) {
        with_float!(y.dtype(), T => heads::split::<T>(y.host(), x.host(), heads, &turn.into()));
    }

    fn merge_heads(&self, y: Out<'_>, x: Window<'_>, heads: Heads, turn: Turn<'_>) {
        with_float!(x.dtype(), T => {
            heads::merge::<T>((y.to.host(), y.onto), x.host(), heads, &turn.into());
        });
    }

    fn attend(
        &self,
        o: WindowMut<'_>,
        log_sums: WindowMut<'_>,
        qkv: [Window<'_>; 3],
        (a, spans): (&Attention, &Spans),
    ) {
        with_float!(o.dtype(), T => {
            attention::forward::<T>((o.host(), log_sums.host()), qkv.map(Window::host), a, spans.list());
        });
    }

    fn attend_back(
        &self,
        gradients: [WindowMut<'_>; 3],
        dy: Window<'_>,
        of: Attended<'_>,
        (a, spans): (&Attention, &Spans),
    ) {
        with_float!(dy.dtype(), T => {
            let (qkv, y) = (of.qkv.map(Window::host), of.y.host());
            let done = attention::Done::<T> { qkv, y, log_sums: of.log_sums.host() };
            attention::backward(gradients.map(WindowMut::host), dy.host(), &done, (a, spans.list()));
        });
    }

    fn nll(
        &self,
        losses: WindowMut<'_>,
        logits: WindowMut<'_>,
        tokens: Window<'_>,
        weights: Window<'_>,
    ) {
        with_float!(logits.dtype(), T => {
            let targets = (tokens.host(), weights.host());
            loss::each::<T>(losses.host(), logits.host(), targets, loss::nll);
        });
    }

    fn nll_back(
        &self,
        losses: WindowMut<'_>,
        logits: WindowMut<'_>,
        tokens: Window<'_>,
        weights: Window<'_>,
    ) {
        with_float!(logits.dtype(), T => {
            let targets = (tokens.host(), weights.host());
            loss::each::<T>(losses.host(), logits.host(), targets, loss::nll_gradient);
        });
    }

    fn sum_squares(&self, sum: WindowMut<'_>, x: Window<'_>) {
        let [sum] = sum.host() else { panic!("one f64 for a sum") };
        *sum = optimizer::sum_squares(x.host());
    }

    fn adamw(
        &self,
        [mut p, m, v]: [WindowMut<'_>; 3],
        rounded: Option<WindowMut<'_>>,
        g: Window<'_>,
        step: &AdamStep,
    ) {
        optimizer::adamw([p.reborrow(), m, v].map(WindowMut::host), g.host(), step);
        if let Some(rounded) = rounded {
            elementwise::copy(rounded, p.shared());
        }
    }
}
