//! Errors that prevent a training from beginning or a step from being committed.

use super::divergence::Divergence;
use crate::device::cuda;
use crate::{collective, model, ops};
use thiserror::Error;

/// Why a training could not begin or a step was not committed.
#[derive(Debug, Error)]
pub enum Error {
    /// The ranks hold different states, or not the recorded one.
    #[error(transparent)]
    Diverged(#[from] Divergence),
    /// A peer was lost, or the collective was aborted.
    #[error(transparent)]
    Collective(#[from] collective::Error),
    /// The model refused the batch.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// An operation refused its operands.
    #[error(transparent)]
    Ops(#[from] ops::Error),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] cuda::Error),
    /// The ranks use different plans or different data.
    #[error("step {step}: the ranks' weights add up to {got}, but the plan says {planned}")]
    Plan {
        /// The step.
        step: u64,
        /// The sum of the ranks' weights.
        got: f64,
        /// The total weight according to the plan.
        planned: f64,
    },
    /// The gradient was not finite in several steps in a row.
    #[error(
        "the gradient was not finite in {0} steps in a row\n\
         hint: lower `train.learning_rate`, or look at the samples that the receipt names"
    )]
    NonFinite(u32),
}
