//! Supervised fine-tuning: the weighted negative log-likelihood of the trained tokens.

use crate::model::{Error, Model};
use crate::ops::{LossSum, Tape, Target};
use crate::replica::MicroBatch;
use proto::protocol::SourceSum;
use std::collections::BTreeMap;

/// The sum over a micro-batch's targets of weight times negative log-likelihood, as the start of a backward on
/// `tape`.
///
/// # Errors
/// [`Error::Ops`] for a token outside the vocabulary, or documents or targets that do not match the tokens.
pub fn loss<'p>(
    model: &'p Model,
    tape: &Tape<'p>,
    micro_batch: &MicroBatch,
) -> Result<LossSum<'p>, Error> {
    let MicroBatch { tokens, documents, targets, .. } = micro_batch;
    let hidden = model.hidden(tape, tokens, documents)?;
    Ok(tape.linear_cross_entropy(&hidden, model.head(), targets)?)
}

/// The value of the same sum, for evaluation.
///
/// # Errors
/// Those of [`loss`].
pub fn evaluate(model: &Model, micro_batch: &MicroBatch) -> Result<f64, Error> {
    let tape = Tape::inference(model.parameters());
    Ok(loss(model, &tape, micro_batch)?.value())
}

/// Sums per source over one rank's share of a step.
#[derive(Default)]
pub(in crate::replica) struct Sums(BTreeMap<u32, SourceSum>);

impl Sums {
    /// Adds a target and its loss, which is already weighted.
    pub(in crate::replica) fn add(&mut self, source: u32, target: &Target, loss: f64) {
        let sum = self.0.entry(source).or_insert(SourceSum { source, ..SourceSum::default() });
        sum.loss_sum += loss;
        sum.weight += f64::from(target.weight);
        sum.trained_tokens += 1;
    }

    pub(in crate::replica) fn into_vec(self) -> Vec<SourceSum> {
        self.0.into_values().collect()
    }
}
