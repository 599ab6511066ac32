//! The facts in the journals of runs and pools. A run's state is the fold of its facts, so that a coordinator
//! starts by replaying them.

mod entry;

pub use entry::{Entry, EntryError};

use crate::id::{Epoch, Generation, Lineage, RunId, WorkerId};
use crate::receipt::Skipped;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// A coordinator process, with the address at which it can be asked whether it still holds what it claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// A token of this process only. A process that answers with another token is not the holder.
    pub token: String,
    /// The host that it runs on.
    pub host: String,
    /// Its address, `http://host:port`. It may be a loopback address of the host.
    pub url: String,
}

/// An item of a journal.
pub trait Journaled: Serialize + DeserializeOwned {
    /// The coordinator that claimed the journal with this item, if it is a claim.
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
    /// A user asked for something, with credentials. Stands beside the fact that the request led to.
    Requested {
        /// What the user asked for.
        action: Action,
        /// The name in the user's credentials.
        by: String,
    },
    /// A coordinator took the run over.
    Claimed {
        /// Its epoch, higher than any before it in this journal.
        epoch: Epoch,
        /// The coordinator. Entries of older versions do not contain it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<Holder>,
    },
    /// A run that had ended begins another attempt, from its newest checkpoint.
    Resumed {
        /// The number of the attempt. The first resumption is attempt 2.
        attempt: u64,
        /// The resolved spec that applies from now on.
        spec_yaml: String,
    },
    /// All members of the first generation have read the same base.
    Based {
        /// Digest of the state that training begins with. Every later member must have the same.
        digest: String,
    },
    /// The data set is prepared.
    Prepared {
        /// The fingerprint of the prepared data set.
        fingerprint: String,
    },
    /// The plan is stored.
    Planned {
        /// The digest that the plan must have when workers read it.
        digest: String,
        /// The total number of optimizer steps.
        steps: u64,
    },
    /// A membership was formed. The entry is durable before the membership is announced.
    Generation {
        /// The number of the membership, which rises for as long as the run exists.
        generation: Generation,
        /// The lineage, which rises when the run goes back to an earlier state.
        lineage: Lineage,
        /// Number of steps committed when it starts.
        step: u64,
        /// The members, by rank.
        members: Vec<WorkerId>,
    },
    /// The held-out loss was measured by all ranks.
    Evaluated {
        /// Number of steps committed when it was measured.
        step: u64,
        /// The loss over all sources. NaN if it was not finite, which JSON writes as `null`.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// The loss of each source, `None` if the source has nothing held out or its loss was not finite.
        by_source: Vec<Option<f64>>,
    },
    /// A checkpoint is complete. This entry is its commit.
    Checkpointed {
        /// The lineage in which it was written.
        lineage: Lineage,
        /// Steps committed.
        step: u64,
        /// SHA-256 of the manifest.
        manifest_sha256: String,
    },
    /// A checkpoint is not what was committed. It is not used any more.
    Damaged {
        /// Its lineage.
        lineage: Lineage,
        /// Steps committed.
        step: u64,
    },
    /// A step of the current lineage was skipped. A later generation that starts before this step cancels the fact.
    Skipped(Skipped),
    /// Something went wrong and was dealt with.
    Incident {
        /// The worker concerned, if any.
        worker: Option<WorkerId>,
        /// What happened, in words.
        message: String,
    },
    /// The run stopped gracefully, with a checkpoint. It can be continued with `--resume`.
    Paused {
        /// Steps committed.
        step: u64,
    },
    /// A user cancelled the run.
    Cancelled,
    /// The run ended with an error.
    Failed {
        /// The kind of error.
        kind: Failure,
        /// The error, with its cause and hint.
        message: String,
    },
    /// The run ended successfully.
    Succeeded {
        /// Location of the model.
        model: String,
    },
}

/// Something that users ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// To submit the run.
    Submit,
    /// To resume the run after it has ended.
    Resume,
    /// To cancel the run.
    Cancel,
}

/// The kind of error that ended a run. It decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The spec, the base model or the arguments are wrong.
    User,
    /// The data set is wrong.
    Data,
    /// Machines, processes or storage failed.
    Infrastructure,
}

/// One fact of a pool's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PoolEvent {
    /// A `coordinator serve` took the pool over.
    Opened {
        /// Its epoch, higher than any before it in this journal.
        epoch: Epoch,
        /// The coordinator. Entries of older versions do not contain it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<Holder>,
    },
    /// A user submitted a run.
    Submitted {
        /// The run.
        run: RunId,
        /// The idempotency key of the submission.
        idempotency_key: String,
    },
    /// A user resumed a run that had ended. It goes to the end of the queue.
    Resumed {
        /// The run.
        run: RunId,
    },
}

/// Reads a floating-point number. JSON cannot represent NaN and infinities and writes them as `null`, which is read
/// as NaN.
///
/// # Errors
/// The deserializer's error, for anything except a number or `null`.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Journaled for Fact {
    fn claimed_by(&self) -> Option<&Holder> {
        match self {
            Self::Claimed { holder, .. } => holder.as_ref(),
            Self::Submitted { .. }
            | Self::Requested { .. }
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
