//! The last strokes: a checkpoint's index and manifest, the finished model's folder, the end of old checkpoints.

mod card;

use crate::core::Retained;
use futures::{StreamExt, TryStreamExt, stream};
use proto::event::Fact;
use proto::id::{CheckpointId, RunId};
use proto::key;
use proto::manifest::{self, Checkpoint, Digests, File};
use proto::receipt::{Receipt, Skipped};
use proto::spec::Spec;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use storage::{Created, Storage};
use thiserror::Error;

/// Objects that are copied at once.
const COPIES: usize = 8;

/// Brings the run's receipt to what its lineage has skipped.
///
/// # Errors
/// [`Unpublished`]; of the store's it may go better later.
pub(crate) async fn receipt(
    storage: &Storage,
    run: &RunId,
    skipped: Vec<Skipped>,
) -> Result<(), Unpublished> {
    let key = key::receipt(run);
    let receipt = read_receipt(storage, &key).await?;
    storage.put(&key, to_json(&Receipt { skipped, ..receipt })).await?;
    Ok(())
}

async fn read_receipt(storage: &Storage, key: &str) -> Result<Receipt, Unpublished> {
    let body = storage.read(key).await?;
    serde_json::from_slice(&body).map_err(|e| Unpublished::Broken(format!("`{key}`: {e}")))
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("counts, names and keys are JSON")
}

/// Stores the receipt, the index of the model's files and the manifest, after looking that everything else that it
/// names is there. May be done again: the same checkpoint has the same manifest.
///
/// # Errors
/// [`Unpublished`]: what is not there, or what the store says, which may go better later.
pub async fn seal(
    storage: &Storage,
    checkpoint: &Checkpoint,
    skipped: Vec<Skipped>,
) -> Result<String, Unpublished> {
    let folder = key::checkpoint(&checkpoint.run, checkpoint.lineage, checkpoint.step);
    for file in checkpoint.model.iter().chain(&checkpoint.state) {
        let key = format!("{folder}/{}", file.key);
        let bytes = storage.head(&key).await?.map(|o| o.bytes);
        if bytes != Some(file.bytes) {
            let wanted = file.bytes;
            let what = format!("`{key}` should have {wanted} bytes and has {bytes:?}");
            return Err(Unpublished::Broken(what));
        }
    }
    let mut checkpoint = checkpoint.clone();
    let receipt = read_receipt(storage, &key::receipt(&checkpoint.run)).await?;
    let receipt = to_json(&Receipt { skipped, ..receipt });
    checkpoint.receipt = Some(put(storage, &folder, Checkpoint::RECEIPT.into(), receipt).await?);
    let index = to_json(&Checkpoint::model_index(&checkpoint.model));
    let key = format!("{}/{}", Checkpoint::MODEL, Checkpoint::INDEX);
    checkpoint.model.push(put(storage, &folder, key, index).await?);
    let body = to_json(&checkpoint);
    let sha256 = manifest::sha256(&body);
    let key = key::manifest(&checkpoint.run, checkpoint.lineage, checkpoint.step);
    match storage.create(&key, body.clone()).await? {
        Created::Ours => Ok(sha256),
        // An earlier attempt whose answer was lost.
        Created::Theirs(found) if found == body => Ok(sha256),
        Created::Theirs(_) => {
            Err(Unpublished::Broken(format!("another coordinator wrote `{key}`")))
        }
    }
}

async fn put(
    storage: &Storage,
    folder: &str,
    key: String,
    body: Vec<u8>,
) -> Result<File, storage::Error> {
    let (bytes, digests) = (body.len() as u64, Digests::of(&body));
    storage.put(&format!("{folder}/{key}"), body).await?;
    Ok(File { key, bytes, digests, tensors: Vec::new() })
}

/// A model to be published: a checkpoint of a run, and what its card says.
pub(crate) struct Finished {
    pub(crate) run: RunId,
    pub(crate) spec: Arc<Spec>,
    pub(crate) checkpoint: CheckpointId,
    /// Held-out losses by steps committed.
    pub(crate) losses: Vec<(u64, f64)>,
}

