//! Loads a model's values from the safetensors files of a Hugging Face folder, or draws them from a seed.
//!
//! A folder is checked completely before the first value is read: it must have every tensor of the configuration with
//! the right shape, in a file as long as its header says, and no other tensors. Values are read in pieces and
//! converted to f32 on the way.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::Dtype;
use super::error::{Error, NO_MODEL_HINT};
use super::layout::{EMBEDDING, Fresh, HEAD, Slot};
use super::random::Stream;
use crate::ops::Parameters;
use file::{File, Place};

/// File name of the weights of a model with a single file.
pub const FILE: &str = "model.safetensors";
/// File name of the index of a model with several files.
pub const INDEX: &str = "model.safetensors.index.json";

/// Maximum number of names that an error lists.
const NAMES_SHOWN: usize = 4;

/// Reads the parameters that `slots` describe from `folder`; returns the type in which they are stored.
pub(super) fn read(
    folder: &Path,
    slots: &[Slot],
    parameters: &mut Parameters,
) -> Result<Dtype, Error> {
    let mut files = files(folder)?.into_iter().map(File::open).collect::<Result<Vec<_>, _>>()?;
    let mut places = BTreeMap::new();
    for (index, file) in files.iter_mut().enumerate() {
        for (name, place) in std::mem::take(&mut file.places) {
            places.insert(name, (index, place));
        }
    }
    let wanted = match_up(folder, slots, &mut places, &files)?;
    let head = places.remove(HEAD);
    refuse_unknown(&places, &files)?;

    for (slot, (index, place)) in slots.iter().zip(&wanted) {
        let values = files[*index].read(place)?;
        if let (EMBEDDING, Some((index, place))) = (slot.name.as_str(), &head) {
            refuse_untied(&mut files[*index], place, &values)?;
        }
        parameters.push(&slot.name, &slot.shape, values);
    }
    Ok(wanted[0].1.dtype)
}

/// Draws the parameters that `slots` describe. Matrices have a standard deviation of `range`, and each has its own
/// random stream, derived from its name.
pub(super) fn draw(slots: &[Slot], range: f32, seed: u64, parameters: &mut Parameters) {
    for slot in slots {
        let mut values = vec![0.0; slot.shape.iter().product()];
        match slot.fresh {
            Fresh::Zero => {}
            Fresh::One => values.fill(1.0),
            Fresh::Normal => {
                let stream = Stream::new(seed, &slot.name);
                values.par_iter_mut().enumerate().for_each(|(place, value)| {
                    *value = (stream.normal(place as u64) * f64::from(range)) as f32;
                });
            }
        }
        parameters.push(&slot.name, &slot.shape, values);
    }
}

/// The safetensors files of a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let single = folder.join(FILE);
    let index = folder.join(INDEX);
    if single.exists() {
        return Ok(vec![single]);
    }
    if !index.exists() {
        let hint = match folder.join("pytorch_model.bin").exists() {
            true => "only safetensors are read; `save_pretrained` of transformers writes them",
            false => NO_MODEL_HINT,
        };
        let what = format!("no {FILE} and no {INDEX} in it");
        return Err(Error::NoModel { folder: folder.to_owned(), what, hint: hint.to_owned() });
    }
    let read = |source| Error::Read { file: index.clone(), source };
    let json = |source| Error::Json { file: index.clone(), source };
    let text = std::fs::read_to_string(&index).map_err(read)?;
    let parsed: Index = serde_json::from_str(&text).map_err(json)?;
    let names: BTreeSet<_> = parsed.weight_map.into_values().collect();
    // A name that contains a path could read files outside the folder.
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref()))
    {
        let what = format!("`{name}` is not a file name");
        let hint = "an index may only name files in its own folder".to_owned();
        return Err(Error::Weights { file: index, what, hint });
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

#[derive(serde::Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

type Places = BTreeMap<String, (usize, Place)>;

/// Takes the place of each slot out of `places`, and checks its shape.
fn match_up(
    folder: &Path,
    slots: &[Slot],
    places: &mut Places,
    files: &[File],
) -> Result<Vec<(usize, Place)>, Error> {
    let mut wanted = Vec::with_capacity(slots.len());
    for slot in slots {
        let Some((index, place)) = places.remove(&slot.name) else {
            return Err(Error::Weights {
                file: match files {
                    [only] => only.path.clone(),
                    _ => folder.to_owned(),
                },
                what: format!("tensor `{}` {:?} is missing", slot.name, slot.shape),
                hint:
                    "config.json and the weights belong to different models, or the model is not \
                       a causal language model"
                        .to_owned(),
            });
        };
        if place.shape != slot.shape {
            return Err(Error::Weights {
                file: files[index].path.clone(),
                what: format!(
                    "tensor `{}` has shape {:?}, but config.json makes it {:?}",
                    slot.name, place.shape, slot.shape
                ),
                hint: "config.json and the weights belong to different models".to_owned(),
            });
        }
        wanted.push((index, place));
    }
    Ok(wanted)
}

/// Refuses tensors that the configuration does not use, since their arithmetic would be missing.
fn refuse_unknown(places: &Places, files: &[File]) -> Result<(), Error> {
    // Old versions of transformers saved these tables, which follow from the configuration.
    let unknown: Vec<_> =
        places.iter().filter(|(name, _)| !name.ends_with(".rotary_emb.inv_freq")).collect();
    let Some((_, (index, _))) = unknown.first() else {
        return Ok(());
    };
    let mut names: Vec<_> =
        unknown.iter().take(NAMES_SHOWN).map(|(name, _)| format!("`{name}`")).collect();
    if unknown.len() > NAMES_SHOWN {
        names.push(format!("{} more", unknown.len() - NAMES_SHOWN));
    }
    Err(Error::Weights {
        file: files[*index].path.clone(),
        what: format!("config.json has no use for {}", names.join(", ")),
        hint: "config.json and the weights belong to different models".to_owned(),
    })
}

/// Accepts an output matrix besides a tied embedding only if it is a copy of it, as some tools save it.
fn refuse_untied(file: &mut File, head: &Place, embedding: &[f32]) -> Result<(), Error> {
    if file.read(head)? == embedding {
        return Ok(());
    }
    Err(Error::Weights {
        file: file.path.clone(),
        what: format!("`{HEAD}` differs from `{EMBEDDING}`, but config.json ties the two"),
        hint: "set \"tie_word_embeddings\": false in config.json if they are meant to differ"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests;
