//! The operations of `coordinator checkpoint` on a run's checkpoints in storage: to list, verify, export and delete
//! them.

use super::ModelFolder;
use crate::runtime::journal::{self, Journal};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use proto::event::Fact;
use proto::id::{CheckpointId, RunId};
use proto::key;
use proto::manifest::{self, Checkpoint, File, Hasher};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::Storage;
use thiserror::Error;

/// Errors of operations on checkpoints.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// There is no run in this folder.
    #[error(
        "there is no run at `{0}`\nhint: name a run's folder, such as `./runs/NAME-20261121-093000-1f2e`"
    )]
    NoRun(String),
    /// There is no such checkpoint.
    #[error("the run has no checkpoint `{name}`\nhint: {hint}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The checkpoints that exist, or what to ask for instead.
        hint: String,
    },
    /// An object is missing, or is not what was written.
    #[error("`{key}` {what}")]
    Damaged {
        /// The object, under the run's folder.
        key: String,
        /// What is wrong with the object.
        what: String,
    },
    /// The run has not ended, so only its coordinator may delete its checkpoints.
    #[error(
        "the run has not ended, and its coordinator decides which checkpoints to keep\n\
         hint: stop the run first; if its coordinator was killed, resume it and let it end"
    )]
    Live,
    /// The run's journal cannot be read.
    #[error(transparent)]
    Journal(Box<journal::Error>),
    /// An error of the store.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

impl From<journal::Error> for Error {
    fn from(error: journal::Error) -> Self {
        Self::Journal(Box::new(error))
    }
}

/// A committed checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Committed {
    /// The checkpoint.
    pub(crate) id: CheckpointId,
    /// The SHA-256 of its manifest.
    pub(crate) sha256: String,
    /// The held-out loss after its last step, if it was measured.
    pub(crate) loss: Option<f64>,
}

impl Committed {
    /// The name of its folder.
    pub(crate) fn name(&self) -> String {
        key::checkpoint_name(self.id.lineage, self.id.step)
    }
}

/// A run and its checkpoints, as read from storage. Nothing here writes to its journal.
pub(crate) struct Run {
    storage: Storage,
    id: RunId,
    /// Committed checkpoints that are in storage, in order.
    pub(crate) committed: Vec<Committed>,
    /// Other checkpoints in storage: replaced, given up, damaged, or still being stored.
    pub(crate) others: Vec<CheckpointId>,
    /// The last committed checkpoint, if it is missing from storage.
    pub(crate) lost: Option<CheckpointId>,
    ended: bool,
}

/// The outcome of verifying a checkpoint.
#[derive(Debug)]
pub(crate) enum Found {
    /// Every byte is what was written.
    Whole,
    /// Something is not what was written.
    Damaged(Error),
    /// The coordinator deleted the checkpoint while it was read, since newer ones replaced it.
    Replaced,
}

impl Run {
    /// Opens the run whose folder is `id` in `storage`.
    ///
    /// # Errors
    /// [`Error::NoRun`], or an error of its journal or of the store.
    pub(crate) async fn open(storage: Storage, id: RunId) -> Result<Self, Error> {
        let mut run = Self::look(&storage, &id).await?;
        // The run's coordinator may have replaced it after the journal was read.
        while let Some(lost) = run.lost {
            run = Self::look(&storage, &id).await?;
            if run.lost == Some(lost) {
                break;
            }
        }
        Ok(run)
    }

    async fn look(storage: &Storage, id: &RunId) -> Result<Self, Error> {
        let (_, history) = Journal::open::<Fact>(storage, key::journal(id)).await?;
        if history.is_empty() {
            return Err(Error::NoRun(format!("{}/{id}", storage.url())));
        }
        let (mut known, mut losses, mut ended) = (BTreeMap::new(), BTreeMap::new(), false);
        for event in history {
            ended = match &event {
                Fact::Paused { .. }
                | Fact::Cancelled
                | Fact::Failed { .. }
                | Fact::Succeeded { .. } => true,
                Fact::Claimed { .. } | Fact::Submitted { .. } | Fact::Resumed { .. } => false,
                _ => ended,
            };
            match event {
                Fact::Checkpointed { lineage, step, manifest_sha256 } => {
                    known.insert(CheckpointId { lineage, step }, manifest_sha256);
                }
                Fact::Damaged { lineage, step } => {
                    known.remove(&CheckpointId { lineage, step });
                }
                Fact::Evaluated { step, loss, .. } => drop(losses.insert(step, loss)),
                _ => {}
            }
        }
        let stored = super::stored(storage, id).await?;
        let last = known.last_key_value().map(|(id, _)| *id);
        let lost = last.filter(|id| stored.get(id) != Some(&true));
        let (mut committed, mut others) = (Vec::new(), Vec::new());
        for (checkpoint, has_manifest) in stored {
            // Without a manifest, its deletion was interrupted.
            match known.remove(&checkpoint).filter(|_| has_manifest) {
                Some(sha256) => {
                    let loss = losses.get(&checkpoint.step).copied();
                    committed.push(Committed { id: checkpoint, sha256, loss });
                }
                None => others.push(checkpoint),
            }
        }
        Ok(Self { storage: storage.clone(), id: id.clone(), committed, others, lost, ended })
    }

