//! The arithmetic: one table of kernels, which every device implements.
//!
//! ```text
//! shapes.rs   arguments of kernels other than windows: operands, rotations, the shape of an attention
//! cpu/        the table for the CPUs of this host
//! cuda/       the table for NVIDIA GPUs
//! rehearsal.rs  a table that computes nothing and counts the memory that other kernels take
//! roofline.rs  a table that passes its calls on and counts their work
//! cases/      (tests) each kernel against an f64 reference, with edge cases, for every device and type
//! ```
//!
//! A kernel takes windows of one device's buffers and returns when its work is enqueued in order. What an operation
//! is, which values it saves, and where gradients flow is decided in `ops`. Operations check the shapes of outside
//! input, so kernels panic on windows that do not match: that is a bug in an operation.
//!
//! Order of summation: no result depends on the number of threads. Sums over rows are cut into blocks that depend
//! only on the shapes; on the CPU, matrix products are split over rows and columns of the result, never over the summed
//! index. GPUs of one kind give equal bits, other devices others.

pub mod cpu;
pub mod cuda;
mod rehearsal;
mod roofline;
mod shapes;

#[cfg(test)]
mod cases;

pub use roofline::{Account, Peaks, Work};
pub use shapes::{
    AdamStep, Attended, Attention, Heads, Norm, Onto, Operand, Out, Rotation, Rows, Span, Spans,
    Turn,
};

use crate::device::{Device, Ledger, Window, WindowMut};
use std::sync::Arc;

/// The kernels for this host's CPUs and memory.
pub fn host() -> Arc<dyn Kernels> {
    Arc::new(cpu::Cpu::default())
}

/// Kernels that compute nothing and enter into `ledger` the memory that a computation would use on its device.
pub fn rehearsal(ledger: Ledger) -> Arc<dyn Kernels> {
    Arc::new(rehearsal::Rehearsal::new(ledger))
}

/// The same kernels, whose work is entered into `account` as that of a device with these peaks.
pub fn counted(kernels: Arc<dyn Kernels>, peaks: Peaks, account: Account) -> Arc<dyn Kernels> {
    Arc::new(roofline::Counted { kernels, peaks, account })
}

/// The computations of a device.
///
/// Activations, their gradients, operands of products and parameters have one type, f32 or bf16. Gradients of
/// parameters, statistics, target weights, moments and rotation tables are f32. Losses and sums of squares are f64;
/// tokens, row indices and positions are u32.
///
/// Shape letters: T rows, D features in, F features out, H query heads, K key-value heads, E features per head, V
/// vocabulary. Every matrix is row-major.
pub trait Kernels: Send + Sync {
    /// The device whose memory holds all windows that these kernels take.
    fn device(&self) -> &Device;

