//! Kernels that compute nothing. They take the memory that the kernels of the CPU or of a GPU take while they run.

use super::{AdamStep, Attended, Attention, Heads, Kernels, Norm, Operand, Out, Rows, Spans, Turn};
use super::{cpu, cuda};
use crate::device::{Device, Dtype, Ledger, Window, WindowMut};

/// The kernels of a rehearsal.
#[derive(Debug)]
pub(super) struct Rehearsal {
    device: Device,
    of_gpu: bool,
}

impl Rehearsal {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self { of_gpu: ledger.is_of_gpu(), device: Device::Rehearsal(ledger) }
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
        if !self.of_gpu {
            self.borrow(cpu::scratch::gemm(&a, &b));
        }
    }

    fn attend(
        &self,
        _: WindowMut<'_>,
        _: WindowMut<'_>,
        [q, k, _]: [Window<'_>; 3],
        (a, spans): (&Attention, &Spans),
    ) {
        self.borrow(if self.of_gpu {
            let rows = [q.len() / (a.heads * a.head_dim), k.len() / (a.kv_heads * a.head_dim)];
            cuda::scratch::attend(q.dtype(), a, rows)
        } else {
            cpu::scratch::attend(q.dtype(), a, k.len(), spans.list())
        });
    }

    fn attend_back(
        &self,
        _: [WindowMut<'_>; 3],
        dy: Window<'_>,
        of: Attended<'_>,
        (a, spans): (&Attention, &Spans),
    ) {
        self.borrow(if self.of_gpu {
            cuda::scratch::attend_back(dy.dtype(), a, dy.len() / (a.heads * a.head_dim))
        } else {
            cpu::scratch::attend_back(dy.dtype(), a, of.qkv[1].len(), spans.list())
        });
    }

    fn sum_rows(&self, sum: WindowMut<'_>, x: Window<'_>) {
        if self.of_gpu {
            self.borrow(cuda::scratch::sum_columns(x.len() / sum.len().max(1), sum.len()));
        }
    }

    fn rms_norm_weight_back(&self, dw: WindowMut<'_>, _: Window<'_>, x: Window<'_>, _: f32) {
        if self.of_gpu {
            let groups = x.len() / dw.len().max(1);
            let [r] = cuda::scratch::inverse_rms(groups);
            let [sums] = cuda::scratch::sum_columns(groups, dw.len());
            self.borrow([r, sums]);
        }
    }

    fn sum_squares(&self, _: WindowMut<'_>, x: Window<'_>) {
        if self.of_gpu {
            self.borrow(cuda::scratch::sum_squares(x.len()));
        }
    }

    fn clear(&self, _: WindowMut<'_>) {}
    fn copy(&self, _: WindowMut<'_>, _: Window<'_>) {}
    fn add(&self, _: WindowMut<'_>, _: Window<'_>, _: Window<'_>) {}
    fn add_assign(&self, _: WindowMut<'_>, _: Window<'_>) {}
    fn repeat_row(&self, _: WindowMut<'_>, _: Window<'_>) {}
    fn gather_rows(&self, _: WindowMut<'_>, _: Window<'_>, _: Rows<'_>) {}
    fn scatter_add_rows(&self, _: WindowMut<'_>, _: usize, _: Window<'_>, _: Rows<'_>) {}
    fn rms_norm(&self, _: WindowMut<'_>, _: Window<'_>, _: Norm<'_>) {}
    fn rms_norm_back(&self, _: Out<'_>, _: Window<'_>, _: Window<'_>, _: Norm<'_>) {}
    fn swiglu(&self, _: WindowMut<'_>, _: Window<'_>, _: Window<'_>) {}
    fn swiglu_gate_back(&self, _: Out<'_>, _: Window<'_>, _: Window<'_>, _: Window<'_>) {}
    fn swiglu_up_back(&self, _: Out<'_>, _: Window<'_>, _: Window<'_>) {}
    fn split_heads(&self, _: WindowMut<'_>, _: Window<'_>, _: Heads, _: Turn<'_>) {}
    fn merge_heads(&self, _: Out<'_>, _: Window<'_>, _: Heads, _: Turn<'_>) {}
    fn nll(&self, _: WindowMut<'_>, _: WindowMut<'_>, _: Window<'_>, _: Window<'_>) {}
    fn nll_back(&self, _: WindowMut<'_>, _: WindowMut<'_>, _: Window<'_>, _: Window<'_>) {}
    fn adamw(&self, _: [WindowMut<'_>; 3], _: Option<WindowMut<'_>>, _: Window<'_>, _: &AdamStep) {}
}