/// Why a model is not where users look for it.
#[derive(Debug, Error)]
pub enum Unpublished {
    /// The store refused or broke.
    #[error(transparent)]
    Store(#[from] storage::Error),
    /// Something that it consists of is not what it should be.
    #[error("{0}")]
    Broken(String),
}

/// Copies a checkpoint's model to where users look for it, adds its card, and says where that is.
///
/// # Errors
/// [`Unpublished`]; of the store's it may go better later.
pub(crate) async fn publish(storage: &Storage, finished: &Finished) -> Result<String, Unpublished> {
    let Finished { run, spec, checkpoint: CheckpointId { lineage, step }, losses } = finished;
    let (lineage, step) = (*lineage, *step);
    let folder = key::checkpoint(run, lineage, step);
    let body = storage.read(&key::manifest(run, lineage, step)).await?;
    let broken = |error: serde_json::Error| Unpublished::Broken(error.to_string());
    let checkpoint: Checkpoint = serde_json::from_slice(&body).map_err(broken)?;
    let target = key::model(run);
    let model = ModelFolder::of(checkpoint.model);
    let copy = async |(file, name): &(File, String)| {
        storage.copy(&format!("{folder}/{}", file.key), &format!("{target}/{name}")).await
    };
    let copies = stream::iter(&model.files).map(copy).buffer_unordered(COPIES);
    copies.try_collect::<()>().await?;
    if let Some(index) = model.index() {
        storage.put(&format!("{target}/{}", Checkpoint::INDEX), index).await?;
    }
    let receipt = read_receipt(storage, &key::receipt(run)).await?;
    let card = card::card(spec, &receipt, step, losses);
    let card = card.map_err(|e| Unpublished::Broken(format!("{e:#}")))?;
    storage.put(&format!("{target}/{}", card::NAME), card).await?;
    let url = format!("{}/{target}", storage.url());
    Ok(url.strip_prefix("file://").unwrap_or(&url).to_owned())
}

/// A checkpoint's model under the names that `transformers` gives to its files.
pub(crate) struct ModelFolder {
    /// Files as they lie in the checkpoint, and their names.
    pub(crate) files: Vec<(File, String)>,
}

impl ModelFolder {
    /// Of the model files that a manifest names, weights in their order.
    pub(crate) fn of(model: Vec<File>) -> Self {
        let count = model.iter().filter(|f| !f.tensors.is_empty()).count();
        let mut number = 0;
        let named = |file: File| {
            let below = file.key.strip_prefix(Checkpoint::MODEL).and_then(|k| k.strip_prefix('/'));
            let name = if file.tensors.is_empty() {
                below.unwrap_or(&file.key).to_owned()
            } else {
                number += 1;
                shard_name(number, count)
            };
            (name != Checkpoint::INDEX).then_some((file, name))
        };
        Self { files: model.into_iter().filter_map(named).collect() }
    }

    /// The index of the weights: one file of them goes by the plain name, and needs none.
    pub(crate) fn index(&self) -> Option<Vec<u8>> {
        let renamed = |(file, name): &(File, String)| File { key: name.clone(), ..file.clone() };
        let shards: Vec<_> = self.files.iter().map(renamed).collect();
        let weights = shards.iter().filter(|f| !f.tensors.is_empty()).count();
        (weights > 1).then(|| to_json(&Checkpoint::model_index(&shards)))
    }
}

/// What `transformers` calls shard `number` of `count`.
fn shard_name(number: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".into(),
        _ => format!("model-{number:05}-of-{count:05}.safetensors"),
    }
}

/// Brings a run's checkpoints in storage to those that are kept, and points out the latest and the best.
///
/// What is neither kept nor newer than what is belongs to nobody: a checkpoint that was replaced, given up, or written
/// by a process that had been fenced. Whatever is newer may still be on its way.
///
/// # Errors
/// What the store says.
pub async fn retain(
    storage: &Storage,
    run: &RunId,
    retained: &Retained,
) -> Result<(), storage::Error> {
    for (hint, id) in [("latest", Some(retained.latest)), ("best", retained.best)] {
        let key = format!("{}/{hint}", key::checkpoints(run));
        match id {
            Some(CheckpointId { lineage, step }) => {
                let name = key::checkpoint_name(lineage, step);
                storage.put(&key, name + "\n").await?;
            }
            None => storage.delete(&key).await?,
        }
    }
    let goes = |id: &CheckpointId| *id < retained.latest && !retained.kept.contains(id);
    for id in stored(storage, run).await?.into_keys().filter(goes) {
        delete(storage, run, id).await?;
    }
    // There may be one to a checkpoint that died before its first object.
    for upload in storage.unfinished(&key::checkpoints(run)).await?.unwrap_or_default() {
        if checkpoint_of(run, &upload.key).is_some_and(|id| goes(&id)) {
            storage.abandon(&upload).await?;
        }
    }
    Ok(())
}

/// The checkpoint that an object belongs to.
fn checkpoint_of(run: &RunId, key: &str) -> Option<CheckpointId> {
    let below = key.strip_prefix(&key::checkpoints(run))?;
    key::checkpoint_id(below.split('/').nth(1)?)
}

/// The checkpoints of which there is anything in storage, and whether their manifest is: it is written last, and
/// deleted first.
///
/// # Errors
/// What the store says.
pub(crate) async fn stored(
    storage: &Storage,
    run: &RunId,
) -> Result<BTreeMap<CheckpointId, bool>, storage::Error> {
    let folder = key::checkpoints(run);
    let mut found = BTreeMap::new();
    for object in storage.list(&folder).await? {
        if let Some(id) = checkpoint_of(run, &object.key) {
            let has_manifest: &mut bool = found.entry(id).or_default();
            *has_manifest |= object.key == key::manifest(run, id.lineage, id.step);
        }
    }
    // A disk's empty folders are there to be removed; a store's, where it keeps any, are nothing.
    if storage.local_path(&folder).is_some() {
        for name in storage.folders(&folder).await? {
            if let Some(id) = key::checkpoint_id(&name) {
                found.entry(id).or_default();
            }
        }
    }
    Ok(found)
}

