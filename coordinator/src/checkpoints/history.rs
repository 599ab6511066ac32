//! Differences between a run's journal and its checkpoints in storage: sealed checkpoints that were not journaled, and
//! journaled ones that were deleted since.

use super::retain::stored;
use proto::event::Fact;
use proto::id::{CheckpointId, RunId};
use proto::{key, manifest};
use std::collections::BTreeSet;
use storage::Storage;

/// Returns a [`Fact::Damaged`] for every checkpoint in `history` that was deleted since, because newer ones replaced
/// it. The newest checkpoint is not looked for, since it is never deleted: if it is missing, restoring it must fail.
///
/// # Errors
/// An error of the store.
pub async fn replaced(
    storage: &Storage,
    run: &RunId,
    history: &[Fact],
) -> Result<Vec<Fact>, storage::Error> {
    let mut known: BTreeSet<_> = history
        .iter()
        .filter_map(|event| match event {
            Fact::Checkpointed { lineage, step, .. } => {
                Some(CheckpointId { lineage: *lineage, step: *step })
            }
            _ => None,
        })
        .collect();
    known.pop_last();
    if known.is_empty() || is_over(history) {
        return Ok(Vec::new());
    }
    let stored = stored(storage, run).await?;
    let gone = known.into_iter().filter(|id| stored.get(id) != Some(&true));
    Ok(gone.map(|CheckpointId { lineage, step }| Fact::Damaged { lineage, step }).collect())
}

/// Whether the run has succeeded or was cancelled, so that only another attempt can follow.
pub(crate) fn is_over(history: &[Fact]) -> bool {
    let end = history.iter().rev().find(|event| {
        matches!(event, Fact::Succeeded { .. } | Fact::Cancelled | Fact::Resumed { .. })
    });
    end.is_some_and(|event| !matches!(event, Fact::Resumed { .. }))
}

/// Returns a [`Fact::Checkpointed`] for every checkpoint that was sealed but not journaled, because the coordinator
/// died in between. These have a manifest in storage, belong to the last lineage of `history`, and are newer than its
/// last checkpoint.
///
/// # Errors
/// An error of the store.
pub async fn uncommitted(
    storage: &Storage,
    run: &RunId,
    history: &[Fact],
) -> Result<Vec<Fact>, storage::Error> {
    let present = history.iter().rev().find_map(|event| match event {
        Fact::Generation { lineage, .. } => Some(*lineage),
        _ => None,
    });
    let Some(present) = present.filter(|_| !is_over(history)) else {
        return Ok(Vec::new());
    };
    let known = |id: &CheckpointId| {
        history.iter().any(|event| match event {
            Fact::Checkpointed { lineage, step, .. } | Fact::Damaged { lineage, step } => {
                CheckpointId { lineage: *lineage, step: *step } >= *id
            }
            _ => false,
        })
    };
    let mut found = Vec::new();
    for folder in storage.folders(&key::checkpoints(run)).await? {
        let id = key::checkpoint_id(&folder).filter(|id| id.lineage == present && !known(id));
        let Some(CheckpointId { lineage, step }) = id else { continue };
        match storage.read(&key::manifest(run, lineage, step)).await {
            Ok(body) => {
                let manifest_sha256 = manifest::sha256(&body);
                found.push(Fact::Checkpointed { lineage, step, manifest_sha256 });
            }
            Err(storage::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