    /// `y = 0`.
    fn clear(&self, y: WindowMut<'_>);

    /// `y = x`, rounded to the type of `y`.
    fn copy(&self, y: WindowMut<'_>, x: Window<'_>);

    /// `y = a + b`.
    fn add(&self, y: WindowMut<'_>, a: Window<'_>, b: Window<'_>);

    /// `y += x`.
    fn add_assign(&self, y: WindowMut<'_>, x: Window<'_>);

    /// Sets every row of `y` to `row`.
    fn repeat_row(&self, y: WindowMut<'_>, row: Window<'_>);

    /// Adds every row of `x` to the single row `sum`.
    fn sum_rows(&self, sum: WindowMut<'_>, x: Window<'_>);

    /// `c = a b` or `c += a b`.
    fn gemm(&self, c: Out<'_>, a: Operand<'_>, b: Operand<'_>);

    /// Sets row `i` of `y` to row `rows[i]` of `x`.
    fn gather_rows(&self, y: WindowMut<'_>, x: Window<'_>, rows: Rows<'_>);

    /// Adds row `i` of `x` to row `rows[i] - first` of `y`, for every `i` in order; rows that `y` does not have are
    /// skipped.
    fn scatter_add_rows(&self, y: WindowMut<'_>, first: usize, x: Window<'_>, rows: Rows<'_>);

    /// `y = w x / sqrt(mean(x^2) + eps)`, for each group with as many elements as `w`.
    fn rms_norm(&self, y: WindowMut<'_>, x: Window<'_>, norm: Norm<'_>);

    /// The gradient of [`Kernels::rms_norm`] with respect to `x`. With r the inverse root and n = x r: `dx = r (w dy
    /// - n mean(w dy n))`.
    fn rms_norm_back(&self, dx: Out<'_>, dy: Window<'_>, x: Window<'_>, norm: Norm<'_>);

    /// Adds the gradient of [`Kernels::rms_norm`] with respect to `w`: `dw += sum(dy n)`.
    fn rms_norm_weight_back(&self, dw: WindowMut<'_>, dy: Window<'_>, x: Window<'_>, eps: f32);

    /// `y = silu(gate) up`.
    fn swiglu(&self, y: WindowMut<'_>, gate: Window<'_>, up: Window<'_>);

    /// The gradient of [`Kernels::swiglu`] with respect to `gate`. With s = sigmoid(gate): `dgate = dy up s (1 + gate
    /// (1 - s))`.
    fn swiglu_gate_back(&self, dgate: Out<'_>, dy: Window<'_>, gate: Window<'_>, up: Window<'_>);

    /// The gradient of [`Kernels::swiglu`] with respect to `up`: `dup = dy silu(gate)`.
    fn swiglu_up_back(&self, dup: Out<'_>, dy: Window<'_>, gate: Window<'_>);

    /// Splits rows `[T, H E]` into heads `[H, T, E]`, and applies `turn`.
    fn split_heads(&self, y: WindowMut<'_>, x: Window<'_>, heads: Heads, turn: Turn<'_>);

    /// Merges `heads` `[H, T, E]` into rows, and applies the transpose of `turn`: the transpose of
    /// [`Kernels::split_heads`]. If rows have fewer heads, `[T, H / G E]`, each is the sum of G neighbouring ones in
    /// order.
    fn merge_heads(&self, y: Out<'_>, x: Window<'_>, heads: Heads, turn: Turn<'_>);

    /// Causal attention: `o` and `q` are `[H, T, E]`, `k` and `v` `[K, T', E]`. `log_sums` `[H, T]` receives each
    /// query's log-sum-exp. Queries are already scaled. Spans ascend and do not overlap; rows outside all spans are
    /// left unchanged.
    fn attend(
        &self,
        o: WindowMut<'_>,
        log_sums: WindowMut<'_>,
        qkv: [Window<'_>; 3],
        shape: (&Attention, &Spans),
    );

    /// The gradients of [`Kernels::attend`], all `[H, T, E]`: those of the queries, and each query head's part of
    /// those of keys and values. `dy` `[H, T, E]` is the gradient of the output. In every span, keys and queries are
    /// the same rows; the gradients of rows outside all spans are unspecified.
    ///
    /// With P the probabilities and D each query's scalar product of output and gradient:
    /// `dV = P^T dO`, `dS = P (dO V^T - D)`, `dQ = dS K`, `dK = dS^T Q`.
    fn attend_back(
        &self,
        gradients: [WindowMut<'_>; 3],
        dy: Window<'_>,
        of: Attended<'_>,
        shape: (&Attention, &Spans),
    );

    /// The weighted loss of each row of logits `[T, V]`: `losses = weight (log sum exp(logits) - logits[token])`, in
    /// f64. The contents of the logits are unspecified afterwards.
    fn nll(
        &self,
        losses: WindowMut<'_>,
        logits: WindowMut<'_>,
        tokens: Window<'_>,
        weights: Window<'_>,
    );

    /// As [`Kernels::nll`], and replaces the logits with the gradient of the sum of losses: `weight (softmax -
    /// one-hot)`.
    fn nll_back(
        &self,
        losses: WindowMut<'_>,
        logits: WindowMut<'_>,
        tokens: Window<'_>,
        weights: Window<'_>,
    );

    /// Sets the single f64 of `sum` to the sum of the squares of `x`, computed in f64 and in an order that depends
    /// only on the kind of device and the length: with the same bits on every rank of a run.
    fn sum_squares(&self, sum: WindowMut<'_>, x: Window<'_>);

    /// Applies one AdamW update to parameters, first moments and second moments with the summed gradient `g`, and sets
    /// `rounded` to the new parameters, rounded to its type. The result has the same bits on every rank of a run: the
    /// order of operations is that of [`AdamStep`], without fused multiply-add.
    fn adamw(
        &self,
        state: [WindowMut<'_>; 3],
        rounded: Option<WindowMut<'_>>,
        g: Window<'_>,
        step: &AdamStep,
    );
}