/// Deletes a checkpoint, its manifest first: what is left of a deletion that was cut short is not a checkpoint.
/// Uploads to it that never ended are left to whoever deletes, who looks for those of all checkpoints at once.
///
/// # Errors
/// What the store says.
pub(crate) async fn delete(
    storage: &Storage,
    run: &RunId,
    CheckpointId { lineage, step }: CheckpointId,
) -> Result<(), storage::Error> {
    let folder = key::checkpoint(run, lineage, step);
    storage.delete(&key::manifest(run, lineage, step)).await?;
    for object in storage.list(&folder).await? {
        storage.delete(&object.key).await?;
    }
    // In an object store there are no folders; on a disk they outlive what was in them.
    if let Some(path) = storage.local_path(&folder)
        && let Err(error) = tokio::fs::remove_dir_all(&path).await
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(folder = %path.display(), %error, "an empty folder stays behind");
    }
    Ok(())
}

/// The commits that `history` knows and that nobody can go back to any more, since newer ones have replaced them: as if
/// they had been found damaged. The last commit of all is taken to be there: that it is not would be news.
///
/// # Errors
/// What the store says.
pub async fn replaced(
    storage: &Storage,
    run: &RunId,
    history: &[Fact],
) -> Result<Vec<Fact>, storage::Error> {
    let mut known: BTreeSet<_> = history
        .iter()
        .filter_map(|event| match event {
            Fact::Checkpointed { lineage, step, .. } => {
                Some(CheckpointId { lineage: *lineage, step: *step })
            }
            _ => None,
        })
        .collect();
    known.pop_last();
    if known.is_empty() || is_over(history) {
        return Ok(Vec::new());
    }
    let stored = stored(storage, run).await?;
    let gone = known.into_iter().filter(|id| stored.get(id) != Some(&true));
    Ok(gone.map(|CheckpointId { lineage, step }| Fact::Damaged { lineage, step }).collect())
}

/// Whether nothing can follow but another attempt.
pub(crate) fn is_over(history: &[Fact]) -> bool {
    let end = history.iter().rev().find(|event| {
        matches!(event, Fact::Succeeded { .. } | Fact::Cancelled | Fact::Resumed { .. })
    });
    end.is_some_and(|event| !matches!(event, Fact::Resumed { .. }))
}

/// The commits that a coordinator did not live to journal: of manifests, which are written only when all that they
/// name is stored, in the lineage that `history` ends in and after its last checkpoint.
///
/// # Errors
/// What the store says.
pub async fn uncommitted(
    storage: &Storage,
    run: &RunId,
    history: &[Fact],
) -> Result<Vec<Fact>, storage::Error> {
    let present = history.iter().rev().find_map(|event| match event {
        Fact::Generation { lineage, .. } => Some(*lineage),
        _ => None,
    });
    let Some(present) = present.filter(|_| !is_over(history)) else {
        return Ok(Vec::new());
    };
    let known = |id: &CheckpointId| {
        history.iter().any(|event| match event {
            Fact::Checkpointed { lineage, step, .. } | Fact::Damaged { lineage, step } => {
                CheckpointId { lineage: *lineage, step: *step } >= *id
            }
            _ => false,
        })
    };
    let mut found = Vec::new();
    for folder in storage.folders(&key::checkpoints(run)).await? {
        let id = key::checkpoint_id(&folder).filter(|id| id.lineage == present && !known(id));
        let Some(CheckpointId { lineage, step }) = id else { continue };
        match storage.read(&key::manifest(run, lineage, step)).await {
            Ok(body) => {
                let manifest_sha256 = manifest::sha256(&body);
                found.push(Fact::Checkpointed { lineage, step, manifest_sha256 });
            }
            Err(storage::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::Lineage;

    #[tokio::test]
    async fn a_best_checkpoint_that_is_no_more_is_pointed_at_no_more() {
        let (storage, run) = (Storage::memory(), RunId::new("r"));
        let key = |hint| format!("{}/{hint}", key::checkpoints(&run));
        let first = CheckpointId { lineage: Lineage(1), step: 8 };
        let mut retained = Retained { kept: vec![first], latest: first, best: Some(first) };
        retain(&storage, &run, &retained).await.unwrap();
        assert_eq!(storage.read(&key("best")).await.unwrap(), "step-00000008-l1\n");
        let anew = CheckpointId { lineage: Lineage(2), step: 4 };
        for _ in 0..2 {
            retained = Retained { kept: vec![anew], latest: anew, best: None };
            retain(&storage, &run, &retained).await.unwrap();
            assert_eq!(storage.head(&key("best")).await.unwrap(), None);
            assert_eq!(storage.read(&key("latest")).await.unwrap(), "step-00000004-l2\n");
        }
    }
}
