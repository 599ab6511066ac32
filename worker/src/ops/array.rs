//! A matrix on a tape: one candle tensor with one owner.

use std::{cell::RefCell, ops::Deref};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, StorageRef, Tensor};

use super::{error::Result, pool};

/// An f32 matrix `[rows, cols]` whose memory goes back to the pool when it dies.
///
/// The tensor never leaves this type (readers get slices or copies), so nobody can hold it when its
/// memory goes.
pub(super) struct Array {
    tensor: Tensor,
    rows: usize,
    cols: usize,
}

impl Array {
    /// A matrix of the elements of `data`, row by row.
    pub(super) fn new(data: Vec<f32>, rows: usize, cols: usize) -> Result<Self> {
        Ok(Self { tensor: Tensor::from_vec(data, (rows, cols), &Device::Cpu)?, rows, cols })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows * self.cols * size_of::<f32>()
    }

    /// The elements, row by row.
    pub(super) fn read(&self) -> Elements<'_> {
        Elements::of(&self.tensor).expect("an array is contiguous f32 in host memory")
    }

    /// The elements, moved out.
    pub(super) fn into_vec(mut self) -> Vec<f32> {
        self.steal()
    }

    fn steal(&mut self) -> Vec<f32> {
        let steal = Steal::default();
        self.tensor.inplace_op1(&steal).expect("an array is contiguous f32 in host memory");
        steal.0.into_inner()
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        pool::give(self.steal());
    }
}

/// Read access to the elements of a contiguous f32 tensor in host memory.
pub(super) struct Elements<'a> {
    storage: StorageRef<'a>,
    start: usize,
    end: usize,
}

impl<'a> Elements<'a> {
    /// `None` if the tensor is of another kind.
    pub(super) fn of(tensor: &'a Tensor) -> Option<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let (start, end) = layout.contiguous_offsets()?;
        matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))).then_some(Self {
            storage,
            start,
            end,
        })
    }
}

impl Deref for Elements<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[self.start..self.end],
            _ => unreachable!("checked when the access was granted"),
        }
    }
}

/// Takes the memory out of a tensor that nobody else holds.
#[derive(Default)]
struct Steal(RefCell<Vec<f32>>);

impl InplaceOp1 for Steal {
    fn name(&self) -> &'static str {
        "steal"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        if let CpuStorage::F32(data) = storage {
            self.0.swap(&RefCell::new(std::mem::take(data)));
        }
        Ok(())
    }
}
