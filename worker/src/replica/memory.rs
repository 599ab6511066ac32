//! The memory of a rank in training, by part: a rehearsal takes one step of the run with kernels that only count.
//!
//! What is not counted: the system takes memory in pages, of 2 MiB where it has transparent huge pages, and so the
//! peak of a process is above the prediction, by 4 to 7 % for models of 135 to 494 million parameters. Without huge
//! pages, which make a step a tenth faster, it is 2 to 3 % above.

use super::snapshot::{self, Saved};
use super::{Batch, Error, MicroBatch, Recipe, State, Trainer};
use crate::collective::Alone;
use crate::device::{Device, Dtype};
use crate::kernels;
use crate::model::{Config, Model};
use proto::cost::Memory;

/// What the memory of a rank depends on.
pub struct Setup<'a> {
    /// The model.
    pub config: &'a Config,
    /// The type of operands and activations.
    pub dtype: Dtype,
    /// How the optimizer updates the model, and what is computed twice.
    pub recipe: Recipe,
    /// The device whose memory is counted.
    pub device: &'a Device,
    /// Number of ranks, and how checkpoints are stored; `None` without checkpoints.
    pub checkpoints: Option<(usize, Saved)>,
}

impl Setup<'_> {
    /// Predicts the memory of a rank that trains on micro-batches like this one, with as many threads as the current
    /// rayon pool. The program itself is not counted.
    ///
    /// # Errors
    /// Those of a step with this micro-batch.
    pub fn memory(&self, micro_batch: MicroBatch) -> Result<Memory, Error> {
        let ledger = self.device.ledger();
        let held = || ledger.bytes() as u64;
        let mut model = Model::zeros(self.config.clone(), kernels::rehearsal(ledger.clone()));
        let parameters = held();
        model.parameters_mut().set_dtype(self.dtype);
        let rounded = held() - parameters;
        let mut state = State::new(model);
        let moments = held() - parameters - rounded;

        let mut trainer = Trainer::new(&state, self.recipe);
        let gradients = trainer.gradient_bytes();
        let batch = Batch::of(0, micro_batch, 0.0);
        trainer.step(&mut state, &mut Alone::of(1), &batch, false)?;
        let activations = ledger.peak() as u64 - parameters - rounded - moments - gradients;
        let snapshot = match self.checkpoints {
            Some((world, saved)) => snapshot::largest(&state, saved, world),
            None => 0,
        };
        Ok(Memory { process: 0, parameters, rounded, moments, gradients, activations, snapshot })
    }
}
