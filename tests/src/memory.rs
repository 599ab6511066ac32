//! Predicted and measured memory of a rank. A measurement needs a process of its own: the kernel reports the peak of a
//! process.

use anyhow::Context;
use proto::cost::Memory;
use std::path::Path;
use worker::available;
use worker::collective::{AbortHandle, Alone};
use worker::device::{Device, Dtype};
use worker::kernels;
use worker::model::{self, Config, Model};
use worker::ops::Recompute;
use worker::replica::optimizer::AdamW;
use worker::replica::{
    BUCKET_ELEMENTS, Batch, MicroBatch, Recipe, Room, Saved, Setup, State, Trainer, snapshot,
};

/// Tokens of a document.
const LENGTH: usize = 512;

/// The settings of recomputation, by name.
pub const SETTINGS: [(&str, Recompute); 3] =
    [("off", Recompute::Off), ("light", Recompute::Light), ("on", Recompute::On)];

/// A training whose memory is measured.
pub struct Case<'a> {
    /// The model's `config.json`.
    pub config: &'a str,
    /// The type of operands and activations.
    pub dtype: Dtype,
    /// The type in which gradients are summed between ranks.
    pub reduce_dtype: Dtype,
    /// What is computed twice.
    pub recompute: Recompute,
    /// Number of ranks.
    pub world: usize,
    /// Tokens of a micro-batch.
    pub tokens: usize,
}

impl Case<'_> {
    /// Takes a step, a snapshot, and another step. Returns the predicted memory, and the peak of this process.
    ///
    /// The collective stands in for the other ranks. Parameters are zero, since a step touches the same memory
    /// whatever their values.
    ///
    /// # Errors
    /// Those of a step.
    pub fn measure(&self) -> anyhow::Result<(Memory, u64)> {
        let Self { dtype, reduce_dtype, recompute, world, .. } = *self;
        let config = Config::parse(Path::new(model::CONFIG_FILE), self.config)?;
        let recipe = Recipe {
            adamw: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 },
            weight_decay: 0.1,
            clip_norm: 1.0,
            recompute,
            reduce_dtype,
            bucket_elements: BUCKET_ELEMENTS,
        };
        let saved = Saved { dtype: model::Dtype::Bf16, file_bytes: 5_000_000_000 };
        let micro_batch =
            || MicroBatch::synthetic(self.tokens / LENGTH, LENGTH, LENGTH - 1, config.vocab_size);
        let process = available::resident()?;
        let checkpoints = Some((world, saved));
        let setup = Setup { config: &config, dtype, recipe, device: &Device::Host, checkpoints };
        let predicted = Memory { process, ..setup.memory(micro_batch())? };

        let mut model = Model::zeros(config.clone(), kernels::host());
        model.parameters_mut().set_dtype(dtype);
        let mut state = State::new(model);
        let mut trainer = Trainer::new(&state, recipe);
        let room = Room::default();
        let mut snapshots = Vec::new();
        for step in 0..2 {
            let batch = Batch::of(step, micro_batch(), 1e-5);
            trainer.step(&mut state, &mut Alone::of(world), &batch, false)?;
            if step == 0 {
                let room = room.reserve(&AbortHandle::new()).context("the room is free")?;
                snapshots.push(snapshot(&state, 1, (0, world), saved, room));
            }
        }
        Ok((predicted, available::peak()?))
    }
}
