//! The matrix behind a value on a tape.

use crate::device::{Buffer, Device, Dtype, Window};
use crate::kernels::{Onto, Out};

/// A matrix `[rows, cols]` in a device's memory.
pub(super) struct Array {
    buffer: Buffer,
    rows: usize,
    cols: usize,
}

impl Array {
    /// A matrix of the elements of `buffer`, in row-major order.
    pub(super) fn new(buffer: Buffer, rows: usize, cols: usize) -> Self {
        assert_eq!(buffer.len(), rows * cols, "a matrix of {rows} x {cols}");
        Self { buffer, rows, cols }
    }

    /// A matrix of unspecified elements: each must be written before it is read.
    pub(super) fn take(device: &Device, dtype: Dtype, rows: usize, cols: usize) -> Self {
        Self::new(device.take(dtype, rows * cols), rows, cols)
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.buffer.dtype()
    }

    pub(super) fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    pub(super) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The elements, in row-major order.
    pub(super) fn all(&self) -> Window<'_> {
        self.buffer.all()
    }

    /// The elements, to be overwritten or added to.
    pub(super) fn out(&mut self, onto: Onto) -> Out<'_> {
        Out { to: self.buffer.all_mut(), onto }
    }
}
