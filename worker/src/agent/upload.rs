//! Stores a rank's part of a checkpoint while training continues.
//!
//! A large file is uploaded in parts, so that a retry or a timeout concerns one part only. While the store fails, a
//! file is retried until the run's `storage_patience` is over. During that time the snapshot's room reports that it
//! is in trouble, and the training thread skips checkpoints instead of waiting for it.

use crate::replica::{PartFile, Reserved, Snapshot};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use proto::manifest::{Digests, File, Hasher};
use proto::protocol::{Place, SavedPart};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::{Error, Patience, Storage};
use tokio::sync::watch;
use tokio::time::Instant;

const HINT: &str = "\nhint: free space in the storage, or repair it";

/// Number of bytes that are hashed and handed to the store at once.
const PIECE: usize = 8 << 20;

/// How often a file is stored from the beginning if it fails for a reason that waiting does not cure. The second
/// attempt covers a request to join the parts that was damaged on its way: the store's refusal of it is final.
const ATTEMPTS: u32 = 2;

/// The pause between two attempts at a file while the store fails; it doubles after each attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A cap that keeps the deadline representable; waiting longer makes no difference.
const LONGEST_PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Number of files in flight: while the store completes some, others are hashed. All of them are in memory anyway.
const FILES: usize = 3;

/// When this process must have ended, once that is known.
pub type Leaving = watch::Receiver<Option<Instant>>;

/// Runs `stored`, but drops it at the deadline of this process. A dropped upload is also aborted in the store; if the
/// process were killed in the middle of it, it would not be.
///
/// # Errors
/// The error of `stored`, or that the deadline passed first.
pub async fn before_deadline<T>(
    stored: impl Future<Output = Result<T, String>>,
    leaving: Leaving,
) -> Result<T, String> {
    tokio::select! {
        biased;
        outcome = stored => outcome,
        () = after_deadline(leaving, Duration::ZERO) => Err("the worker had to exit before it was stored".into()),
    }
}

/// Resolves this long after the deadline of this process.
pub async fn after_deadline(mut leaving: Leaving, by: Duration) {
    let deadline = leaving.wait_for(Option::is_some).await.map(|deadline| *deadline);
    match deadline {
        Ok(Some(deadline)) => tokio::time::sleep_until(deadline + by).await,
        // The sender is gone, so no deadline will ever be set.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// Stores every file of the part and returns their descriptions. While the store fails, files are retried until
/// `patience`, counted from the snapshot, is over.
///
/// # Errors
/// The text of the store's last error.
pub async fn store(
    storage: &Storage,
    place: &Place,
    mut snapshot: Snapshot,
    patience: Duration,
) -> Result<SavedPart, String> {
    let folder = proto::key::checkpoint(&place.run, place.lineage, snapshot.step);
    let message = |error: Error| proto::error::chain(&error) + HINT;
    let storage = storage.patient(Patience::Checkpoint).map_err(message)?;
    let files = std::mem::take(&mut snapshot.files);
    let until = Instant::from_std(snapshot.taken) + patience.min(LONGEST_PATIENCE);
    let upload = Upload { storage: &storage, folder: &folder, room: &snapshot.room, until };
    let stored = stream::iter(files).map(|part| upload.store(part));
    // At the first error, the other uploads are dropped, which aborts them in the store.
    let files = stored.buffered(FILES).map_err(message).try_collect().await?;
    Ok(SavedPart { files, digest: snapshot.digest.to_string(), pause: snapshot.pause })
}

/// A part that is being stored.
struct Upload<'a> {
    storage: &'a Storage,
    folder: &'a str,
    room: &'a Reserved,
    /// After this time, a file that fails is not retried.
    until: Instant,
}

impl Upload<'_> {
    /// Stores a file, with retries.
    async fn store(&self, part: PartFile) -> Result<File, Error> {
        let PartFile { key, body, tensors } = part;
        let bytes = body.len() as u64;
        let place = format!("{}/{key}", self.folder);
        let (mut attempt, mut pause, mut failing) = (1, FIRST_PAUSE, false);
        loop {
            let error = match self.attempt(&place, body.clone()).await {
                Ok(digests) => {
                    if failing {
                        self.room.file_failing(false);
                        tracing::info!(key = place, "a checkpoint's file is stored after retries");
                    }
                    return Ok(File { key, bytes, digests, tensors });
                }
                Err(error) => error,
            };
            let message = proto::error::chain(&error);
            if error.can_be_mended() {
                if Instant::now() + pause > self.until {
                    return Err(error);
                }
                if !std::mem::replace(&mut failing, true) {
                    self.room.file_failing(true);
                    tracing::warn!(key = place, error = message, "the storage fails; retrying");
                }
                tokio::time::sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            } else if attempt < ATTEMPTS {
                tracing::warn!(key = place, error = message, "storing a checkpoint's file again");
                attempt += 1;
            } else {
                return Err(error);
            }
        }
    }

    async fn attempt(&self, place: &str, body: Bytes) -> Result<Digests, Error> {
        let hasher = Arc::<Mutex<Hasher>>::default();
        let bytes = body.len() as u64;
        self.storage.put_stream(place, bytes, hashed(body, hasher.clone())).await?;
        let hasher = std::mem::take(&mut *hasher.lock().expect("held only to hash"));
        Ok(hasher.finish())
    }
}

