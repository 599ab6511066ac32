//! The roofline of a computation (Williams, Waterman and Patterson 2009): a kernel takes at least as long as its
//! arithmetic, or as its memory traffic, whichever is longer.
//!
//! Counted are the multiplications and additions of matrix products, and the bytes of all operands and results, each
//! once, as if the caches kept nothing from one kernel to the next. An attention adds its scores, which pass through
//! memory. What launching costs, and gradients' way to other ranks, is not counted.

use super::{
    AdamStep, Attended, Attention, Heads, Kernels, Norm, Onto, Operand, Out, Rows, Spans, Turn,
};
use crate::device::{Device, Dtype, Window, WindowMut};
use std::sync::{Arc, Mutex, PoisonError};

/// What a device can do at most, per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Floating-point operations in f32.
    pub f32_flops: f64,
    /// Floating-point operations on bf16 operands with sums in f32.
    pub bf16_flops: f64,
    /// Bytes between the device and its memory.
    pub bandwidth: f64,
}

impl Peaks {
    /// Floating-point operations per second with operands of this type.
    pub fn flops(&self, dtype: Dtype) -> f64 {
        if dtype == Dtype::Bf16 { self.bf16_flops } else { self.f32_flops }
    }
}

/// The least work of a computation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Calls of kernels.
    pub calls: u64,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes between the device and its memory.
    pub bytes: f64,
    /// The time of all kernels, one after another.
    pub seconds: f64,
}

/// An account of work. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Account(Arc<Mutex<Work>>);

