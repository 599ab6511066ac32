//! Sealing of a checkpoint: its index, its receipt and, last, its manifest are written once all parts are stored.

use super::Unpublished;
use super::receipt::{self, to_json};
use proto::key;
use proto::manifest::{self, Checkpoint, Digests, File};
use proto::receipt::{Receipt, Skipped};
use storage::{Created, Storage};

/// Checks that the files of a checkpoint are stored, then stores its receipt, the index of its model files, and its
/// manifest. Returns the SHA-256 of the manifest. Sealing is idempotent, since the same checkpoint has the same
/// manifest.
///
/// # Errors
/// [`Unpublished`]: a file that is missing, or an error of the store, after which the caller can try again.
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
            let found = bytes.map_or("is missing".to_owned(), |bytes| format!("has {bytes}"));
            let what = format!("`{key}` should have {wanted} bytes, {found}");
            return Err(Unpublished::Broken(what));
        }
    }
    let mut checkpoint = checkpoint.clone();
    let receipt = receipt::read(storage, &key::receipt(&checkpoint.run)).await?;
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
        // An earlier attempt stored it, but its answer was lost.
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
