//! The parameters of a model, in their one order.

use super::error::{Error, Result};
use crate::device::Buffer;
use crate::kernels::Kernels;
use std::sync::Arc;

/// A parameter's place in [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);

/// The parameters of a model on one device, in f32 and ordered; some are trained, the rest is frozen.
pub struct Parameters {
    kernels: Arc<dyn Kernels>,
    list: Vec<Parameter>,
}

struct Parameter {
    name: String,
    shape: Vec<usize>,
    values: Buffer,
    trainable: bool,
}

impl Parameters {
    /// No parameters yet, to be computed with by `kernels`.
    pub fn new(kernels: Arc<dyn Kernels>) -> Self {
        Self { kernels, list: Vec::new() }
    }

    /// Appends a trainable parameter.
    ///
    /// # Panics
    /// If the shape has another number of elements than `values`.
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> ParamId {
        let name = name.into();
        assert_eq!(values.len(), shape.iter().product::<usize>(), "`{name}` of shape {shape:?}");
        let values = self.kernels.device().upload(values);
        self.list.push(Parameter { name, shape: shape.to_vec(), values, trainable: true });
        ParamId(self.list.len() - 1)
    }

    /// Gives a parameter other values, of another shape.
    ///
    /// # Panics
    /// If the shape has another number of elements than `values`.
    pub fn replace(&mut self, p: ParamId, shape: &[usize], values: Vec<f32>) {
        let parameter = &mut self.list[p.0];
        assert_eq!(
            values.len(),
            shape.iter().product::<usize>(),
            "`{}` of {shape:?}",
            parameter.name
        );
        parameter.values = self.kernels.device().upload(values);
        parameter.shape = shape.to_vec();
    }

    /// What computes with them.
    pub fn kernels(&self) -> &Arc<dyn Kernels> {
        &self.kernels
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
        &self.list[p.0].shape
    }

    /// How many elements it has.
    pub fn elements(&self, p: ParamId) -> usize {
        self.list[p.0].values.len()
    }

    /// Whether it is trained.
    pub fn trainable(&self, p: ParamId) -> bool {
        self.list[p.0].trainable
    }

    /// Trains it no longer.
    pub fn freeze(&mut self, p: ParamId) {
        self.list[p.0].trainable = false;
    }

    /// Its values.
    pub fn values(&self, p: ParamId) -> &Buffer {
        &self.list[p.0].values
    }

    /// Its values, to be changed.
    pub fn values_mut(&mut self, p: ParamId) -> &mut Buffer {
        &mut self.list[p.0].values
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
