//! From a checkpoint's state files back to a training.

use crate::model::Dtype;
use crate::train::Trainer;
use safetensors::SafeTensors;
use std::collections::BTreeSet;
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
}

/// Puts the contents of all state files (by key) into `trainer`.
///
/// # Errors
/// If a file is not a state file of this model, or something is missing; `trainer` must then not be used.
pub fn restore<'a>(
    trainer: &mut Trainer,
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), Error> {
    let mut missing: BTreeSet<String> = BTreeSet::new();
    for p in trainer.ids() {
        let parameters = trainer.model.parameters();
        let kinds: &[&str] =
            if parameters.trainable(p) { &["master", "m", "v"] } else { &["master"] };
        missing.extend(kinds.iter().map(|k| format!("{k}/{}", parameters.name(p))));
    }
    let mut updates = None;
    for (key, body) in files {
        let format = |reason: String| Error::Format { key: key.to_owned(), reason };
        let (_, header) = SafeTensors::read_metadata(body).map_err(|e| format(e.to_string()))?;
        let count = header.metadata().as_ref().and_then(|m| m.get("updates"));
        let count: u64 = count
            .and_then(|c| c.parse().ok())
            .ok_or_else(|| format("it does not say how many updates it has seen".into()))?;
        if updates.is_some_and(|u| u != count) {
            return Err(format("it is of another step than the others".into()));
        }
        updates = Some(count);
        let tensors = SafeTensors::deserialize(body).map_err(|e| format(e.to_string()))?;
        for (tensor, view) in tensors.iter() {
            place(trainer, key, tensor, view.data())?;
            missing.remove(tensor);
        }
    }
    if let Some(tensor) = missing.pop_first() {
        return Err(Error::Missing(tensor));
    }
    trainer.updates = updates.unwrap_or(0);
    Ok(())
}

fn place(trainer: &mut Trainer, key: &str, tensor: &str, bytes: &[u8]) -> Result<(), Error> {
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
