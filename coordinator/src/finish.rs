//! The last strokes: a checkpoint's index and manifest, the finished model's folder, old checkpoints' end.

use proto::error::chain;
use proto::id::{Lineage, RunId};
use proto::key;
use proto::manifest::{self, Checkpoint, File};
use proto::receipt::{Receipt, Skipped};
use proto::storage::{Created, Error, Storage};

/// Brings the run's receipt to what its lineage has skipped.
///
/// # Errors
/// In words: what the store says, or that there is no receipt.
pub(crate) async fn receipt(
    storage: &Storage,
    run: &RunId,
    skipped: Vec<Skipped>,
) -> Result<(), String> {
    let key = key::receipt(run);
    let receipt = Receipt { skipped, ..read_receipt(storage, &key).await? };
    storage.put(&key, to_json(&receipt)).await.map_err(|e| chain(&e))
}

async fn read_receipt(storage: &Storage, key: &str) -> Result<Receipt, String> {
    let body = storage.read(key).await.map_err(|e| chain(&e))?;
    serde_json::from_slice(&body).map_err(|e| format!("`{key}`: {e}"))
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("counts, names and keys are JSON")
}

/// Stores the receipt, the index of the model's files and the manifest, after looking that everything else that it
/// names is there.
///
/// # Errors
/// In words: what is not there, or what the store says.
pub(crate) async fn seal(
    storage: &Storage,
    checkpoint: &Checkpoint,
    skipped: Vec<Skipped>,
) -> Result<String, String> {
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
    let receipt = read_receipt(storage, &key::receipt(&checkpoint.run)).await?;
    let receipt = to_json(&Receipt { skipped, ..receipt });
    checkpoint.receipt = Some(put(storage, &folder, Checkpoint::RECEIPT.into(), receipt).await?);
    let index = to_json(&Checkpoint::model_index(&checkpoint.model));
    let key = format!("{}/{}", Checkpoint::MODEL, Checkpoint::INDEX);
    checkpoint.model.push(put(storage, &folder, key, index).await?);
    let body = to_json(&checkpoint);
    let sha256 = manifest::sha256(&body);
    let key = key::manifest(&checkpoint.run, checkpoint.lineage, checkpoint.step);
    match storage.create(&key, body).await.map_err(told)? {
        Created::Ours => Ok(sha256),
        Created::Theirs(_) => Err(format!("another coordinator wrote `{key}`")),
    }
}

async fn put(storage: &Storage, folder: &str, key: String, body: Vec<u8>) -> Result<File, String> {
    let (bytes, sha256) = (body.len() as u64, manifest::sha256(&body));
    storage.put(&format!("{folder}/{key}"), body).await.map_err(|e| chain(&e))?;
    Ok(File { key, bytes, sha256, tensors: Vec::new() })
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
    let mut shards = Vec::new();
    for file in &checkpoint.model {
        let name = file.key.rsplit('/').next().unwrap_or(&file.key);
        if name == Checkpoint::INDEX {
            continue;
        }
        let mut file = file.clone();
        let from = format!("{folder}/{}", file.key);
        file.key = if file.tensors.is_empty() {
            name.to_owned()
        } else {
            shard_name(shards.len() + 1, weights)
        };
        storage.copy(&from, &format!("{target}/{}", file.key)).await.map_err(told)?;
        if !file.tensors.is_empty() {
            shards.push(file);
        }
    }
    // One file of weights goes by the plain name, and needs no index.
    if weights > 1 {
        let index = to_json(&Checkpoint::model_index(&shards));
        let key = format!("{target}/{}", Checkpoint::INDEX);
        storage.put(&key, index).await.map_err(told)?;
    }
    let url = format!("{}/{target}", storage.url());
    Ok(url.strip_prefix("file://").unwrap_or(&url).to_owned())
}

/// What `transformers` calls shard `number` of `count`.
fn shard_name(number: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".into(),
        _ => format!("model-{number:05}-of-{count:05}.safetensors"),
    }
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
