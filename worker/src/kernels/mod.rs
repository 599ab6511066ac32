//! The arithmetic: one table of calls, which every device implements.
//!
//! ```text
//! shapes.rs   what calls are given beside windows: operands, rotations, attention's shape
//! cpu/        the table on the processors of this host
//! cases/      each call against an f64 reference at its edges: run for every device and type     (tests)
//! ```
//!
//! A call is given windows of one device and returns when its work is ordered; what an operation is, which of its
//! values are kept, and where gradients flow is the business of `ops`. Windows fit each other: operations check what
//! comes from outside, and kernels panic on what operations got wrong.
//!
//! Order of summation: no result depends on the number of threads. Sums over rows are cut into blocks that depend on
//! the shapes alone; products are split over rows and columns of the result, never over the summed index.

pub mod cpu;
mod shapes;

#[cfg(test)]
mod cases;

pub use shapes::{
    AdamStep, Attended, Attention, Heads, Norm, Onto, Operand, Out, Rotation, Rows, Span, Turn,
};

use crate::device::{Device, Window, WindowMut};
use std::sync::Arc;

/// The table for the processors and the memory of this host.
pub fn host() -> Arc<dyn Kernels> {
    Arc::new(cpu::Cpu::default())
}

/// What a device computes.
///
/// Activations, their gradients, operands of products and parameters are of one type, f32 or bf16; gradients of
/// parameters, statistics, weights of targets, moments and rotation tables are f32. Losses and sums of squares are f64;
/// tokens, rows and positions u32.
///
/// Shape letters: T rows, D features in, F features out, H query heads, K key-value heads, E features per head, V
/// vocabulary. Every matrix is row-major.
pub trait Kernels: Send + Sync {
    /// Where the windows lie that its calls are given.
    fn device(&self) -> &Device;

    /// `y = 0`.
    fn clear(&self, y: WindowMut<'_>);

    /// `y = x`, rounded to the type of `y`.
    fn copy(&self, y: WindowMut<'_>, x: Window<'_>);

    /// `y = a + b`.
    fn add(&self, y: WindowMut<'_>, a: Window<'_>, b: Window<'_>);

    /// `y += x`.
    fn add_assign(&self, y: WindowMut<'_>, x: Window<'_>);

    /// Every row of `y` becomes `row`.
    fn repeat_row(&self, y: WindowMut<'_>, row: Window<'_>);

    /// Adds every row of `x` to the one row of `sum`.
    fn sum_rows(&self, sum: WindowMut<'_>, x: Window<'_>);

    /// `c = a b` or `c += a b`.
    fn gemm(&self, c: Out<'_>, a: Operand<'_>, b: Operand<'_>);

    /// Row `i` of `y` becomes row `rows[i]` of `x`.
    fn gather_rows(&self, y: WindowMut<'_>, x: Window<'_>, rows: Rows<'_>);

    /// Adds row `i` of `x` to row `rows[i] - first` of `y`, for every `i` in order; rows that `y` does not have are
    /// left out.
    fn scatter_add_rows(&self, y: WindowMut<'_>, first: usize, x: Window<'_>, rows: Rows<'_>);

    /// `y = w x / sqrt(mean(x^2) + eps)`, for each group of as many elements as `w` has.
    fn rms_norm(&self, y: WindowMut<'_>, x: Window<'_>, norm: Norm<'_>);

    /// The gradient of [`Kernels::rms_norm`] by `x`. With r the inverse root and n = x r:
    /// `dx = r (w dy - n mean(w dy n))`.
    fn rms_norm_back(&self, dx: Out<'_>, dy: Window<'_>, x: Window<'_>, norm: Norm<'_>);

    /// Adds the gradient of [`Kernels::rms_norm`] by `w`: `dw += sum(dy n)`.
    fn rms_norm_weight_back(&self, dw: WindowMut<'_>, dy: Window<'_>, x: Window<'_>, eps: f32);

    /// `y = silu(gate) up`.
    fn swiglu(&self, y: WindowMut<'_>, gate: Window<'_>, up: Window<'_>);

    /// The gradient of [`Kernels::swiglu`] by `gate`. With s = sigmoid(gate):
    /// `dgate = dy up s (1 + gate (1 - s))`.
    fn swiglu_gate_back(&self, dgate: Out<'_>, dy: Window<'_>, gate: Window<'_>, up: Window<'_>);

    /// The gradient of [`Kernels::swiglu`] by `up`: `dup = dy silu(gate)`.
    fn swiglu_up_back(&self, dup: Out<'_>, dy: Window<'_>, gate: Window<'_>);

    /// From rows `[T, H E]` to heads `[H, T, E]`, turned.
    fn split_heads(&self, y: WindowMut<'_>, x: Window<'_>, heads: Heads, turn: Turn<'_>);

    /// From `heads` `[H, T, E]` to rows, turned back: the transpose of [`Kernels::split_heads`]. Where rows have fewer
    /// heads, `[T, H / G E]`, each is the sum of G neighbouring ones in order.
    fn merge_heads(&self, y: Out<'_>, x: Window<'_>, heads: Heads, turn: Turn<'_>);

    /// Causal attention: `o` and `q` are `[H, T, E]`, `k` and `v` `[K, T', E]`, `log_sums` `[H, T]`, the logarithms of
    /// each query's sum of exponentials. Queries are scaled already. Spans ascend and do not overlap; rows outside all
    /// of them are left as they are.
    fn attend(
        &self,
        o: WindowMut<'_>,
        log_sums: WindowMut<'_>,
        qkv: [Window<'_>; 3],
        shape: (&Attention, &[Span]),
    );

    /// The gradients of [`Kernels::attend`], all `[H, T, E]`: of queries, and of each query head's part in keys and
    /// values; `dy` `[H, T, E]` is that of its output. Every span's keys are the rows of its queries; what becomes of
    /// rows outside all spans is unspecified.
    ///
    /// With P the probabilities and D the scalar products of output and gradient:
    /// `dV = P^T dO`, `dS = P (dO V^T - D)`, `dQ = dS K`, `dK = dS^T Q`.
    fn attend_back(
        &self,
        gradients: [WindowMut<'_>; 3],
        dy: Window<'_>,
        of: Attended<'_>,
        shape: (&Attention, &[Span]),
    );

    /// The weighted loss of each row of logits `[T, V]`: `losses = weight (log sum exp(logits) - logits[token])`, in
    /// f64. Of the logits unspecified values remain.
    fn nll(
        &self,
        losses: WindowMut<'_>,
        logits: WindowMut<'_>,
        tokens: Window<'_>,
        weights: Window<'_>,
    );

    /// The same; the logits become the gradient of the losses' sum: `weight (softmax - one-hot)`.
    fn nll_back(
        &self,
        losses: WindowMut<'_>,
        logits: WindowMut<'_>,
        tokens: Window<'_>,
        weights: Window<'_>,
    );

    /// The one f64 of `sum` becomes the sum of the squares of `x`, with the same bits on every rank of a run: chunks of
    /// 65,536 elements are summed in f64, each in 16 lanes (element i in lane i mod 16) that are added in order; then
    /// the chunks in order.
    fn sum_squares(&self, sum: WindowMut<'_>, x: Window<'_>);

    /// Applies one update of AdamW to parameters, first and second moments with the summed gradient `g`, with the same
    /// bits on every rank of a run: in the order of [`AdamStep`], without fused multiply-add.
    fn adamw(&self, state: [WindowMut<'_>; 3], g: Window<'_>, step: &AdamStep);
}