impl Account {
    /// The work so far.
    pub fn work(&self) -> Work {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kernels whose work is entered into an account.
pub(super) struct Counted {
    pub(super) kernels: Arc<dyn Kernels>,
    pub(super) peaks: Peaks,
    pub(super) account: Account,
}

/// A window's bytes.
fn bytes(x: Window<'_>) -> f64 {
    (x.len() * x.dtype().size()) as f64
}

/// The bytes of a result that is written; one that is added to is read, too.
fn bytes_of(out: &Out<'_>) -> f64 {
    let passes = if out.onto == Onto::Sum { 2. } else { 1. };
    passes * bytes(out.to.shared())
}

fn sum<const N: usize>(windows: [Window<'_>; N]) -> f64 {
    windows.into_iter().map(bytes).sum()
}

/// The pairs of a query and a key that it sees, over all heads.
fn pairs(a: &Attention, spans: &Spans, rows: usize) -> f64 {
    let seen: usize = (0..rows).map(|row| spans.seen(row, a.window).len()).sum();
    (a.heads * seen) as f64
}

impl Counted {
    /// Enters a call without products.
    fn moves(&self, bytes: f64) {
        self.enter(0., bytes, Dtype::F32);
    }

    /// Enters a call with products of operands of this type.
    fn enter(&self, flops: f64, bytes: f64, dtype: Dtype) {
        let mut work = self.account.0.lock().unwrap_or_else(PoisonError::into_inner);
        work.calls += 1;
        work.flops += flops;
        work.bytes += bytes;
        work.seconds += (flops / self.peaks.flops(dtype)).max(bytes / self.peaks.bandwidth);
    }
}

impl Kernels for Counted {
    fn device(&self) -> &Device {
        self.kernels.device()
    }

    fn clear(&self, y: WindowMut<'_>) {
        self.moves(bytes(y.shared()));
        self.kernels.clear(y);
    }

    fn copy(&self, y: WindowMut<'_>, x: Window<'_>) {
        self.moves(sum([y.shared(), x]));
        self.kernels.copy(y, x);
    }

    fn add(&self, y: WindowMut<'_>, a: Window<'_>, b: Window<'_>) {
        self.moves(sum([y.shared(), a, b]));
        self.kernels.add(y, a, b);
    }

    fn add_assign(&self, y: WindowMut<'_>, x: Window<'_>) {
        self.moves(sum([y.shared(), y.shared(), x]));
        self.kernels.add_assign(y, x);
    }

    fn repeat_row(&self, y: WindowMut<'_>, row: Window<'_>) {
        self.moves(sum([y.shared(), row]));
        self.kernels.repeat_row(y, row);
    }

    fn sum_rows(&self, to: WindowMut<'_>, x: Window<'_>) {
        self.moves(sum([to.shared(), x]));
        self.kernels.sum_rows(to, x);
    }

    fn gemm(&self, c: Out<'_>, a: Operand<'_>, b: Operand<'_>) {
        let size = |x: &Operand<'_>| (x.rows * x.cols * x.window.dtype().size()) as f64;
        let flops = 2. * (a.rows * a.cols * b.cols) as f64;
        self.enter(flops, bytes_of(&c) + size(&a) + size(&b), a.window.dtype());
        self.kernels.gemm(c, a, b);
    }

    fn gather_rows(&self, y: WindowMut<'_>, x: Window<'_>, rows: Rows<'_>) {
        self.moves(sum([y.shared(), y.shared(), rows.indices]));
        self.kernels.gather_rows(y, x, rows);
    }

    fn scatter_add_rows(&self, y: WindowMut<'_>, first: usize, x: Window<'_>, rows: Rows<'_>) {
        // Rows of `y` are read and written, as many as `x` has.
        let added = 2. * (x.len() * y.shared().dtype().size()) as f64;
        self.moves(added + sum([x, rows.indices]));
        self.kernels.scatter_add_rows(y, first, x, rows);
    }

    fn rms_norm(&self, y: WindowMut<'_>, x: Window<'_>, norm: Norm<'_>) {
        self.moves(sum([y.shared(), x, norm.w]));
        self.kernels.rms_norm(y, x, norm);
    }

    fn rms_norm_back(&self, dx: Out<'_>, dy: Window<'_>, x: Window<'_>, norm: Norm<'_>) {
        self.moves(bytes_of(&dx) + sum([dy, x, norm.w]));
        self.kernels.rms_norm_back(dx, dy, x, norm);
    }

    fn rms_norm_weight_back(&self, dw: WindowMut<'_>, dy: Window<'_>, x: Window<'_>, eps: f32) {
        self.moves(sum([dw.shared(), dy, x]));
        self.kernels.rms_norm_weight_back(dw, dy, x, eps);
    }

    fn swiglu(&self, y: WindowMut<'_>, gate: Window<'_>, up: Window<'_>) {
        self.moves(sum([y.shared(), gate, up]));
        self.kernels.swiglu(y, gate, up);
    }

    fn swiglu_gate_back(&self, dgate: Out<'_>, dy: Window<'_>, gate: Window<'_>, up: Window<'_>) {
        self.moves(bytes_of(&dgate) + sum([dy, gate, up]));
        self.kernels.swiglu_gate_back(dgate, dy, gate, up);
    }

    fn swiglu_up_back(&self, dup: Out<'_>, dy: Window<'_>, gate: Window<'_>) {
        self.moves(bytes_of(&dup) + sum([dy, gate]));
        self.kernels.swiglu_up_back(dup, dy, gate);
    }

    fn split_heads(&self, y: WindowMut<'_>, x: Window<'_>, heads: Heads, turn: Turn<'_>) {
        self.moves(sum([y.shared(), x]));
        self.kernels.split_heads(y, x, heads, turn);
    }

    fn merge_heads(&self, y: Out<'_>, x: Window<'_>, heads: Heads, turn: Turn<'_>) {
        self.moves(bytes_of(&y) + bytes(x));
        self.kernels.merge_heads(y, x, heads, turn);
    }

    /// Two products; scores are written and read in f32, and the probabilities in the type of the operands.
    fn attend(
        &self,
        o: WindowMut<'_>,
        log_sums: WindowMut<'_>,
        qkv: [Window<'_>; 3],
        shape: (&Attention, &Spans),
    ) {
        let (a, spans) = shape;
        let (dtype, rows) = (qkv[0].dtype(), log_sums.len() / a.heads);
        let pairs = pairs(a, spans, rows);
        let scores = pairs * 2. * (4 + dtype.size()) as f64;
        let operands = sum(qkv) + sum([o.shared(), log_sums.shared()]);
        self.enter(4. * pairs * a.head_dim as f64, operands + scores, dtype);
        self.kernels.attend(o, log_sums, qkv, shape);
    }

    /// Five products; scores and their gradients are written and read in f32, and then both in the type of the
    /// operands, the gradients twice.
    fn attend_back(
        &self,
        gradients: [WindowMut<'_>; 3],
        dy: Window<'_>,
        of: Attended<'_>,
        shape: (&Attention, &Spans),
    ) {
        let (a, spans) = shape;
        let (dtype, rows) = (dy.dtype(), of.log_sums.len() / a.heads);
        let pairs = pairs(a, spans, rows);
        let scores = pairs * (16 + 5 * dtype.size()) as f64;
        let results: f64 = gradients.iter().map(|gradient| bytes(gradient.shared())).sum();
        let operands = sum(of.qkv) + sum([of.y, of.log_sums, dy]);
        self.enter(10. * pairs * a.head_dim as f64, results + operands + scores, dtype);
        self.kernels.attend_back(gradients, dy, of, shape);
    }

    fn nll(
        &self,
        losses: WindowMut<'_>,
        logits: WindowMut<'_>,
        tokens: Window<'_>,
        weights: Window<'_>,
    ) {
        self.moves(sum([losses.shared(), logits.shared(), tokens, weights]));
        self.kernels.nll(losses, logits, tokens, weights);
    }

    fn nll_back(
        &self,
        losses: WindowMut<'_>,
        logits: WindowMut<'_>,
        tokens: Window<'_>,
        weights: Window<'_>,
    ) {
        self.moves(sum([losses.shared(), logits.shared(), logits.shared(), tokens, weights]));
        self.kernels.nll_back(losses, logits, tokens, weights);
    }

    fn sum_squares(&self, to: WindowMut<'_>, x: Window<'_>) {
        self.moves(sum([to.shared(), x]));
        self.kernels.sum_squares(to, x);
    }

    fn adamw(
        &self,
        state: [WindowMut<'_>; 3],
        rounded: Option<WindowMut<'_>>,
        g: Window<'_>,
        step: &AdamStep,
    ) {
        let read_and_written: f64 = state.iter().map(|part| 2. * bytes(part.shared())).sum();
        let written = rounded.as_ref().map_or(0., |rounded| bytes(rounded.shared()));
        self.moves(read_and_written + written + bytes(g));
        self.kernels.adamw(state, rounded, g, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;

    #[test]
    fn a_kernel_takes_the_longer_of_its_arithmetic_and_its_traffic() {
        let account = Account::default();
        // Ten operations in the time of one byte.
        let peaks = Peaks { f32_flops: 10., bf16_flops: 20., bandwidth: 1. };
        let kernels = kernels::counted(kernels::host(), peaks, account.clone());
        let device = kernels.device().clone();
        let [a, b] = [device.zeros(Dtype::F32, 6), device.zeros(Dtype::F32, 600)];
        let mut c = device.zeros(Dtype::F32, 400);
        // [2, 3] x [3, 200]: 2400 operations on 6, 600 and 400 elements.
        let product = |c: &mut crate::device::Buffer, onto| {
            let to = Out { to: c.all_mut(), onto };
            kernels.gemm(to, Operand::new(a.all(), 2, 3), Operand::new(b.all(), 3, 200));
        };
        product(&mut c, Onto::Fresh);
        let first = account.work();
        assert_eq!((first.calls, first.flops, first.bytes), (1, 2400., 4024.));
        assert_eq!(first.seconds, 4024.);
        product(&mut c, Onto::Sum);
        assert_eq!(account.work().bytes - first.bytes, 5624.);
        // AdamW reads and writes three parts, and reads the gradient.
        let mut state = [0; 3].map(|_| device.zeros(Dtype::F32, 6));
        let step = AdamStep {
            gradient_scale: 1.,
            new1: 0.1,
            beta2: 0.9,
            new2: 0.1,
            keep: 1.,
            rate: 0.,
            root: 1.,
            eps: 1.,
        };
        let before = account.work();
        let [p, m, v] = &mut state;
        kernels.adamw([p.all_mut(), m.all_mut(), v.all_mut()], None, a.window(0..6), &step);
        assert_eq!(account.work().bytes - before.bytes, 168.);
    }
}
