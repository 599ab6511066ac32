//! Deletion of checkpoints that a run need not keep.

use crate::core::Retained;
use proto::id::{CheckpointId, RunId};
use proto::key;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use storage::Storage;

/// Deletes the checkpoints of a run that are not retained, and writes the hints `latest` and `best`.
///
/// A checkpoint that is older than the latest and not kept was replaced, given up, or written by a worker that was
/// already lost. A newer one may still be being stored, and is left alone.
///
/// # Errors
/// An error of the store.
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
    // A checkpoint without any object may still have an unfinished upload.
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

/// The checkpoints that have any object in storage, and whether they have a manifest, which is written last and deleted
/// first.
///
/// # Errors
/// An error of the store.
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
    // On a disk, empty folders are found too, so that they are removed. In an object store they do not matter.
    if storage.local_path(&folder).is_some() {
        for name in storage.folders(&folder).await? {
            if let Some(id) = key::checkpoint_id(&name) {
                found.entry(id).or_default();
            }
        }
    }
    Ok(found)
}

/// Deletes a checkpoint, its manifest first, so that an interrupted deletion leaves no checkpoint. Unfinished uploads
/// to it are left to the caller, which can look for those of all checkpoints at once.
///
/// # Errors
/// An error of the store.
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
    // On a disk, the empty folders are left over.
    if let Some(path) = storage.local_path(&folder)
        && let Err(error) = tokio::fs::remove_dir_all(&path).await
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(folder = %path.display(), %error, "an empty folder cannot be removed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::Lineage;

    #[tokio::test]
    async fn the_best_hint_is_removed_with_its_checkpoint() {
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
