//! The parameters of a model, in their one order.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};

use super::{
    array::Elements,
    error::{Error, Result},
};

/// A parameter's place in [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);

/// The parameters of a model: contiguous f32 tensors, ordered; some are trained, the rest is
/// frozen.
#[derive(Default)]
pub struct Parameters {
    list: Vec<Parameter>,
}

struct Parameter {
    name: String,
    tensor: Tensor,
    trainable: bool,
}

impl Parameters {
    /// No parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a parameter.
    ///
    /// # Errors
    /// [`Error::Parameter`] if the tensor is not contiguous f32 in host memory: convert it first.
    pub fn push(
        &mut self,
        name: impl Into<String>,
        tensor: Tensor,
        trainable: bool,
    ) -> Result<ParamId> {
        let name = name.into();
        if Elements::of(&tensor).is_none() {
            let got = format!("{:?} with {:?}", tensor.dtype(), tensor.layout());
            return Err(Error::Parameter { name, got });
        }
        self.list.push(Parameter { name, tensor, trainable });
        Ok(ParamId(self.list.len() - 1))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Every parameter, in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = ParamId> + ExactSizeIterator + use<> {
        (0..self.list.len()).map(ParamId)
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.list.iter().position(|p| p.name == name).map(ParamId)
    }

    /// Its name.
    pub fn name(&self, p: ParamId) -> &str {
        &self.list[p.0].name
    }

    /// Its dimensions.
    pub fn shape(&self, p: ParamId) -> &[usize] {
        self.list[p.0].tensor.dims()
    }

    /// How many elements it has.
    pub fn elements(&self, p: ParamId) -> usize {
        self.list[p.0].tensor.elem_count()
    }

    /// The tensor itself, which shares its memory with the parameter.
    pub fn tensor(&self, p: ParamId) -> &Tensor {
        &self.list[p.0].tensor
    }

    /// Whether it is trained.
    pub fn trainable(&self, p: ParamId) -> bool {
        self.list[p.0].trainable
    }

    /// Trains it no longer.
    #[cfg(test)]
    pub(crate) fn freeze(&mut self, p: ParamId) {
        self.list[p.0].trainable = false;
    }

    /// Reads its elements.
    pub fn read<R>(&self, p: ParamId, f: impl FnOnce(&[f32]) -> R) -> R {
        f(&self.elements_of(p))
    }

    /// Changes its elements in place.
    pub fn write<R>(&mut self, p: ParamId, f: impl FnOnce(&mut [f32]) -> R) -> R {
        let edit = Edit { change: Cell::new(Some(f)), result: Cell::new(None) };
        self.list[p.0].tensor.inplace_op1(&edit).expect("checked by `push`");
        edit.result.into_inner().expect("an in-place operation runs once")
    }

    pub(super) fn elements_of(&self, p: ParamId) -> Elements<'_> {
        Elements::of(&self.list[p.0].tensor).expect("checked by `push`")
    }

    /// Rows and columns of a matrix; `op` names the asker in the refusal.
    pub(super) fn matrix(&self, op: &'static str, p: ParamId) -> Result<(usize, usize)> {
        match *self.shape(p) {
            [rows, cols] => Ok((rows, cols)),
            ref got => Err(Error::Shape {
                op,
                expected: format!("`{}` to have two dimensions", self.name(p)),
                got: format!("{got:?}"),
            }),
        }
    }
}

/// One change of a tensor's elements, in the form in which candle grants write access.
struct Edit<F, R> {
    change: Cell<Option<F>>,
    result: Cell<Option<R>>,
}

impl<R, F: FnOnce(&mut [f32]) -> R> InplaceOp1 for Edit<F, R> {
    fn name(&self) -> &'static str {
        "edit"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        if let (CpuStorage::F32(data), Some((start, end)), Some(change)) =
            (storage, layout.contiguous_offsets(), self.change.take())
        {
            self.result.set(Some(change(&mut data[start..end])));
        }
        Ok(())
    }
}
