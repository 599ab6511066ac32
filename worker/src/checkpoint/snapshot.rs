//! One rank's part of a checkpoint: copied between two steps, stored while the next ones run.

use super::layout::{ModelFile, Share, Size, shares};
use super::room::Reserved;
use crate::model::Dtype;
use crate::ops::ParamId;
use crate::train::Trainer;
use bytes::Bytes;
use proto::manifest::Checkpoint;
use proto::tensors::{Described, head};
use std::collections::HashMap;

/// The model's files, as they are to be written.
#[derive(Clone, Copy, Debug)]
pub struct Saved {
    /// Of the weights.
    pub dtype: Dtype,
    /// The most that one file holds.
    pub file_bytes: u64,
}

/// An object to be stored.
pub struct PartFile {
    /// Relative to the checkpoint's folder.
    pub key: String,
    /// Its content, in pieces.
    pub body: Vec<Bytes>,
    /// The tensors in it.
    pub tensors: Vec<String>,
}

/// What one rank stores of the state after `step` steps.
pub struct Snapshot {
    /// Steps committed.
    pub step: u64,
    /// In any order.
    pub files: Vec<PartFile>,
    /// Given back when all is stored.
    _room: Reserved,
}

/// Copies rank `rank`'s share of the parameters and of the optimizer's state into `room`.
pub fn snapshot(
    trainer: &Trainer,
    step: u64,
    (rank, world): (usize, usize),
    saved: Saved,
    room: Reserved,
) -> Snapshot {
    let parameters = trainer.model.parameters();
    let size =
        |p| Size { elements: parameters.elements(p) as u64, trainable: parameters.trainable(p) };
    let sizes: Vec<_> = parameters.ids().map(size).collect();
    let Share { model, state } =
        shares(&sizes, saved.dtype, saved.file_bytes, world).swap_remove(rank);
    // A fenced process, or another attempt at the same step, never writes to the same keys.
    let mark = &proto::id::unique()[..12];
    let model = model.iter().map(|file| model_file(trainer, file, saved.dtype, mark));
    let state = state.iter().enumerate().map(|(i, file)| {
        let key = format!("{}/state-r{rank}-{i:03}-{mark}.safetensors", Checkpoint::STATE);
        state_file(trainer, key, file)
    });
    Snapshot { step, files: model.chain(state).collect(), _room: room }
}

fn model_file(trainer: &Trainer, file: &ModelFile, save: Dtype, mark: &str) -> PartFile {
    let parameters = trainer.model.parameters();
    let ModelFile { number, of, .. } = file;
    let key = format!("{}/model-{number:05}-of-{of:05}-{mark}.safetensors", Checkpoint::MODEL);
    let tensors = file.parameters.clone().map(ParamId).map(|p| {
        let described = (parameters.name(p).to_owned(), save.into(), parameters.shape(p).to_vec());
        (described, parameters.read(p, |w| save.encode(w)))
    });
    part(key, ("format", "pt".into()), tensors)
}

fn state_file(trainer: &Trainer, key: String, file: &[ParamId]) -> PartFile {
    let parameters = trainer.model.parameters();
    let tensors = file.iter().flat_map(|&p| {
        let tensor = move |kind: &str, bytes: Vec<u8>| {
            let name = format!("{kind}/{}", parameters.name(p));
            ((name, Dtype::F32.into(), vec![parameters.elements(p)]), bytes)
        };
        let master = tensor("master", parameters.read(p, |w| Dtype::F32.encode(w)));
        let moments = parameters.trainable(p).then(|| {
            [("m", &trainer.m[p.0]), ("v", &trainer.v[p.0])]
                .map(|(kind, values)| tensor(kind, Dtype::F32.encode(values)))
        });
        std::iter::once(master).chain(moments.into_iter().flatten())
    });
    part(key, ("updates", trainer.updates.to_string()), tensors)
}

fn part(
    key: String,
    (name, value): (&str, String),
    tensors: impl Iterator<Item = (Described, Vec<u8>)>,
) -> PartFile {
    let (described, bodies): (Vec<_>, Vec<_>) = tensors.unzip();
    let names = described.iter().map(|(name, ..)| name.clone()).collect();
    let head = head(HashMap::from([(name.to_owned(), value)]), described.into_iter());
    let body = std::iter::once(head).chain(bodies).map(Bytes::from).collect();
    PartFile { key, body, tensors: names }
}
