//! Fetches the checkpoint to start from: its manifest, and the files that this rank reads, with every byte verified.

use crate::inputs::{storage_trouble, trouble};
use crate::replica::{Digest, Fetched, share_of};
use crate::session::Trouble;
use futures::StreamExt;
use proto::error::chain;
use proto::manifest::{self, Checkpoint, Checksum, File};
use proto::protocol::{Cause, Train};
use storage::{Error, Storage};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How often a file is read before it counts as damaged, since bits may also flip on the wire.
const READS: usize = 3;

/// Number of pieces that can be queued for the training thread.
const AHEAD: usize = 2;
/// Number of files that are fetched at the same time.
const FILES: usize = 2;

/// A committed checkpoint that is being fetched.
pub struct Restorable {
    /// Number of committed steps.
    pub step: u64,
    /// The digest of the saved state; `None` in a checkpoint of an older version.
    pub digest: Option<Digest>,
    /// All state files of the checkpoint.
    pub state: Vec<File>,
    /// The pieces of the state files that this rank reads, fetched a few pieces ahead.
    pub mine: mpsc::Receiver<Result<Fetched, Trouble>>,
}

impl Restorable {
    /// Opens the checkpoint that `train` starts from; `None` if it starts from the base.
    ///
    /// # Errors
    /// [`Cause::Checkpoint`] if the manifest differs from what was committed, [`Cause::Storage`]. Errors of the state
    /// files arrive through `mine`.
    pub async fn open(
        storage: &Storage,
        train: &Train,
        plan_digest: &str,
    ) -> Result<Option<Self>, Trouble> {
        let Some(start) = &train.checkpoint else { return Ok(None) };
        let key = &start.manifest;
        let damaged = |what: String| trouble(Cause::Checkpoint)(format!("`{key}`: {what}"));
        let body = verified(&start.sha256, || async {
            let body = storage.read(key).await?;
            let sha256 = manifest::sha256(&body);
            Ok((body, sha256))
        });
        let body = body.await;
        let body = body.map_err(|e| e.trouble(key))?;
        let checkpoint: Checkpoint =
            serde_json::from_slice(&body).map_err(|e| damaged(e.to_string()))?;
        if checkpoint.plan_digest != plan_digest {
            return Err(damaged("it belongs to another plan".into()));
        }
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let Checkpoint { step, state, state_digest, .. } = checkpoint;
        let digest = state_digest.map(|digest| digest.parse()).transpose();
        let digest = digest.map_err(|e| damaged(format!("the digest of its state: {e}")))?;
        let wanted = share_of(&state, train.rank as usize, train.members.len());
        let (fetched, mine) = mpsc::channel(AHEAD);
        let fetch = |file: usize| {
            let key = format!("{folder}/{}", state[file].key);
            fetch(storage.clone(), key, file, state[file].clone(), fetched.clone())
        };
        tokio::spawn(all(wanted.into_iter().map(fetch).collect(), fetched.clone()));
        Ok(Some(Self { step, digest, state, mine }))
    }
}

/// Runs a few fetches at the same time, each as its own task, until all have ended or one has failed.
async fn all(
    fetches: Vec<impl Future<Output = Result<(), Trouble>> + Send + 'static>,
    to: mpsc::Sender<Result<Fetched, Trouble>>,
) {
    let mut left = fetches.into_iter();
    let mut running: JoinSet<_> = left.by_ref().take(FILES).collect();
    let all = async {
        while let Some(ended) = running.join_next().await {
            ended.expect("a fetch does not panic")?;
            if let Some(fetch) = left.next() {
                running.spawn(fetch);
            }
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = all => ended,
        // The training thread was aborted.
        () = to.closed() => return,
    };
    if let Err(trouble) = ended {
        let _ = to.send(Err(trouble)).await;
    }
}

/// Sends a file's pieces, again from the beginning if their checksum is wrong, and then [`Fetched::Whole`].
async fn fetch(
    storage: Storage,
    key: String,
    index: usize,
    file: File,
    to: mpsc::Sender<Result<Fetched, Trouble>>,
) -> Result<(), Trouble> {
    let read = || async {
        let mut pieces = std::pin::pin!(storage.pieces(&key, file.bytes, None));
        let mut next = pieces.next().await;
        let (mut checksum, mut offset) = (Checksum::default(), 0);
        while let Some(piece) = next {
            let body = piece?;
            checksum.update(&body);
            let bytes = body.len() as u64;
            let piece = Fetched::Piece { file: index, offset, body };
            offset += bytes;
            // Fetches the next piece while this one waits for room in the channel.
            (_, next) = tokio::join!(to.send(Ok(piece)), pieces.next());
        }
        Ok(((), checksum.finish()))
    };
    verified(&file.digests.xxh3, read).await.map_err(|e| e.trouble(&key))?;
    let _ = to.send(Ok(Fetched::Whole(index))).await;
    Ok(())
}

/// Why an object could not be read and verified.
enum Unread {
    /// The store's error.
    Store(Error),
    /// The checksum differs.
    Differs,
}

impl Unread {
    fn trouble(self, key: &str) -> Trouble {
        let damaged = trouble(Cause::Checkpoint);
        match self {
            Self::Differs => damaged(format!("`{key}` is not what was written")),
            Self::Store(Error::Changed { .. }) => {
                damaged(format!("`{key}` is shorter than what was written"))
            }
            Self::Store(e @ Error::NotFound { .. }) => damaged(chain(&e)),
            Self::Store(
                e @ (Error::Location { .. } | Error::Damaged { .. } | Error::Access { .. }),
            ) => storage_trouble(e),
        }
    }
}

/// Returns the result of `read` if the digest that comes with it is `digest`.
async fn verified<T, F: Future<Output = Result<(T, String), Error>>>(
    digest: &str,
    read: impl Fn() -> F,
) -> Result<T, Unread> {
    let mut last = Unread::Differs;
    for _ in 0..READS {
        match read().await {
            Ok((read, found)) if found == digest => return Ok(read),
            Ok(_) => last = Unread::Differs,
            // The object was too short or damaged, perhaps only on the wire.
            Err(error @ (Error::Changed { .. } | Error::Damaged { .. })) => {
                last = Unread::Store(error);
            }
            Err(error) => return Err(Unread::Store(error)),
        }
    }
    Err(last)
}
