//! A run's receipt: what became of every record, and which samples were skipped.

use super::Unpublished;
use proto::id::RunId;
use proto::key;
use proto::receipt::{Receipt, Skipped};
use storage::Storage;

/// Brings the run's receipt to what its lineage has skipped.
///
/// # Errors
/// [`Unpublished`]; of the store's it may go better later.
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

/// The receipt at `key`.
pub(super) async fn read(storage: &Storage, key: &str) -> Result<Receipt, Unpublished> {
    let body = storage.read(key).await?;
    serde_json::from_slice(&body).map_err(|e| Unpublished::Broken(format!("`{key}`: {e}")))
}

/// A document as people read it.
pub(super) fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("counts, names and keys are JSON")
}
