//! Stores a rank's part of a checkpoint while training goes on.
//!
//! A large file goes part by part, so that what is tried again, and bounded in time, is a part.

use crate::checkpoint::Snapshot;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use proto::manifest::{File, Hasher};
use proto::protocol::Place;
use proto::storage::{Error, Patience, Storage};
use std::sync::{Arc, Mutex};

const HINT: &str = "\nhint: make room or mend the storage";

/// What is hashed and handed to the store at once.
const PIECE: usize = 8 << 20;

/// Stores every file of the part and says what they are.
///
/// # Errors
/// In words: what the store says, after its own retries.
pub async fn store(
    storage: &Storage,
    place: &Place,
    snapshot: Snapshot,
) -> Result<Vec<File>, String> {
    let folder = proto::key::checkpoint(&place.run, place.lineage, snapshot.step);
    let told = |error: Error| proto::error::chain(&error) + HINT;
    let storage = storage.patient(Patience::Checkpoint).map_err(told)?;
    let mut files = Vec::new();
    for part in &snapshot.files {
        let bytes = part.body.iter().map(|b| b.len() as u64).sum();
        let hasher = Arc::<Mutex<Hasher>>::default();
        let key = format!("{folder}/{}", part.key);
        let body = hashed(part.body.clone(), hasher.clone());
        storage.put_stream(&key, bytes, body).await.map_err(told)?;
        let sha256 = std::mem::take(&mut *hasher.lock().expect("held only to hash")).finish();
        files.push(File { key: part.key.clone(), bytes, sha256, tensors: part.tensors.clone() });
    }
    Ok(files)
}

/// The pieces of `body`, each added to the hash on its way, and away from the threads that beat.
fn hashed(
    body: Vec<Bytes>,
    hasher: Arc<Mutex<Hasher>>,
) -> impl Stream<Item = Result<Bytes, Error>> {
    let pieces = body.into_iter().flat_map(|mut rest| {
        std::iter::from_fn(move || (!rest.is_empty()).then(|| rest.split_to(rest.len().min(PIECE))))
    });
    stream::iter(pieces).then(move |piece: Bytes| {
        let hasher = hasher.clone();
        let add = move || {
            hasher.lock().expect("held only to hash").update(&piece);
            piece
        };
        async { Ok(tokio::task::spawn_blocking(add).await.expect("hashing does not panic")) }
    })
}