/// The pieces of `body`, each added to the hash as it is read. Hashing runs on blocking threads, so that it does not
/// delay beats.
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
    use crate::collective::AbortHandle;
    use crate::model::Dtype;
    use crate::replica::{Room, Saved, Vacancy, fixture, snapshot};
    use proto::id::{Generation, Lineage, RunId};
    use std::future::pending;
    use std::path::PathBuf;

    #[tokio::test]
    async fn an_upload_is_given_up_at_the_deadline_of_its_worker() {
        let (goes, leaving) = watch::channel(None);
        assert_eq!(before_deadline(async { Ok(7) }, leaving.clone()).await, Ok(7));
        // The deadline is set in the middle of an upload.
        let late = tokio::spawn(before_deadline(pending::<Result<(), String>>(), leaving.clone()));
        tokio::task::yield_now().await;
        let (asked, left) = (Instant::now(), Duration::from_millis(50));
        goes.send_replace(Some(asked + left));
        let error = late.await.unwrap().unwrap_err();
        assert!(error.contains("the worker had to exit"), "{error}");
        assert!(asked.elapsed() >= left);
        // An upload that completes at once still succeeds.
        assert_eq!(before_deadline(async { Ok(7) }, leaving).await, Ok(7));
    }

    const LONG: Duration = Duration::from_secs(600);
    const STEP: u64 = 3;

    fn place() -> Place {
        let run = RunId::new("r-20261128-000000-0000");
        Place { run, generation: Generation(1), lineage: Lineage(1) }
    }

    /// A snapshot of two files, and the room that it occupies.
    fn part() -> (Snapshot, Room) {
        let room = Room::default();
        let reserved = room.reserve(&AbortHandle::new()).expect("it is free");
        let saved = Saved { dtype: Dtype::F32, file_bytes: u64::MAX };
        let mut part = snapshot(&fixture::state(), STEP, (0, 1), saved, reserved);
        let file = |key: &str| PartFile {
            key: key.into(),
            body: Bytes::from(key.to_owned()),
            tensors: Vec::new(),
        };
        part.files = vec![file("model/a"), file("state/b")];
        (part, room)
    }

    /// A storage in which the folder of the second file cannot be created, because a file has its name.
    fn failing() -> (tempfile::TempDir, Storage, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let storage = Storage::open(&root.path().to_string_lossy()).unwrap();
        let place = place();
        let folder = proto::key::checkpoint(&place.run, place.lineage, STEP);
        let obstacle = root.path().join(folder).join("state");
        std::fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
        std::fs::write(&obstacle, "").unwrap();
        (root, storage, obstacle)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_failing_store_is_retried_until_it_recovers() {
        let (_root, storage, obstacle) = failing();
        let (part, room) = part();
        let stored = tokio::spawn(async move { store(&storage, &place(), part, LONG).await });
        let seen = tokio::task::spawn_blocking({
            let room = room.clone();
            move || room.vacancy(&AbortHandle::new())
        });
        assert_eq!(seen.await.unwrap(), Some(Vacancy::InTrouble));
        // A file that is already stored is not stored again.
        let first = obstacle.with_file_name("model").join("a");
        let is_there = async {
            while !first.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_there).await.unwrap();
        std::fs::write(&first, "unchanged").unwrap();
        std::fs::remove_file(&obstacle).unwrap();
        let part = tokio::time::timeout(Duration::from_secs(60), stored).await.unwrap().unwrap();
        let part = part.unwrap();
        assert_eq!(part.files.len(), 2);
        assert_eq!(std::fs::read_to_string(first).unwrap(), "unchanged");
        assert_eq!(std::fs::read_to_string(obstacle.join("b")).unwrap(), "state/b");
        assert!(!room.is_taken());
    }

    #[tokio::test]
    async fn retries_end_with_the_patience() {
        let (_root, storage, _) = failing();
        let (mut part, room) = part();
        part.taken -= LONG;
        let error = store(&storage, &place(), part, LONG).await.unwrap_err();
        assert!(error.starts_with("cannot write") && error.ends_with(HINT), "{error}");
        assert!(!room.is_taken());
    }

    #[tokio::test]
    async fn an_error_that_waiting_cannot_cure_fails_at_once() {
        let (_root, storage, obstacle) = failing();
        std::fs::remove_file(obstacle).unwrap();
        let (mut part, _room) = part();
        part.files[1].key = "no//key".into();
        let place = place();
        let stored = store(&storage, &place, part, LONG);
        let stored = tokio::time::timeout(Duration::from_secs(60), stored).await.unwrap();
        assert!(stored.unwrap_err().starts_with("cannot write"));
    }
}
