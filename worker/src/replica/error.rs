//! Why a training does not begin, or a step was not committed.

use super::divergence::Divergence;
use crate::{collective, model, ops};
use thiserror::Error;

/// Why a training does not begin, or a step was not committed.
#[derive(Debug, Error)]
pub enum Error {
    /// The ranks do not begin with the same state, or not with the one that was recorded.
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
    /// The ranks do not see the same plan or the same data.
    #[error("step {step}: the ranks' weights add up to {got}, the plan says {planned}")]
    Plan {
        /// The step.
        step: u64,
        /// What the ranks had.
        got: f64,
        /// What the plan has.
        planned: f64,
    },
    /// Three steps in a row had no finite gradient.
    #[error(
        "the gradient was not finite in {0} steps in a row\n\
         hint: lower `train.learning_rate`, or look at the samples that the receipt names"
    )]
    NonFinite(u32),
}
