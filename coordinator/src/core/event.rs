//! What the core is told.

use super::Settings;
use proto::event::Failure;
use proto::id::{Incarnation, Lineage, RunId, WorkerId};
use proto::protocol::{RawShard, Report};
use std::collections::BTreeSet;

/// One gRPC stream: a worker that comes back has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream(pub u64);

/// A caller that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// Why a run ends badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose fault it is.
    pub kind: Failure,
    /// What, where, and the hint.
    pub message: String,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A user submits a run.
    Submit {
        /// Who waits for the answer.
        ticket: Ticket,
        /// A fresh name; not used if the key is known.
        run: RunId,
        /// The user's key.
        idempotency_key: String,
        /// The resolved spec.
        spec_yaml: String,
        /// What this core needs of it.
        settings: Settings,
    },
    /// A user wants a run to end.
    Cancel {
        /// Who waits for the answer.
        ticket: Ticket,
        /// The run.
        run: RunId,
    },
    /// Stop every run gracefully, with a checkpoint, and take no new one.
    Close,
    /// A worker's stream said something.
    Reported {
        /// The stream.
        stream: Stream,
        /// What it said.
        report: Report,
    },
    /// The workers on these streams live.
    Beats {
        /// The streams.
        streams: BTreeSet<Stream>,
    },
    /// A worker's stream ended.
    Hangup {
        /// The stream.
        stream: Stream,
    },
    /// A worker's ring address was dialled.
    Dialled {
        /// The worker.
        worker: WorkerId,
        /// The process that named the address.
        incarnation: Incarnation,
        /// Why it cannot be reached.
        outcome: Result<(), String>,
    },
    /// The sources are listed.
    Surveyed {
        /// The run.
        run: RunId,
        /// What there is.
        outcome: Result<Survey, Fault>,
    },
    /// It was looked for prepared data.
    FoundPrepared {
        /// The run.
        run: RunId,
        /// It is there.
        found: bool,
    },
    /// The sources of a run that goes on were held against what its data was prepared from.
    Compared {
        /// The run.
        run: RunId,
        /// How they differ, in a sentence.
        difference: Option<String>,
    },
    /// The plan is stored.
    Planned {
        /// The run.
        run: RunId,
        /// Digest and number of steps.
        outcome: Result<PlanOutline, Fault>,
    },
    /// A checkpoint's manifest is stored, or is not.
    Sealed {
        /// The run.
        run: RunId,
        /// Its lineage.
        lineage: Lineage,
        /// Steps committed.
        step: u64,
        /// The manifest's SHA-256.
        outcome: Result<String, String>,
    },
    /// The finished model lies where users look for it.
    Published {
        /// The run.
        run: RunId,
        /// Where.
        outcome: Result<String, String>,
    },
    /// Another coordinator has the run now: its journal could not be appended to.
    RunLost {
        /// The run.
        run: RunId,
        /// Who, and the hint.
        message: String,
    },
    /// Time has passed.
    Tick,
}

/// What the sources hold.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Names the prepared data set: everything that changes a token is in it.
    pub fingerprint: String,
    /// What there is to prepare.
    pub shards: Vec<RawShard>,
    /// The same was prepared before.
    pub cached: bool,
}

/// What the core needs to know of a stored plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanOutline {
    /// What workers must find.
    pub digest: String,
    /// Optimizer steps in all.
    pub steps: u64,
    /// What became of every record, held-out ones told apart.
    pub receipt: proto::receipt::Receipt,
    /// For people: what the `planned` notice carries.
    pub summary: serde_json::Value,
}
