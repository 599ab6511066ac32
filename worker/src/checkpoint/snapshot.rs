//! One rank's part of a checkpoint.

use crate::model::Dtype;
use crate::train::Trainer;
use proto::manifest::Checkpoint;
use safetensors::tensor::{Dtype as Stored, TensorView, serialize};
use std::collections::HashMap;

/// An object to be stored.
pub struct PartFile {
    /// Relative to the checkpoint's folder.
    pub key: String,
    /// Its content.
    pub body: Vec<u8>,
    /// The tensors in a model file.
    pub tensors: Vec<String>,
}

/// What one rank stores of the state after `step` steps.
pub struct Snapshot {
    /// Steps committed.
    pub step: u64,
    /// In any order.
    pub files: Vec<PartFile>,
}

/// Copies this rank's share of the parameters and of the optimizer's state.
pub fn snapshot(trainer: &Trainer, step: u64, rank: usize, world: usize, save: Dtype) -> Snapshot {
    let parameters = trainer.model.parameters();
    let owners =
        owners(&parameters.ids().map(|p| parameters.elements(p)).collect::<Vec<_>>(), world);
    let mine: Vec<_> = trainer.ids().filter(|p| owners[p.0] == rank).collect();
    if mine.is_empty() {
        return Snapshot { step, files: Vec::new() };
    }
    let mark = &proto::id::unique()[..12];
    let mut model = Vec::new();
    let mut state = Vec::new();
    for p in mine {
        let (name, shape) = (parameters.name(p), parameters.shape(p));
        let saved = parameters.read(p, |w| save.encode(w));
        model.push((name.to_owned(), shape.to_vec(), stored(save), saved));
        let flat = vec![parameters.elements(p)];
        let mut push = |kind: &str, bytes: Vec<u8>| {
            state.push((format!("{kind}/{name}"), flat.clone(), Stored::F32, bytes));
        };
        push("master", parameters.read(p, |w| Dtype::F32.encode(w)));
        if parameters.trainable(p) {
            push("m", Dtype::F32.encode(&trainer.m[p.0]));
            push("v", Dtype::F32.encode(&trainer.v[p.0]));
        }
    }
    let tensors = model.iter().map(|(name, ..)| name.clone()).collect();
    let updates = [("updates".to_owned(), trainer.updates.to_string())];
    let format = [("format".to_owned(), "pt".to_owned())];
    let model = PartFile {
        key: format!("{}/model-r{rank}-{mark}.safetensors", Checkpoint::MODEL),
        body: file(model, format.into()),
        tensors,
    };
    let state = PartFile {
        key: format!("{}/state-r{rank}-{mark}.safetensors", Checkpoint::STATE),
        body: file(state, updates.into()),
        tensors: Vec::new(),
    };
    Snapshot { step, files: vec![model, state] }
}

type Tensor = (String, Vec<usize>, Stored, Vec<u8>);

fn file(tensors: Vec<Tensor>, metadata: HashMap<String, String>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, shape, dtype, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (name.as_str(), view.expect("the bytes were encoded from these elements"))
    });
    serialize(views, Some(metadata)).expect("names are unique")
}

fn stored(dtype: Dtype) -> Stored {
    match dtype {
        Dtype::F32 => Stored::F32,
        Dtype::F16 => Stored::F16,
        Dtype::Bf16 => Stored::BF16,
    }
}

/// Which rank stores which parameter: the largest first, each to the rank with the least so far.
fn owners(elements: &[usize], world: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..elements.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(elements[*i]), *i));
    let mut load = vec![0usize; world];
    let mut owners = vec![0; elements.len()];
    for i in order {
        let rank = (0..world).min_by_key(|r| (load[*r], *r)).expect("a world has ranks");
        load[rank] += elements[i];
        owners[i] = rank;
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_has_one_owner_and_loads_are_even() {
        assert_eq!(owners(&[10, 1, 9, 2, 8], 2), [0, 0, 1, 0, 1]);
        assert_eq!(owners(&[5, 5], 4), [0, 1]);
    }
}
