//! One rank's part of a checkpoint: copied between two steps, and stored while the following steps run.

use super::room::Reserved;
use super::shares::{ModelFile, Share, Size, shares};
use super::state::Part;
use super::{Digest, State};
use crate::device::Buffer;
use crate::model::Dtype;
use crate::ops::ParamId;
use bytes::Bytes;
use proto::manifest::Checkpoint;
use proto::tensors::head;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How the model's files are to be written.
#[derive(Clone, Copy, Debug)]
pub struct Saved {
    /// Type of the stored weights.
    pub dtype: Dtype,
    /// Maximum size of a file in bytes.
    pub file_bytes: u64,
}

/// An object to be stored.
pub struct PartFile {
    /// Key of the object, relative to the checkpoint's folder.
    pub key: String,
    /// Content of the object.
    pub body: Bytes,
    /// Names of the tensors in the object.
    pub tensors: Vec<String>,
}

/// One rank's part of the state after `step` steps, to be stored.
pub struct Snapshot {
    /// Steps committed.
    pub step: u64,
    /// The digest of the whole state, equal on every rank.
    pub digest: Digest,
    /// The objects to store, in any order.
    pub files: Vec<PartFile>,
    /// When the snapshot was taken.
    pub taken: Instant,
    /// How long training stood still for it.
    pub pause: Duration,
    /// The buffer that holds the files; freed when all of them are stored.
    pub(crate) room: Reserved,
}

/// Copies rank `rank`'s share of the parameters and of the optimizer state into `room`.
pub fn snapshot(
    state: &State,
    step: u64,
    (rank, world): (usize, usize),
    saved: Saved,
    room: Reserved,
) -> Snapshot {
    let taken = Instant::now();
    let share = shares(&sizes(state), saved.dtype, saved.file_bytes, world).swap_remove(rank);
    // A unique mark, so that a fenced process or another attempt at the same step never writes to the same keys.
    let mark = &proto::id::unique()[..12];
    let copy = Copying { state, room: &room };
    let Share { model, state: of_state } = share;
    let model = model.iter().map(|file| copy.model_file(file, saved.dtype, mark));
    let of_state = of_state.iter().enumerate().map(|(i, file)| {
        let key = format!("{}/state-r{rank}-{i:03}-{mark}.safetensors", Checkpoint::STATE);
        copy.state_file(key, file)
    });
    let files = model.chain(of_state).collect();
    room.tidy();
    let (digest, pause) = (state.digest(), Duration::ZERO);
    Snapshot { step, digest, files, taken, pause, room }
}

/// Bytes of the largest part of a checkpoint that any of `world` ranks stores, without the files' headers.
pub(super) fn largest(state: &State, saved: Saved, world: usize) -> u64 {
    let sizes = sizes(state);
    let shares = shares(&sizes, saved.dtype, saved.file_bytes, world);
    shares.iter().map(|share| share.bytes(&sizes, saved.dtype)).max().unwrap_or(0)
}

fn sizes(state: &State) -> Vec<Size> {
    let parameters = state.model().parameters();
    let size =
        |p| Size { elements: parameters.elements(p) as u64, trainable: parameters.trainable(p) };
    parameters.ids().map(size).collect()
}

/// A tensor of a file: its name, shape and values.
type Tensor<'a> = (String, Vec<usize>, &'a Buffer);

struct Copying<'a> {
    state: &'a State,
    room: &'a Reserved,
}

impl Copying<'_> {
    fn model_file(&self, file: &ModelFile, save: Dtype, mark: &str) -> PartFile {
        let parameters = self.state.model().parameters();
        let ModelFile { number, of, .. } = file;
        let key = format!("{}/model-{number:05}-of-{of:05}-{mark}.safetensors", Checkpoint::MODEL);
        let tensors = file.parameters.clone().map(ParamId).map(|p| {
            (parameters.name(p).to_owned(), parameters.shape(p).to_vec(), parameters.values(p))
        });
        self.part(key, ("format", "pt".into()), save, &tensors.collect::<Vec<_>>())
    }

    fn state_file(&self, key: String, file: &[ParamId]) -> PartFile {
        let parameters = self.state.model().parameters();
        let tensors = file.iter().flat_map(|&p| {
            Part::ALL.map(|part| {
                let name = format!("{}/{}", part.name(), parameters.name(p));
                (name, vec![parameters.elements(p)], self.state.part(part, p))
            })
        });
        let metadata = ("updates", self.state.updates().to_string());
        self.part(key, metadata, Dtype::F32, &tensors.collect::<Vec<_>>())
    }

    fn part(
        &self,
        key: String,
        (name, value): (&str, String),
        dtype: Dtype,
        tensors: &[Tensor<'_>],
    ) -> PartFile {
        let bytes = |shape: &[usize]| shape.iter().product::<usize>() * dtype.size();
        let described =
            tensors.iter().map(|(name, shape, _)| (name.clone(), dtype.into(), shape.clone()));
        let head = head(HashMap::from([(name.to_owned(), value)]), described);
        let all: usize = tensors.iter().map(|(_, shape, _)| bytes(shape)).sum();
        let body = self.room.bytes(head.len() + all, |body| {
            let (begin, mut rest) = body.split_at_mut(head.len());
            begin.copy_from_slice(&head);
            for (_, shape, values) in tensors {
                let (to, after) = rest.split_at_mut(bytes(shape));
                dtype.encode_to(&values.read(), to);
                rest = after;
            }
        });
        let tensors = tensors.iter().map(|(name, ..)| name.clone()).collect();
        PartFile { key, body, tensors }
    }
}
