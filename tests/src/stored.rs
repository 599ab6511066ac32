//! A run in a store, looked at from beside it: what its journal says, what it has left there.

use crate::model::{Weights, weights};
use anyhow::{Context, Result, bail, ensure};
use coordinator::runtime::journal;
use proto::event::Fact;
use proto::id::{CheckpointId, RunId};
use proto::key;
use proto::manifest::Checkpoint;
use std::collections::BTreeSet;
use storage::Storage;

/// A run under an output.
pub struct Stored<'a> {
    storage: &'a Storage,
    /// Its name.
    pub id: RunId,
}

impl<'a> Stored<'a> {
    /// The only run under `storage`, none if there is none.
    ///
    /// # Errors
    /// What the store says, or that there are several.
    pub async fn find(storage: &'a Storage) -> Result<Option<Self>> {
        let mut runs = Vec::new();
        for folder in storage.folders("").await? {
            let id = RunId::new(folder);
            if !storage.list(&key::journal(&id)).await?.is_empty() {
                runs.push(Self { storage, id });
            }
        }
        ensure!(runs.len() < 2, "there are {} runs", runs.len());
        Ok(runs.pop())
    }

    /// Its journal.
    ///
    /// # Errors
    /// What the store says, or that it cannot be replayed.
    pub async fn history(&self) -> Result<Vec<Fact>> {
        Ok(journal::read(self.storage, &key::journal(&self.id)).await?)
    }

    /// The weights of its finished model.
    ///
    /// # Errors
    /// What the store says.
    pub async fn weights(&self) -> Result<Weights> {
        let folder = tempfile::tempdir()?;
        for object in self.storage.list(&key::model(&self.id)).await? {
            let name = object.key.rsplit('/').next().context("a key has a name")?;
            std::fs::write(folder.path().join(name), self.storage.read(&object.key).await?)?;
        }
        Ok(weights(folder.path()))
    }

    /// The steps after which it has a checkpoint, journaled or not, and all that lies beside them and belongs to none:
    /// files that no manifest names, and uploads that nobody ended.
    ///
    /// # Errors
    /// What the store says, or that a manifest is none.
    pub async fn checkpoints(&self) -> Result<(BTreeSet<CheckpointId>, BTreeSet<String>)> {
        let folder = key::checkpoints(&self.id);
        let listed = self.storage.list(&folder).await?;
        let mut keys: BTreeSet<_> = listed.into_iter().map(|o| o.key).collect();
        for hint in ["latest", "best"] {
            keys.remove(&format!("{folder}/{hint}"));
        }
        let mut whole = BTreeSet::new();
        for name in self.storage.folders(&folder).await? {
            let Some(id) = key::checkpoint_id(&name) else { bail!("{name}") };
            let manifest = key::manifest(&self.id, id.lineage, id.step);
            if !keys.remove(&manifest) {
                continue;
            }
            let checkpoint = self.storage.read(&manifest).await?;
            let checkpoint: Checkpoint = serde_json::from_slice(&checkpoint)?;
            for file in checkpoint.files() {
                let key = format!("{folder}/{name}/{}", file.key);
                ensure!(keys.remove(&key), "{key} is missing");
            }
            whole.insert(id);
        }
        let unfinished = self.storage.unfinished(&folder).await?.context("this store tells")?;
        keys.extend(unfinished.into_iter().map(|upload| upload.key + " (unfinished)"));
        Ok((whole, keys))
    }

    /// After how many steps it goes on if its coordinator dies now: after its newest commit, or a checkpoint of its
    /// present lineage that is whole and that nobody lived to journal.
    ///
    /// # Errors
    /// As [`Self::history`] and [`Self::checkpoints`].
    pub async fn goes_on_after(&self) -> Result<u64> {
        let history = self.history().await?;
        let present = history.iter().rev().find_map(|event| match event {
            Fact::Generation { lineage, .. } => Some(*lineage),
            _ => None,
        });
        let present = present.unwrap_or_default();
        let (whole, _) = self.checkpoints().await?;
        let stored = whole.into_iter().filter(|id| id.lineage == present);
        Ok(stored.map(|id| id.step).chain(newest_commit(&history)).max().unwrap_or(0))
    }
}

/// The last commit of a history, which is where a generation behind it begins.
pub fn newest_commit(history: &[Fact]) -> Option<u64> {
    history.iter().rev().find_map(|event| match event {
        Fact::Checkpointed { step, .. } => Some(*step),
        _ => None,
    })
}

/// After how many steps each generation began. Panics unless it was at the newest commit of that moment.
pub fn starts(history: &[Fact]) -> Vec<u64> {
    let generations = history.iter().enumerate().filter_map(|(at, event)| match event {
        Fact::Generation { step, .. } => Some((at, *step)),
        _ => None,
    });
    let started = |(at, step)| {
        let newest = newest_commit(&history[..at]).unwrap_or(0);
        assert_eq!(step, newest, "not where the newest commit is: {history:#?}");
        step
    };
    generations.map(started).collect()
}
