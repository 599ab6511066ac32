//! The last strokes: a checkpoint's index and manifest, the finished model's folder, old checkpoints' end.

use proto::error::chain;
use proto::id::{Lineage, RunId};
use proto::key;
use proto::manifest::{self, Checkpoint, File};
use proto::storage::{Created, Error, Storage};

/// Stores the index of the model's files and the manifest, after looking that everything they name is there.
///
/// # Errors
/// In words: what is not there, or what the store says.
pub(crate) async fn seal(storage: &Storage, checkpoint: &Checkpoint) -> Result<String, String> {
    let told = |e: Error| chain(&e);
    let folder = key::checkpoint(&checkpoint.run, checkpoint.lineage, checkpoint.step);
    for file in checkpoint.model.iter().chain(&checkpoint.state) {
        let key = format!("{folder}/{}", file.key);
        let found = storage.head(&key).await.map_err(told)?;
        let bytes = found.map(|o| o.bytes);
        if bytes != Some(file.bytes) {
            return Err(format!("`{key}` should have {} bytes and has {bytes:?}", file.bytes));
        }
    }
    let mut checkpoint = checkpoint.clone();
    let index = Checkpoint::model_index(&checkpoint.model);
    let index = serde_json::to_vec_pretty(&index).expect("an index is JSON");
    let key = format!("{}/{}", Checkpoint::MODEL, Checkpoint::INDEX);
    checkpoint.model.push(File {
        bytes: index.len() as u64,
        sha256: manifest::sha256(&index),
        tensors: Vec::new(),
        key: key.clone(),
    });
    storage.put(&format!("{folder}/{key}"), index).await.map_err(told)?;
    let body = serde_json::to_vec_pretty(&checkpoint).expect("a manifest is JSON");
    let sha256 = manifest::sha256(&body);
    let key = key::manifest(&checkpoint.run, checkpoint.lineage, checkpoint.step);
    match storage.create(&key, body).await.map_err(told)? {
        Created::Ours => Ok(sha256),
        Created::Theirs(_) => Err(format!("another coordinator wrote `{key}`")),
    }
}

/// Copies a checkpoint's model to where users look for it, and says where that is.
///
/// # Errors
/// In words: what the store says.
pub(crate) async fn publish(
    storage: &Storage,
    run: &RunId,
    lineage: Lineage,
    step: u64,
) -> Result<String, String> {
    let told = |e: Error| chain(&e);
    let folder = key::checkpoint(run, lineage, step);
    let body = storage.read(&key::manifest(run, lineage, step)).await.map_err(told)?;
    let checkpoint: Checkpoint = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let target = key::model(run);
    let weights = checkpoint.model.iter().filter(|f| !f.tensors.is_empty()).count();
    for file in &checkpoint.model {
        let name = file.key.rsplit('/').next().unwrap_or(&file.key);
        // One file of weights goes by the plain name, and needs no index.
        let name = match (weights, file.tensors.is_empty()) {
            (1, false) => "model.safetensors",
            (1, true) if name == Checkpoint::INDEX => continue,
            _ => name,
        };
        let from = format!("{folder}/{}", file.key);
        storage.copy(&from, &format!("{target}/{name}")).await.map_err(told)?;
    }
    let url = format!("{}/{target}", storage.url());
    Ok(url.strip_prefix("file://").unwrap_or(&url).to_owned())
}

/// Deletes a checkpoint, its manifest first: what is left of a deletion that was cut short is not a checkpoint.
///
/// # Errors
/// What the store says.
pub(crate) async fn prune(
    storage: &Storage,
    run: &RunId,
    lineage: Lineage,
    step: u64,
) -> Result<(), Error> {
    storage.delete(&key::manifest(run, lineage, step)).await?;
    for object in storage.list(&key::checkpoint(run, lineage, step)).await? {
        storage.delete(&object.key).await?;
    }
    Ok(())
}
