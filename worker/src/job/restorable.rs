//! A checkpoint to start from: its manifest, and those of its files that this rank reads, every byte verified.

use super::{storage_trouble, trouble};
use crate::checkpoint::share_of;
use crate::session::Trouble;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use proto::error::chain;
use proto::manifest::{self, Checkpoint, File};
use proto::protocol::{Cause, Train};
use proto::storage::{Error, Storage};
use tokio::sync::mpsc;

/// How often a file is read before it counts as damaged: bits flip on the wire, too.
const READS: usize = 3;

/// A committed checkpoint, being fetched.
pub struct Restorable {
    /// Steps committed.
    pub step: u64,
    /// Its state files.
    pub state: Vec<File>,
    /// Those that this rank reads, by their place among them; one is fetched ahead.
    pub mine: mpsc::Receiver<Result<(usize, Bytes), Trouble>>,
}

impl Restorable {
    /// What `train` starts from; none: the base.
    ///
    /// # Errors
    /// [`Cause::Checkpoint`] where the manifest is not what was committed, [`Cause::Storage`]. So do the files.
    pub async fn open(
        storage: &Storage,
        train: &Train,
        plan_digest: &str,
    ) -> Result<Option<Self>, Trouble> {
        let Some(start) = &train.checkpoint else { return Ok(None) };
        let key = &start.manifest;
        let damaged = |what: String| trouble(Cause::Checkpoint)(format!("`{key}`: {what}"));
        let body = verified(&start.sha256, || async { storage.read(key).await }).await;
        let body = body.map_err(|e| e.trouble(key))?;
        let checkpoint: Checkpoint =
            serde_json::from_slice(&body).map_err(|e| damaged(e.to_string()))?;
        if checkpoint.plan_digest != plan_digest {
            return Err(damaged("it belongs to another plan".into()));
        }
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let Checkpoint { step, state, .. } = checkpoint;
        let wanted = share_of(&state, train.rank as usize, train.members.len());
        let wanted: Vec<_> = wanted.into_iter().map(|i| (i, state[i].clone())).collect();
        let (fetched, mine) = mpsc::channel(1);
        let storage = storage.clone();
        tokio::spawn(async move {
            for (index, file) in wanted {
                let outcome = fetch(&storage, &folder, &file).await.map(|body| (index, body));
                let failed = outcome.is_err();
                // Whoever waited may have been aborted.
                if fetched.send(outcome).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Some(Self { step, state, mine }))
    }
}

async fn fetch(storage: &Storage, folder: &str, file: &File) -> Result<Bytes, Trouble> {
    let key = format!("{folder}/{}", file.key);
    let read = || async {
        let body = BytesMut::with_capacity(usize::try_from(file.bytes).unwrap_or(0));
        let pieces = storage.pieces(&key, file.bytes, None);
        let whole = pieces.try_fold(body, async |mut body, piece| {
            body.extend_from_slice(&piece);
            Ok(body)
        });
        whole.await.map(BytesMut::freeze)
    };
    verified(&file.sha256, read).await.map_err(|e| e.trouble(&key))
}

/// Why an object could not be read as it was written.
enum Unread {
    Store(Error),
    /// It was read, and is something else.
    Differs,
}

impl Unread {
    fn trouble(self, key: &str) -> Trouble {
        let damaged = trouble(Cause::Checkpoint);
        match self {
            Self::Differs => damaged(format!("`{key}` is not what was written")),
            // Gone, or shorter than it was.
            Self::Store(e @ (Error::NotFound { .. } | Error::Changed { .. })) => damaged(chain(&e)),
            Self::Store(
                e @ (Error::Location { .. } | Error::Damaged { .. } | Error::Access { .. }),
            ) => storage_trouble(e),
        }
    }
}

async fn verified<F: Future<Output = Result<Bytes, Error>>>(
    sha256: &str,
    read: impl Fn() -> F,
) -> Result<Bytes, Unread> {
    let mut last = Unread::Differs;
    for _ in 0..READS {
        let body = match read().await {
            Ok(body) => body,
            // Shorter than it should be: on the wire, perhaps.
            Err(error @ (Error::Changed { .. } | Error::Damaged { .. })) => {
                last = Unread::Store(error);
                continue;
            }
            Err(error) => return Err(Unread::Store(error)),
        };
        let hashed = tokio::task::spawn_blocking({
            let body = body.clone();
            move || manifest::sha256(&body)
        });
        if hashed.await.expect("hashing does not panic") == *sha256 {
            return Ok(body);
        }
        last = Unread::Differs;
    }
    Err(last)
}