    /// The newest committed checkpoint.
    pub(crate) fn latest(&self) -> Option<&Committed> {
        self.committed.last()
    }

    /// The committed checkpoint with the best held-out loss.
    pub(crate) fn best(&self) -> Option<&Committed> {
        let measured = self.committed.iter().filter_map(|c| Some((c, c.loss?)));
        let measured = measured.filter(|(_, loss)| loss.is_finite());
        measured.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(c, _)| c)
    }

    /// Finds the checkpoint with this folder name, or the `latest` or the `best` one.
    ///
    /// # Errors
    /// [`Error::Unknown`], or [`Error::Damaged`] if the latest one is missing from storage.
    pub(crate) fn find(&self, name: &str) -> Result<&Committed, Error> {
        if let Some(lost) = self.lost.filter(|_| name == "latest") {
            let what = match &self.names()[..] {
                [] => "is gone, and there is no other".to_owned(),
                names => {
                    format!("is gone\nhint: name another checkpoint: {}", names.join(", "))
                }
            };
            let key = key::manifest(&self.id, lost.lineage, lost.step);
            return Err(Error::Damaged { key, what });
        }
        let found = match name {
            "latest" => self.latest(),
            "best" => self.best(),
            _ => self.committed.iter().find(|c| c.name() == name),
        };
        found.ok_or_else(|| {
            let names = self.names();
            let hint = match (name, &names[..]) {
                (_, []) => "it has none yet".to_owned(),
                ("best", _) => "no held-out loss was measured: ask for `latest`".to_owned(),
                _ => format!("it has {}", names.join(", ")),
            };
            Error::Unknown { name: name.to_owned(), hint }
        })
    }

    fn names(&self) -> Vec<String> {
        self.committed.iter().map(Committed::name).collect()
    }

    /// Reads the manifest of a checkpoint and checks that it is the committed one.
    ///
    /// # Errors
    /// [`Error::Damaged`], or an error of the store.
    pub(crate) async fn manifest(&self, checkpoint: &Committed) -> Result<Checkpoint, Error> {
        let CheckpointId { lineage, step } = checkpoint.id;
        let key = key::manifest(&self.id, lineage, step);
        let damaged = |what: String| Error::Damaged { key: key.clone(), what };
        let body = self.storage.read(&key).await?;
        if manifest::sha256(&body) != checkpoint.sha256 {
            return Err(damaged("is not what was committed".into()));
        }
        serde_json::from_slice(&body).map_err(|e| damaged(e.to_string()))
    }

    /// Reads and verifies every byte of a checkpoint. Calls `read` with the number of bytes of each piece.
    ///
    /// # Errors
    /// An error of the store.
    pub(crate) async fn verify(
        &self,
        checkpoint: &Committed,
        read: &dyn Fn(u64),
    ) -> Result<Found, Error> {
        match self.read(checkpoint, read).await {
            Ok(()) => Ok(Found::Whole),
            Err(_) if self.is_replaced(checkpoint).await? => Ok(Found::Replaced),
            Err(error @ Error::Damaged { .. }) => Ok(Found::Damaged(error)),
            Err(error) => Err(error),
        }
    }

    /// Whether the coordinator of a running run has deleted the checkpoint in the meantime. Its manifest is deleted
    /// first.
    async fn is_replaced(&self, checkpoint: &Committed) -> Result<bool, Error> {
        let CheckpointId { lineage, step } = checkpoint.id;
        let manifest = self.storage.head(&key::manifest(&self.id, lineage, step)).await?;
        Ok(!self.ended && manifest.is_none())
    }

    async fn read(&self, checkpoint: &Committed, read: &dyn Fn(u64)) -> Result<(), Error> {
        let manifest = self.manifest(checkpoint).await?;
        for file in manifest.files() {
            let key = self.key(checkpoint, file);
            let mut pieces = std::pin::pin!(self.verified(&key, file));
            while let Some(piece) = pieces.try_next().await? {
                read(piece.len() as u64);
            }
        }
        Ok(())
    }

    /// Copies a checkpoint's model files to `to`, under the names that `transformers` expects.
    ///
    /// # Errors
    /// [`Error::Damaged`] at the first file that is not what was written, or an error of the store.
    pub(crate) async fn export(
        &self,
        checkpoint: &Committed,
        to: &Storage,
        copied: &dyn Fn(u64),
    ) -> Result<(), Error> {
        match self.copy(checkpoint, to, copied).await {
            Err(_) if self.is_replaced(checkpoint).await? => {
                let hint = "a newer one has replaced it in the meantime: try again".to_owned();
                Err(Error::Unknown { name: checkpoint.name(), hint })
            }
            copied => copied,
        }
    }

    async fn copy(
        &self,
        checkpoint: &Committed,
        to: &Storage,
        copied: &dyn Fn(u64),
    ) -> Result<(), Error> {
        let manifest = self.manifest(checkpoint).await?;
        let folder = ModelFolder::of(manifest.model);
        for (file, name) in &folder.files {
            let key = self.key(checkpoint, file);
            let pieces = self.verified(&key, file).inspect_ok(|p| copied(p.len() as u64));
            to.put_stream(name, file.bytes, pieces).await?;
        }
        if let Some(index) = folder.index() {
            to.put(Checkpoint::INDEX, index).await?;
        }
        Ok(())
    }

    /// The bytes of `file` at `key`, followed by an error if they are not what was written.
    fn verified<'a>(
        &'a self,
        key: &'a str,
        file: &'a File,
    ) -> impl Stream<Item = Result<Bytes, Error>> + 'a {
        let damaged = |what: String| Error::Damaged { key: key.to_owned(), what };
        // Only the expected number of bytes is read below, so that more bytes would go unnoticed.
        let length = futures::stream::once(async move {
            let found = self.storage.head(key).await?.map(|object| object.bytes);
            if found.is_some_and(|bytes| bytes > file.bytes) {
                return Err(damaged("is longer than it was".into()));
            }
            Ok(Bytes::new())
        });
        let hasher = Arc::<Mutex<Hasher>>::default();
        let hash = hasher.clone();
        let verdict = futures::stream::once(async move {
            let digests = hash.lock().expect("held only to hash").clone().finish();
            if digests == file.digests {
                Ok(Bytes::new())
            } else {
                Err(damaged("is not what was written".into()))
            }
        });
        let add = move |piece: Result<Bytes, storage::Error>| {
            let piece = piece.map_err(|e| match e {
                storage::Error::NotFound { .. } => damaged("is gone".into()),
                storage::Error::Changed { .. } => damaged("is shorter than it was".into()),
                storage::Error::Location { .. }
                | storage::Error::Damaged { .. }
                | storage::Error::Access { .. } => e.into(),
            })?;
            hasher.lock().expect("held only to hash").update(&piece);
            Ok(piece)
        };
        length.chain(self.storage.pieces(key, file.bytes, None).map(add)).chain(verdict)
    }

    fn key(&self, checkpoint: &Committed, file: &File) -> String {
        let CheckpointId { lineage, step } = checkpoint.id;
        format!("{}/{}", key::checkpoint(&self.id, lineage, step), file.key)
    }

    /// The checkpoints that need not stay if only the newest `keep` and the best one are kept. A checkpoint whose
    /// manifest is damaged stays, and does not count as one of the newest.
    ///
    /// # Errors
    /// An error of the store.
    pub(crate) async fn superfluous(&self, keep: usize) -> Result<Vec<CheckpointId>, Error> {
        let mut whole = Vec::new();
        for checkpoint in &self.committed {
            match self.manifest(checkpoint).await {
                Ok(_) => whole.push(checkpoint.id),
                Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        whole.truncate(whole.len().saturating_sub(keep.max(1)));
        let best = self.best().map(|c| c.id);
        whole.retain(|id| Some(*id) != best);
        Ok(whole.into_iter().chain(self.others.iter().copied()).collect())
    }

    /// Checks that the run has ended, so that its coordinator does not need or delete its checkpoints.
    ///
    /// # Errors
    /// [`Error::Live`] if the run has not ended.
    pub(crate) fn has_ended(&self) -> Result<(), Error> {
        if self.ended { Ok(()) } else { Err(Error::Live) }
    }

    /// Deletes these checkpoints and all unfinished uploads of the run. Returns the keys of those uploads.
    ///
    /// # Errors
    /// [`Error::Live`], or an error of the store.
    pub(crate) async fn delete(&self, ids: &[CheckpointId]) -> Result<Vec<String>, Error> {
        self.has_ended()?;
        for id in ids {
            super::delete(&self.storage, &self.id, *id).await?;
        }
        let swept = self.storage.sweep(self.id.as_str(), Duration::ZERO).await?;
        Ok(swept.into_iter().map(|upload| upload.key).collect())
    }

    /// The keys of the run's unfinished uploads.
    ///
    /// # Errors
    /// An error of the store.
    pub(crate) async fn unfinished(&self) -> Result<Vec<String>, Error> {
        let found = self.storage.unfinished(self.id.as_str()).await?.unwrap_or_default();
        Ok(found.into_iter().map(|upload| upload.key).collect())
    }
}
