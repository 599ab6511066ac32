//! The parameters of a model, in a fixed order.

use super::error::{Error, Result};
use crate::device::{Buffer, Dtype};
use crate::kernels::Kernels;
use std::sync::Arc;

/// A parameter's index in [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);

/// The ordered parameters of a model on one device; some are trained, the others are frozen.
///
/// Their values are f32. Operations use them as operands of one type, that of activations: f32, or bf16, for which
/// each parameter has a rounded copy.
pub struct Parameters {
    kernels: Arc<dyn Kernels>,
    dtype: Dtype,
    list: Vec<Parameter>,
}

struct Parameter {
    name: String,
    shape: Vec<usize>,
    values: Buffer,
    /// The values rounded to another type than f32; `None` if there is no other.
    rounded: Option<Buffer>,
    /// The values have changed since they were rounded.
    stale: bool,
    trainable: bool,
}

impl Parameters {
    /// An empty list of parameters for use with `kernels`.
    pub fn new(kernels: Arc<dyn Kernels>) -> Self {
        Self { kernels, dtype: Dtype::F32, list: Vec::new() }
    }

    /// Appends a trainable parameter.
    ///
    /// # Panics
    /// If the number of elements in `shape` differs from the length of `values`.
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> ParamId {
        let name = name.into();
        assert_eq!(values.len(), shape.iter().product::<usize>(), "`{name}` of shape {shape:?}");
        let values = self.kernels.device().upload(values);
        let shape = shape.to_vec();
        self.list.push(Parameter {
            name,
            shape,
            values,
            rounded: None,
            stale: true,
            trainable: true,
        });
        ParamId(self.list.len() - 1)
    }

    /// Appends a trainable parameter of zeros.
    pub fn push_zeros(&mut self, name: impl Into<String>, shape: &[usize]) -> ParamId {
        let values = self.kernels.device().zeros(Dtype::F32, shape.iter().product());
        let (name, shape) = (name.into(), shape.to_vec());
        self.list.push(Parameter {
            name,
            shape,
            values,
            rounded: None,
            stale: true,
            trainable: true,
        });
        ParamId(self.list.len() - 1)
    }

    /// Replaces a parameter's values and shape.
    ///
    /// # Panics
    /// If the number of elements in `shape` differs from the length of `values`.
    pub fn replace(&mut self, p: ParamId, shape: &[usize], values: Vec<f32>) {
        let parameter = &mut self.list[p.0];
        assert_eq!(
            values.len(),
            shape.iter().product::<usize>(),
            "`{}` of {shape:?}",
            parameter.name
        );
        parameter.values = self.kernels.device().upload(values);
        parameter.rounded = None;
        parameter.stale = true;
        parameter.shape = shape.to_vec();
    }

    /// The kernels that compute with these parameters.
    pub fn kernels(&self) -> &Arc<dyn Kernels> {
        &self.kernels
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The ids of all parameters, in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = ParamId> + ExactSizeIterator + use<> {
        (0..self.list.len()).map(ParamId)
    }

    /// The parameter with this name, if there is one.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.list.iter().position(|p| p.name == name).map(ParamId)
    }

    /// A parameter's name.
    pub fn name(&self, p: ParamId) -> &str {
        &self.list[p.0].name
    }

    /// A parameter's dimensions.
    pub fn shape(&self, p: ParamId) -> &[usize] {
        &self.list[p.0].shape
    }

    /// A parameter's number of elements.
    pub fn elements(&self, p: ParamId) -> usize {
        self.list[p.0].values.len()
    }

    /// Whether a parameter is trained.
    pub fn trainable(&self, p: ParamId) -> bool {
        self.list[p.0].trainable
    }

    /// Freezes a parameter: it is no longer trained.
    pub fn freeze(&mut self, p: ParamId) {
        self.list[p.0].trainable = false;
    }

    /// The type of operands and activations.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Sets the type of operands and activations, and rounds the values to it.
    pub fn set_dtype(&mut self, dtype: Dtype) {
        self.dtype = dtype;
        self.list
            .iter_mut()
            .for_each(|parameter| (parameter.rounded, parameter.stale) = (None, true));
        self.round();
    }

    /// A parameter's values, in f32.
    pub fn values(&self, p: ParamId) -> &Buffer {
        &self.list[p.0].values
    }

    /// A parameter's values, for modification. [`Parameters::round`] must follow before an operation uses them.
    pub fn values_mut(&mut self, p: ParamId) -> &mut Buffer {
        let parameter = &mut self.list[p.0];
        parameter.stale = true;
        &mut parameter.values
    }

    /// A parameter's values, and where an update writes them rounded to the type of operands, if that is another type.
    pub fn updated(&mut self, p: ParamId) -> (&mut Buffer, Option<&mut Buffer>) {
        let Parameter { values, rounded, .. } = &mut self.list[p.0];
        (values, rounded.as_mut())
    }

    /// Rounds all values that have changed to the type of operands.
    pub fn round(&mut self) {
        if self.dtype == Dtype::F32 {
            return;
        }
        let device = self.kernels.device();
        for Parameter { values, rounded, stale, .. } in &mut self.list {
            if std::mem::take(stale) {
                let rounded = rounded.get_or_insert_with(|| device.zeros(self.dtype, values.len()));
                self.kernels.copy(rounded.all_mut(), values.all());
            }
        }
    }

    /// A parameter as an operand.
    ///
    /// # Panics
    /// If its values have changed and were not rounded since.
    pub(super) fn operand(&self, p: ParamId) -> &Buffer {
        let Parameter { name, values, rounded, stale, .. } = &self.list[p.0];
        match rounded {
            _ if self.dtype == Dtype::F32 => values,
            Some(rounded) if !stale => rounded,
            _ => panic!("`{name}` has changed since it was rounded"),
        }
    }

    /// Number of rows and columns of a matrix; `op` is the operation to name in an error.
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
