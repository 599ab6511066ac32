//! Stores a rank's part of a checkpoint while training goes on.
//!
//! A large file goes part by part, so that what is tried again, and bounded in time, is a part. A store that fails is
//! tried again until the run's patience is over; meanwhile the snapshot's room is in trouble, and the training thread
//! leaves checkpoints out instead of waiting for it.

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

const HINT: &str = "\nhint: make room or mend the storage";

/// What is hashed and handed to the store at once.
const PIECE: usize = 8 << 20;

/// How often a file is stored from its beginning that fails for a reason which time does not mend: the request that
/// makes one object of its parts can be damaged on its way, and the store's answer to that is final.
const ATTEMPTS: u32 = 2;

/// Between two attempts at a file while the store fails, growing to twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// More patience is as good as any.
const LONGEST_PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);

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

/// Stores every file of the part and says what they are. A store that fails is tried again until `patience`, counted
/// from the snapshot, is over.
///
/// # Errors
/// In words: what the store says last.
pub async fn store(
    storage: &Storage,
    place: &Place,
    mut snapshot: Snapshot,
    patience: Duration,
) -> Result<SavedPart, String> {
    let folder = proto::key::checkpoint(&place.run, place.lineage, snapshot.step);
    let told = |error: Error| proto::error::chain(&error) + HINT;
    let storage = storage.patient(Patience::Checkpoint).map_err(told)?;
    let files = std::mem::take(&mut snapshot.files);
    let until = Instant::from_std(snapshot.taken) + patience.min(LONGEST_PATIENCE);
    let upload = Upload { storage: &storage, folder: &folder, room: &snapshot.room, until };
    let stored = stream::iter(files).map(|part| upload.store(part));
    // Dropped at the first error, the other is given up in the store as well.
    let files = stored.buffered(FILES).map_err(told).try_collect().await?;
    Ok(SavedPart { files, digest: snapshot.digest.to_string() })
}

/// A part on its way.
struct Upload<'a> {
    storage: &'a Storage,
    folder: &'a str,
    room: &'a Reserved,
    /// A store that fails then is not tried again.
    until: Instant,
}

impl Upload<'_> {
    /// Stores a file, for as long as it takes.
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
                        tracing::info!(key = place, "a checkpoint's file is stored at last");
                    }
                    return Ok(File { key, bytes, digests, tensors });
                }
                Err(error) => error,
            };
            let told = proto::error::chain(&error);
            if error.can_be_mended() {
                if Instant::now() + pause > self.until {
                    return Err(error);
                }
                if !std::mem::replace(&mut failing, true) {
                    self.room.file_failing(true);
                    tracing::warn!(key = place, error = told, "the storage fails; trying again");
                }
                tokio::time::sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            } else if attempt < ATTEMPTS {
                tracing::warn!(
                    key = place,
                    error = told,
                    "a checkpoint's file is stored once more"
                );
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
    use crate::collective::AbortHandle;
    use crate::model::Dtype;
    use crate::replica::{Room, Saved, Vacancy, fixture, snapshot};
    use proto::id::{Generation, Lineage, RunId};
    use std::future::pending;
    use std::path::PathBuf;

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

    const LONG: Duration = Duration::from_secs(600);
    const STEP: u64 = 3;

    fn place() -> Place {
        let run = RunId::new("r-20261128-000000-0000");
        Place { run, generation: Generation(1), lineage: Lineage(1) }
    }

    /// A snapshot of two files, and the room that it takes.
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

    /// A storage whose folder for the second file cannot be made while there is a file in its place.
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
    async fn a_store_that_fails_is_tried_again_until_it_is_back() {
        let (_root, storage, obstacle) = failing();
        let (part, room) = part();
        let stored = tokio::spawn(async move { store(&storage, &place(), part, LONG).await });
        let seen = tokio::task::spawn_blocking({
            let room = room.clone();
            move || room.vacancy(&AbortHandle::new())
        });
        assert_eq!(seen.await.unwrap(), Some(Vacancy::InTrouble));
        // What is stored already is not stored again.
        let first = obstacle.with_file_name("model").join("a");
        let is_there = async {
            while !first.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_there).await.unwrap();
        std::fs::write(&first, "as it is").unwrap();
        std::fs::remove_file(&obstacle).unwrap();
        let part = tokio::time::timeout(Duration::from_secs(60), stored).await.unwrap().unwrap();
        let part = part.unwrap();
        assert_eq!(part.files.len(), 2);
        assert_eq!(std::fs::read_to_string(first).unwrap(), "as it is");
        assert_eq!(std::fs::read_to_string(obstacle.join("b")).unwrap(), "state/b");
        assert!(!room.is_taken());
    }

    #[tokio::test]
    async fn patience_with_a_store_that_fails_ends() {
        let (_root, storage, _) = failing();
        let (mut part, room) = part();
        part.taken -= LONG;
        let told = store(&storage, &place(), part, LONG).await.unwrap_err();
        assert!(told.starts_with("cannot write") && told.ends_with(HINT), "{told}");
        assert!(!room.is_taken());
    }

    #[tokio::test]
    async fn what_no_patience_mends_fails_at_once() {
        let (_root, storage, obstacle) = failing();
        std::fs::remove_file(obstacle).unwrap();
        let (mut part, _room) = part();
        part.files[1].key = "no//key".into();
        let place = place();
        let stored = store(&storage, &place, part, LONG);
        let told = tokio::time::timeout(Duration::from_secs(60), stored).await.unwrap();
        assert!(told.unwrap_err().starts_with("cannot write"));
    }
}
