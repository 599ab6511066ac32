//! Inspects a run in a store: its journal, its checkpoints, and leftovers.

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
    /// The run's id.
    pub id: RunId,
}

impl<'a> Stored<'a> {
    /// The only run under `storage`, if there is one.
    ///
    /// # Errors
    /// The store's error, or that there are several runs.
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

    /// The facts of the run's journal.
    ///
    /// # Errors
    /// The store's error, or that the journal cannot be replayed.
    pub async fn history(&self) -> Result<Vec<Fact>> {
        Ok(journal::read(self.storage, &key::journal(&self.id)).await?)
    }

    /// The weights of the run's finished model.
    ///
    /// # Errors
    /// The store's error.
    pub async fn weights(&self) -> Result<Weights> {
        let folder = tempfile::tempdir()?;
        for object in self.storage.list(&key::model(&self.id)).await? {
            let name = object.key.rsplit('/').next().context("a key has a name")?;
            std::fs::write(folder.path().join(name), self.storage.read(&object.key).await?)?;
        }
        Ok(weights(folder.path()))
    }

    /// The run's checkpoints, journaled or not, and everything in their folder that belongs to none of them: files
    /// that no manifest names, and unfinished uploads.
    ///
    /// # Errors
    /// The store's error, or that a manifest cannot be parsed.
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
        let unfinished =
            self.storage.unfinished(&folder).await?.context("this store lists uploads")?;
        keys.extend(unfinished.into_iter().map(|upload| upload.key + " (unfinished)"));
        Ok((whole, keys))
    }

    /// The step from which the run would continue if its coordinator died now: its newest commit, or a newer complete
    /// checkpoint of the current lineage that was not journaled yet.
    ///
    /// # Errors
    /// Those of [`Self::history`] and [`Self::checkpoints`].
    pub async fn resume_step(&self) -> Result<u64> {
        let history = self.history().await?;
        let current = history.iter().rev().find_map(|event| match event {
            Fact::Generation { lineage, .. } => Some(*lineage),
            _ => None,
        });
        let current = current.unwrap_or_default();
        let (whole, _) = self.checkpoints().await?;
        let stored = whole.into_iter().filter(|id| id.lineage == current);
        Ok(stored.map(|id| id.step).chain(newest_commit(&history)).max().unwrap_or(0))
    }
}

/// The step of the last commit of a history, at which a generation that follows begins.
pub fn newest_commit(history: &[Fact]) -> Option<u64> {
    history.iter().rev().find_map(|event| match event {
        Fact::Checkpointed { step, .. } => Some(*step),
        _ => None,
    })
}

/// The step at which each generation began. Panics if one did not begin at the commit that was newest then.
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
