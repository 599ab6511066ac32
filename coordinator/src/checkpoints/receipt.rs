//! The receipt of a run in storage: the account of every record, and the skipped steps.

use super::Unpublished;
use proto::id::RunId;
use proto::key;
use proto::receipt::{Receipt, Skipped};
use storage::Storage;

/// Replaces the skipped steps in the run's receipt.
///
/// # Errors
/// [`Unpublished`]. After an error of the store, the caller can try again.
pub(crate) async fn update(
    storage: &Storage,
    run: &RunId,
    skipped: Vec<Skipped>,
) -> Result<(), Unpublished> {
    let key = key::receipt(run);
    let receipt = read(storage, &key).await?;
    storage.put(&key, to_json(&Receipt { skipped, ..receipt })).await?;
    Ok(())
}

/// Reads the receipt at `key`.
pub(super) async fn read(storage: &Storage, key: &str) -> Result<Receipt, Unpublished> {
    let body = storage.read(key).await?;
    serde_json::from_slice(&body).map_err(|e| Unpublished::Broken(format!("`{key}`: {e}")))
}

/// Serializes a document as indented JSON, which people can read.
pub(super) fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("counts, names and keys are JSON")
}
