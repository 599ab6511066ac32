//! Kernels that compute nothing. They take the memory that the CPU's kernels take while they run.

use super::cpu::scratch;
use super::{AdamStep, Attended, Attention, Heads, Kernels, Norm, Operand, Out, Rows, Span, Turn};
use crate::device::{Device, Dtype, Ledger, Window, WindowMut};

/// The kernels of a rehearsal.
#[derive(Debug)]
pub(super) struct Rehearsal {
    device: Device,
}

impl Rehearsal {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self { device: Device::Rehearsal(ledger) }
    }

    /// Takes memory, all pieces at the same time, and gives it back.
    fn borrow(&self, pieces: impl IntoIterator<Item = (Dtype, usize)>) {
        let take = |(dtype, len)| self.device.take(dtype, len);
        drop(pieces.into_iter().map(take).collect::<Vec<_>>());
    }
}

impl Kernels for Rehearsal {
    fn device(&self) -> &Device {
        &self.device
    }

    fn gemm(&self, _: Out<'_>, a: Operand<'_>, b: Operand<'_>) {
        self.borrow(scratch::gemm(&a, &b));
    }

    fn attend(
        &self,
        _: WindowMut<'_>,
        _: WindowMut<'_>,
        [q, k, _]: [Window<'_>; 3],
        (a, spans): (&Attention, &[Span]),
    ) {
        self.borrow(scratch::attend(q.dtype(), a, k.len(), spans));
    }

    fn attend_back(
        &self,
        _: [WindowMut<'_>; 3],
        dy: Window<'_>,
        of: Attended<'_>,
        (a, spans): (&Attention, &[Span]),
    ) {
        self.borrow(scratch::attend_back(dy.dtype(), a, of.qkv[1].len(), spans));
    }

    fn clear(&self, _: WindowMut<'_>) {}
    fn copy(&self, _: WindowMut<'_>, _: Window<'_>) {}
    fn add(&self, _: WindowMut<'_>, _: Window<'_>, _: Window<'_>) {}
    fn add_assign(&self, _: WindowMut<'_>, _: Window<'_>) {}
    fn repeat_row(&self, _: WindowMut<'_>, _: Window<'_>) {}
    fn sum_rows(&self, _: WindowMut<'_>, _: Window<'_>) {}
    fn gather_rows(&self, _: WindowMut<'_>, _: Window<'_>, _: Rows<'_>) {}
    fn scatter_add_rows(&self, _: WindowMut<'_>, _: usize, _: Window<'_>, _: Rows<'_>) {}
    fn rms_norm(&self, _: WindowMut<'_>, _: Window<'_>, _: Norm<'_>) {}
    fn rms_norm_back(&self, _: Out<'_>, _: Window<'_>, _: Window<'_>, _: Norm<'_>) {}
    fn rms_norm_weight_back(&self, _: WindowMut<'_>, _: Window<'_>, _: Window<'_>, _: f32) {}
    fn swiglu(&self, _: WindowMut<'_>, _: Window<'_>, _: Window<'_>) {}
    fn swiglu_gate_back(&self, _: Out<'_>, _: Window<'_>, _: Window<'_>, _: Window<'_>) {}
    fn swiglu_up_back(&self, _: Out<'_>, _: Window<'_>, _: Window<'_>) {}
    fn split_heads(&self, _: WindowMut<'_>, _: Window<'_>, _: Heads, _: Turn<'_>) {}
    fn merge_heads(&self, _: Out<'_>, _: Window<'_>, _: Heads, _: Turn<'_>) {}
    fn nll(&self, _: WindowMut<'_>, _: WindowMut<'_>, _: Window<'_>, _: Window<'_>) {}
    fn nll_back(&self, _: WindowMut<'_>, _: WindowMut<'_>, _: Window<'_>, _: Window<'_>) {}
    fn sum_squares(&self, _: WindowMut<'_>, _: Window<'_>) {}
    fn adamw(&self, _: [WindowMut<'_>; 3], _: Window<'_>, _: &AdamStep) {}
}
