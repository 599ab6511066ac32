//! A run's history: what its journal holds. State is the fold of these, so a start is a replay.

mod entry;

pub use entry::{Entry, EntryError};

use crate::id::{Epoch, Generation, Lineage, RunId, WorkerId};
use crate::receipt::Skipped;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// A coordinator's process, and where it can be asked whether it still holds what it claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Of this process only: whoever answers with another is another.
    pub token: String,
    /// The host that it runs on.
    pub host: String,
    /// Where it answers: `http://host:port`, perhaps of the host's loopback.
    pub url: String,
}

/// What journals are made of.
pub trait Journaled: Serialize + DeserializeOwned {
    /// Who took the journal over with it.
    fn claimed_by(&self) -> Option<&Holder>;
}

/// One fact of a run's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Fact {
    /// The run exists.
    Submitted {
        /// The resolved spec.
        spec_yaml: String,
    },
    /// A coordinator took the run over.
    Claimed {
        /// Its epoch: higher than any before it in this journal.
        epoch: Epoch,
        /// Who it is; of an older version, nobody knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<Holder>,
    },
    /// Another attempt of a run that had ended begins, from its newest checkpoint.
    Resumed {
        /// 2 for the first that follows an end.
        attempt: u64,
        /// The resolved spec that holds from here on.
        spec_yaml: String,
    },
    /// The state that training begins with, as all members of the first generation have read it.
    Based {
        /// What every later member's must be.
        digest: String,
    },
    /// The data set is prepared.
    Prepared {
        /// Names the prepared data set.
        fingerprint: String,
    },
    /// The plan is stored.
    Planned {
        /// What workers must find.
        digest: String,
        /// Optimizer steps in all.
        steps: u64,
    },
    /// A membership, persisted before it was announced.
    Generation {
        /// Rises for as long as the run exists.
        generation: Generation,
        /// Rises when the run went back.
        lineage: Lineage,
        /// Steps committed where it starts.
        step: u64,
        /// By rank.
        members: Vec<WorkerId>,
    },
    /// The held-out loss, complete over all ranks.
    Evaluated {
        /// Steps committed when it was measured.
        step: u64,
        /// In all; NaN where it was not finite, which JSON writes as `null`.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// By source, null where a source has nothing held out or its loss was not finite.
        by_source: Vec<Option<f64>>,
    },
    /// A checkpoint is whole: this entry is its commit.
    Checkpointed {
        /// The lineage that it continues.
        lineage: Lineage,
        /// Steps committed.
        step: u64,
        /// SHA-256 of the manifest.
        manifest_sha256: String,
    },
    /// A checkpoint is not what was committed: nothing starts from it any more.
    Damaged {
        /// Its lineage.
        lineage: Lineage,
        /// Steps committed.
        step: u64,
    },
    /// A step of the present lineage taught nothing; a generation that begins before it takes that back.
    Skipped(Skipped),
    /// Something went wrong and was dealt with.
    Incident {
        /// The worker concerned, where there is one.
        worker: Option<WorkerId>,
        /// What happened, in words.
        message: String,
    },
    /// Stopped in order, with a checkpoint; goes on with `--resume`.
    Paused {
        /// Steps committed.
        step: u64,
    },
    /// Ended by a user, in whatever state it was.
    Cancelled,
    /// Ended by an error.
    Failed {
        /// Whose fault it was.
        kind: Failure,
        /// What, where, and the hint.
        message: String,
    },
    /// Ended well.
    Succeeded {
        /// Where the model lies.
        model: String,
    },
}

/// Whose fault a failed run was; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The spec, the base model, the arguments.
    User,
    /// The data set.
    Data,
    /// Machines, processes, storage.
    Infrastructure,
}

/// One fact of a pool's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PoolEvent {
    /// A `serve` began.
    Opened {
        /// Higher than any before it.
        epoch: Epoch,
        /// Who it is; of an older version, nobody knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<Holder>,
    },
    /// A user submitted a run.
    Submitted {
        /// The run.
        run: RunId,
        /// The user's key.
        idempotency_key: String,
    },
    /// A user resumed a run that had ended: it goes to the end of the queue.
    Resumed {
        /// The run.
        run: RunId,
    },
}

/// Reads a number that JSON may have no notation for: `null` stands for NaN and for the infinities.
///
/// # Errors
/// The deserializer's, for anything but a number or `null`.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Journaled for Fact {
    fn claimed_by(&self) -> Option<&Holder> {
        match self {
            Self::Claimed { holder, .. } => holder.as_ref(),
            Self::Submitted { .. }
            | Self::Resumed { .. }
            | Self::Based { .. }
            | Self::Prepared { .. }
            | Self::Planned { .. }
            | Self::Generation { .. }
            | Self::Evaluated { .. }
            | Self::Checkpointed { .. }
            | Self::Damaged { .. }
            | Self::Skipped(_)
            | Self::Incident { .. }
            | Self::Paused { .. }
            | Self::Cancelled
            | Self::Failed { .. }
            | Self::Succeeded { .. } => None,
        }
    }
}

impl Journaled for PoolEvent {
    fn claimed_by(&self) -> Option<&Holder> {
        match self {
            Self::Opened { holder, .. } => holder.as_ref(),
            Self::Submitted { .. } | Self::Resumed { .. } => None,
        }
    }
}
