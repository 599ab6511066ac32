//! From a checkpoint's state files back to a training: every file is read and verified by one rank, which then tells
//! the others what is in it.

use crate::collective::{self, Collective};
use crate::model::Dtype;
use crate::train::Trainer;
use bytes::Bytes;
use proto::manifest::File;
use proto::plan::share;
use safetensors::SafeTensors;
use std::collections::HashMap;
use thiserror::Error;

/// Why a checkpoint cannot be restored.
#[derive(Debug, Error)]
pub enum Error {
    /// Not a state file.
    #[error("`{key}` is not a state file: {reason}")]
    Format {
        /// The object.
        key: String,
        /// Why.
        reason: String,
    },
    /// It belongs to another model.
    #[error("`{key}` holds `{tensor}` with {got} elements, the model has {expected}")]
    Shape {
        /// The object.
        key: String,
        /// The tensor.
        tensor: String,
        /// Elements in the file.
        got: usize,
        /// Elements in the model.
        expected: usize,
    },
    /// Something was not saved.
    #[error("the checkpoint lacks `{0}`")]
    Missing(String),
    /// A peer was lost meanwhile.
    #[error(transparent)]
    Collective(#[from] collective::Error),
}

/// The state files that rank `rank` of `world` reads.
pub fn share_of(state: &[File], rank: usize, world: usize) -> Vec<usize> {
    owners(state, world)
        .into_iter()
        .enumerate()
        .filter(|(_, r)| *r == rank)
        .map(|(i, _)| i)
        .collect()
}

/// Which rank reads which file: a function of the manifest and the world size.
fn owners(state: &[File], world: usize) -> Vec<usize> {
    let bytes: Vec<_> = state.iter().map(|f| f.bytes).collect();
    let mut owners = vec![0; state.len()];
    for (rank, files) in share(&bytes, world).into_iter().enumerate() {
        files.into_iter().for_each(|i| owners[i] = rank);
    }
    owners
}

/// Brings `trainer` to the state that the manifest's `state` files describe; `mine` gives those of this rank, by their
/// place among them and verified.
///
/// # Errors
/// If a file is not a state file of this model, or something is missing; whatever `mine` says; `trainer` must then not
/// be used.
pub fn restore<E: From<Error>>(
    trainer: &mut Trainer,
    collective: &mut dyn Collective,
    state: &[File],
    mine: impl IntoIterator<Item = Result<(usize, Bytes), E>>,
) -> Result<(), E> {
    let owners = owners(state, collective.world_size());
    let tensors =
        || state.iter().zip(&owners).flat_map(|(f, r)| f.tensors.iter().map(move |t| (t, r)));
    let roots: HashMap<&str, usize> = tensors().map(|(t, r)| (t.as_str(), *r)).collect();
    let mut updates = 0;
    for file in mine {
        let (index, body) = file?;
        updates = place(trainer, &state[index], &body)?;
    }
    broadcast(trainer, collective, &roots)?;
    // Of the first file, whose reader is the same for everybody.
    let reads_first = owners.first() == Some(&collective.rank());
    let mut first = [if reads_first { updates as f64 } else { 0.0 }];
    collective.control(&mut first).map_err(Error::from)?;
    trainer.updates = first[0] as u64;
    Ok(())
}

/// Every rank receives what others have read.
fn broadcast(
    trainer: &mut Trainer,
    collective: &mut dyn Collective,
    roots: &HashMap<&str, usize>,
) -> Result<(), Error> {
    for p in trainer.ids() {
        let parameters = trainer.model.parameters();
        let trainable = parameters.trainable(p);
        let name = parameters.name(p).to_owned();
        let root = |kind: &str| {
            let tensor = format!("{kind}/{name}");
            roots.get(tensor.as_str()).copied().ok_or(Error::Missing(tensor))
        };
        let from = root("master")?;
        trainer.model.parameters_mut().write(p, |w| collective.broadcast(from, w))?;
        if trainable {
            collective.broadcast(root("m")?, &mut trainer.m[p.0])?;
            collective.broadcast(root("v")?, &mut trainer.v[p.0])?;
        }
    }
    Ok(())
}

/// Puts one file's tensors in their places, and says how many updates they have seen.
fn place(trainer: &mut Trainer, file: &File, body: &[u8]) -> Result<u64, Error> {
    let format = |reason: String| Error::Format { key: file.key.clone(), reason };
    let (_, header) = SafeTensors::read_metadata(body).map_err(|e| format(e.to_string()))?;
    let updates = header.metadata().as_ref().and_then(|m| m.get("updates")?.parse().ok());
    let updates =
        updates.ok_or_else(|| format("it does not say how many updates it has seen".into()))?;
    let tensors = SafeTensors::deserialize(body).map_err(|e| format(e.to_string()))?;
    for name in &file.tensors {
        let view = tensors.tensor(name).map_err(|e| format(e.to_string()))?;
        fill(trainer, &file.key, name, view.data())?;
    }
    Ok(updates)
}

fn fill(trainer: &mut Trainer, key: &str, tensor: &str, bytes: &[u8]) -> Result<(), Error> {
    let unknown =
        || Error::Format { key: key.to_owned(), reason: format!("the model has no `{tensor}`") };
    let (kind, name) = tensor.split_once('/').ok_or_else(unknown)?;
    let p = trainer.model.parameters().find(name).ok_or_else(unknown)?;
    let fill = |values: &mut [f32]| {
        if bytes.len() != values.len() * 4 {
            let (got, expected) = (bytes.len() / 4, values.len());
            let (key, tensor) = (key.to_owned(), tensor.to_owned());
            return Err(Error::Shape { key, tensor, got, expected });
        }
        Dtype::F32.decode(bytes, values);
        Ok(())
    };
    match kind {
        "master" => trainer.model.parameters_mut().write(p, fill),
        "m" => fill(&mut trainer.m[p.0]),
        "v" => fill(&mut trainer.v[p.0]),
        _ => Err(unknown()),
    }
}
