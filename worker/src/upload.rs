//! Stores a rank's part of a checkpoint while training goes on.
//!
//! A large file goes part by part, so that what is tried again, and bounded in time, is a part.

use crate::checkpoint::{PartFile, Snapshot};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use proto::manifest::{File, Hasher};
use proto::protocol::{Place, SavedPart};
use proto::storage::{Error, Patience, Storage};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const HINT: &str = "\nhint: make room or mend the storage";

/// What is hashed and handed to the store at once.
const PIECE: usize = 8 << 20;

/// How often a file is stored from its beginning, beyond what is tried again of its parts: the request that makes one
/// object of them can be damaged on its way, too, and the store's answer to that is final.
const ATTEMPTS: u32 = 2;

/// Files on their way at once: while the store settles some, others are hashed. They are all in memory anyway.
const FILES: usize = 3;

/// When this process has to be gone, once that is known.
pub type Leaving = watch::Receiver<Option<Instant>>;

/// What `stored` comes to, if it does before this process has to go; else it is dropped, and given up in the store as
/// well, which is better than being killed over it.
pub async fn in_time<T>(
    stored: impl Future<Output = Result<T, String>>,
    leaving: Leaving,
) -> Result<T, String> {
    tokio::select! {
        biased;
        outcome = stored => outcome,
        () = late(leaving, Duration::ZERO) => Err("it was not stored before the worker had to go".into()),
    }
}

/// Done so long after this process had to be gone.
pub async fn late(mut leaving: Leaving, by: Duration) {
    let deadline = leaving.wait_for(Option::is_some).await.map(|deadline| *deadline);
    match deadline {
        Ok(Some(deadline)) => tokio::time::sleep_until(deadline + by).await,
        // Nobody is left who would say it.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// Stores every file of the part and says what they are.
///
/// # Errors
/// In words: what the store says, after its own retries.
pub async fn store(
    storage: &Storage,
    place: &Place,
    mut snapshot: Snapshot,
) -> Result<SavedPart, String> {
    let folder = proto::key::checkpoint(&place.run, place.lineage, snapshot.step);
    let told = |error: Error| proto::error::chain(&error) + HINT;
    let storage = storage.patient(Patience::Checkpoint).map_err(told)?;
    let files = std::mem::take(&mut snapshot.files);
    let stored = stream::iter(files).map(|part| store_file(&storage, &folder, part));
    // Dropped at the first error, the other is given up in the store as well.
    let files = stored.buffered(FILES).map_err(told).try_collect().await?;
    Ok(SavedPart { files, digest: snapshot.digest.to_string() })
}

async fn store_file(storage: &Storage, folder: &str, part: PartFile) -> Result<File, Error> {
    let PartFile { key, body, tensors } = part;
    let bytes = body.len() as u64;
    let place = format!("{folder}/{key}");
    let mut attempt = 1;
    loop {
        let hasher = Arc::<Mutex<Hasher>>::default();
        match storage.put_stream(&place, bytes, hashed(body.clone(), hasher.clone())).await {
            Ok(_) => {
                let hasher = std::mem::take(&mut *hasher.lock().expect("held only to hash"));
                return Ok(File { key, bytes, digests: hasher.finish(), tensors });
            }
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(error) => {
                let error = proto::error::chain(&error);
                tracing::warn!(key = place, error, "a checkpoint's file is stored once more");
                attempt += 1;
            }
        }
    }
}

/// The pieces of `body`, each added to the hash on its way, and away from the threads that beat.
fn hashed(mut body: Bytes, hasher: Arc<Mutex<Hasher>>) -> impl Stream<Item = Result<Bytes, Error>> {
    let pieces = std::iter::from_fn(move || {
        (!body.is_empty()).then(|| body.split_to(body.len().min(PIECE)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test]
    async fn what_is_not_stored_when_the_worker_has_to_go_is_given_up() {
        let (goes, leaving) = watch::channel(None);
        assert_eq!(in_time(async { Ok(7) }, leaving.clone()).await, Ok(7));
        // It is told in the middle of an upload.
        let late = tokio::spawn(in_time(pending::<Result<(), String>>(), leaving.clone()));
        tokio::task::yield_now().await;
        let (told, left) = (Instant::now(), Duration::from_millis(50));
        goes.send_replace(Some(told + left));
        let error = late.await.unwrap().unwrap_err();
        assert!(error.contains("before the worker had to go"), "{error}");
        assert!(told.elapsed() >= left);
        // What can be stored at once still is.
        assert_eq!(in_time(async { Ok(7) }, leaving).await, Ok(7));
    }
}
