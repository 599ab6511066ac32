//! The training state: everything that a checkpoint holds, and that a run would lose without one.

use super::digest::{self, Digest};
use crate::device::{Buffer, Dtype};
use crate::model::Model;
use crate::ops::ParamId;

/// A model in training, with the optimizer state. It has the same bits on every rank.
pub struct State {
    model: Model,
    /// First and second moments by parameter, in f32; empty buffers for frozen parameters.
    moments: [Vec<Buffer>; 2],
    updates: u64,
}

/// The tensors that belong to a trained parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The values of the parameter.
    Master,
    /// The first moments.
    M,
    /// The second moments.
    V,
}

impl Part {
    pub(super) const ALL: [Self; 3] = [Self::Master, Self::M, Self::V];

    /// The prefix of `/<parameter>` in the names of checkpoint tensors.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::M => "m",
            Self::V => "v",
        }
    }
}

impl State {
    /// The state of a training that begins with `model`.
    pub fn new(model: Model) -> Self {
        let parameters = model.parameters();
        let device = parameters.kernels().device();
        let zeros = |p| {
            let elements = if parameters.trainable(p) { parameters.elements(p) } else { 0 };
            device.zeros(Dtype::F32, elements)
        };
        let moments = [(); 2].map(|()| parameters.ids().map(zeros).collect());
        Self { model, moments, updates: 0 }
    }

    /// The current model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Number of updates applied, which bias correction depends on.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    pub(super) fn set_updates(&mut self, updates: u64) {
        self.updates = updates;
    }

    /// The digest of the whole state.
    pub fn digest(&self) -> Digest {
        digest::of(&self.model, self.updates, |p| self.moments.each_ref().map(|all| &all[p.0]))
    }

    /// The ids of all parameters, in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        self.model.parameters().ids()
    }

    pub(super) fn part(&self, part: Part, p: ParamId) -> &Buffer {
        match part {
            Part::Master => self.model.parameters().values(p),
            Part::M => &self.moments[0][p.0],
            Part::V => &self.moments[1][p.0],
        }
    }

    /// Rounds changed parameters to the type of operands, which must happen before the model is used again.
    pub(super) fn round(&mut self) {
        self.model.parameters_mut().round();
    }

    /// A part, for modification. [`State::round`] must follow.
    pub(super) fn part_mut(&mut self, part: Part, p: ParamId) -> &mut Buffer {
        match part {
            Part::Master => self.model.parameters_mut().values_mut(p),
            Part::M => &mut self.moments[0][p.0],
            Part::V => &mut self.moments[1][p.0],
        }
    }

    /// All parts of a parameter, in the order of [`Part::ALL`], and its rounded values if there are such, for an update
    /// that writes both.
    pub(super) fn updated(&mut self, p: ParamId) -> ([&mut Buffer; 3], Option<&mut Buffer>) {
        let [m, v] = self.moments.each_mut().map(|all| &mut all[p.0]);
        let (master, rounded) = self.model.parameters_mut().updated(p);
        ([master, m, v], rounded)
    }
}
