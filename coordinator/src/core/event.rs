//! The events that the core handles.

use super::Settings;
use proto::event::Failure;
use proto::id::{Incarnation, Lineage, RunId, WorkerId};
use proto::protocol::{RawShard, Report};
use std::collections::BTreeSet;

/// One gRPC stream. A worker that reconnects has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream(pub u64);

/// Identifies a caller that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// Why a run fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where the fault lies.
    pub kind: Failure,
    /// What went wrong and where, with a hint.
    pub message: String,
}

/// Something that happened, as the core takes it in.
#[derive(Clone, Debug)]
pub enum Event {
    /// A user submits a run.
    Submit {
        /// The caller that waits for the answer.
        ticket: Ticket,
        /// A new name for the run, which is not used if the key is known.
        run: RunId,
        /// The user's idempotency key.
        idempotency_key: String,
        /// The resolved spec.
        spec_yaml: String,
        /// The settings of the spec that the core needs.
        settings: Settings,
        /// The name in the user's credentials, if they were asked for.
        by: Option<String>,
    },
    /// A user cancels a run.
    Cancel {
        /// The caller that waits for the answer.
        ticket: Ticket,
        /// The run.
        run: RunId,
        /// The name in the user's credentials, if they were asked for.
        by: Option<String>,
    },
    /// The coordinator closes: every run stops gracefully, with a checkpoint, and no new run is accepted.
    Close,
    /// A worker has sent a report.
    Reported {
        /// The worker's stream.
        stream: Stream,
        /// The report.
        report: Report,
    },
    /// Beats have arrived on these streams.
    Beats {
        /// The streams.
        streams: BTreeSet<Stream>,
    },
    /// A worker's stream ended.
    Hangup {
        /// The worker's stream.
        stream: Stream,
    },
    /// A worker's ring address was dialled.
    Dialled {
        /// The worker.
        worker: WorkerId,
        /// The process that reported the address.
        incarnation: Incarnation,
        /// An error if the address cannot be reached.
        outcome: Result<(), String>,
    },
    /// The sources are listed.
    Surveyed {
        /// The run.
        run: RunId,
        /// The survey, or why the run fails.
        outcome: Result<Survey, Fault>,
    },
    /// The repeated check for a prepared data set is over.
    FoundPrepared {
        /// The run.
        run: RunId,
        /// Whether the data set is prepared.
        found: bool,
    },
    /// The sources of a run that goes on were compared with the objects that its data was prepared from.
    Compared {
        /// The run.
        run: RunId,
        /// How they differ, in a sentence; `None` if they do not.
        difference: Option<String>,
    },
    /// The plan is stored, or could not be made.
    Planned {
        /// The run.
        run: RunId,
        /// The plan's digest and number of steps, or why the run fails.
        outcome: Result<PlanOutline, Fault>,
    },
    /// A checkpoint's manifest is stored, or could not be.
    Sealed {
        /// The run.
        run: RunId,
        /// The checkpoint's lineage.
        lineage: Lineage,
        /// Steps committed in the checkpoint.
        step: u64,
        /// The manifest's SHA-256, or why it could not be stored.
        outcome: Result<String, String>,
    },
    /// The finished model is published, or could not be.
    Published {
        /// The run.
        run: RunId,
        /// The path or URL of the model, or why it could not be published.
        outcome: Result<String, String>,
    },
    /// Another coordinator has taken over the run, so its journal could not be appended to.
    RunLost {
        /// The run.
        run: RunId,
        /// Which coordinator has the run, with a hint.
        message: String,
    },
    /// Some time has passed.
    Tick,
}

/// The objects of a run's sources, cut into raw shards.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The fingerprint of the data set, which covers everything that changes a token.
    pub fingerprint: String,
    /// The raw shards to prepare.
    pub shards: Vec<RawShard>,
    /// A data set of the same fingerprint was prepared before.
    pub cached: bool,
}

/// What the core needs to know of a stored plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanOutline {
    /// The digest of the plan, which workers check.
    pub digest: String,
    /// Total number of optimizer steps.
    pub steps: u64,
    /// The account of every record, with the held-out samples counted separately.
    pub receipt: proto::receipt::Receipt,
    /// Figures for people, which the `planned` notice shows.
    pub summary: serde_json::Value,
}
