//! What workers and the coordinator say to each other, as domain types; the crate `wire` has their twins in gRPC.

use crate::id::{Epoch, Generation, Incarnation, Lineage, RunId, WorkerId};
use crate::manifest::File;
use crate::receipt::{Receipt, Skipped};
use std::ops::Range;
use std::time::Duration;

/// The first thing that a worker says on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`crate::PROTOCOL`] of its build.
    pub protocol: u32,
    /// Its slot.
    pub worker: WorkerId,
    /// Its process.
    pub incarnation: Incarnation,
    /// The kind of device: members of a run share one.
    pub device: String,
    /// Computing threads.
    pub threads: u32,
    /// Where peers reach its collective listener.
    pub ring: String,
    /// What it is still training.
    pub attachment: Option<Attachment>,
    /// How the process before it in its slot ended, in words.
    pub last_end: Option<String>,
}

/// A duty that outlived its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The membership.
    pub place: Place,
    /// Steps committed.
    pub step: u64,
}

/// What a computing thread is at, for naming a hang's culprit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum Phase {
    /// Nothing.
    #[default]
    Idle = 1,
    /// Tokenizing.
    Preparing = 2,
    /// Reading the base, the data or a checkpoint.
    Loading = 3,
    /// Forward and backward.
    Computing = 4,
    /// Inside a collective.
    Reducing = 5,
    /// Measuring the held-out loss.
    Evaluating = 6,
    /// Taking a snapshot.
    Saving = 7,
}

/// Figures of one committed step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDone {
    /// 0-based index of the step.
    pub step: u64,
    /// The global batch's, equal on every rank.
    pub loss: f64,
    /// What the update used.
    pub learning_rate: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Not applied: skipped for a non-finite gradient.
    pub applied: bool,
    /// This rank's.
    pub samples: u64,
    /// This rank's: order-independent.
    pub samples_digest: u64,
    /// This rank's, trained or not.
    pub tokens: u64,
    /// This rank's targets with a weight.
    pub trained_tokens: u64,
    /// Time in forward and backward.
    pub compute: Duration,
    /// Time waiting for reductions after the last backward.
    pub reduce_wait: Duration,
    /// This rank's, by source.
    pub sources: Vec<SourceSum>,
}

/// A rank's share of a step, or of the held-out set, that is of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SourceSum {
    /// Its index in the spec: of those trained on, or of those evaluated on.
    pub source: u32,
    /// Sum of weight * nll.
    pub loss_sum: f64,
    /// Sum of weights.
    pub weight: f64,
    /// Targets with a weight.
    pub trained_tokens: u64,
}

/// Where in a run's history a report belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The run.
    pub run: RunId,
    /// The membership under which it happened.
    pub generation: Generation,
    /// The lineage.
    pub lineage: Lineage,
}

/// What came of a raw shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardOutcome {
    /// What became of its records; places count from the shard's start.
    pub receipt: Receipt,
    /// Lines or rows that it has, so that the next shard of its object can count on.
    pub positions: u64,
    /// Samples in each part of the prepared shard.
    pub parts: Vec<u64>,
}

/// The rank that another one lost, or could not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// The accused rank.
    pub rank: u32,
    /// No connection with it was ever made.
    pub connecting: bool,
    /// The accuser's other neighbour, if a connection with that one was made.
    pub met: Option<u32>,
}

/// Whose fault a trouble is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Cause {
    /// A collective broke: somebody else's.
    Peer = 1,
    /// The data set's: the run fails.
    Data = 2,
    /// The base model's or its tokenizer's: the run fails.
    Model = 3,
    /// The object store's.
    Storage = 4,
    /// This worker's own.
    Internal = 5,
    /// The checkpoint to start from is not what was committed.
    Checkpoint = 6,
    /// The ranks do not hold the same state.
    Diverged = 7,
}

/// A rank's part of a checkpoint, once it is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedPart {
    /// The files.
    pub files: Vec<File>,
    /// Of the whole state at that step: parameters, moments and update count. Equal on every rank.
    pub digest: String,
}

/// What a worker reports.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// It is here.
    Hello(Hello),
    /// It lives.
    Beat {
        /// Steps committed.
        step: u64,
        /// What it is at.
        phase: Phase,
        /// Number of its current or last collective.
        collective: u64,
    },
    /// A raw shard is tokenized and stored.
    ShardPrepared {
        /// The run that it was leased for.
        run: RunId,
        /// The raw shard.
        shard: u32,
        /// What came of it.
        outcome: ShardOutcome,
    },
    /// Base, tokenizer and data are in memory.
    Loaded {
        /// The run.
        run: RunId,
        /// Of the state that training begins with, as this worker has read it.
        base_digest: String,
    },
    /// A step was committed.
    StepDone(Place, StepDone),
    /// A committed step changed nothing: every rank names the samples of all.
    Skipped(Place, Skipped),
    /// Its share of the held-out set is measured.
    Evaluated(Place, u64, Vec<SourceSum>),
    /// Its part of the checkpoint after so many steps is on its way.
    PartBegun(Place, u64),
    /// Its part of the checkpoint after so many steps could not be stored, and why.
    PartFailed(Place, u64, String),
    /// Its part of the checkpoint after `step` steps is stored.
    PartSaved(Place, u64, SavedPart),
    /// The computing thread ended its duty in order.
    Stopped {
        /// The run.
        run: RunId,
        /// The membership that it leaves.
        generation: Generation,
        /// Steps committed.
        step: u64,
    },
    /// The computing thread, a loader or an upload failed.
    Trouble {
        /// The run.
        run: RunId,
        /// 0: outside training.
        generation: Generation,
        /// Steps committed.
        step: u64,
        /// Whose fault.
        cause: Cause,
        /// In words.
        message: String,
        /// The raw shard that it failed on.
        shard: Option<u32>,
        /// The rank that it lost, or could not reach.
        accusation: Option<Accusation>,
    },
    /// It was told to go.
    Leaving {
        /// How long it can stay.
        deadline: Duration,
    },
}

/// What a worker should be doing now.
#[derive(Clone, Debug, PartialEq)]
pub struct Directive {
    /// Lower than one seen before: ignored.
    pub epoch: Epoch,
    /// How often to beat.
    pub beat: Duration,
    /// The duty.
    pub duty: Duty,
    /// Steps of the run that it trains that are recorded: no need to report them again.
    pub heard: u64,
}

/// The whole of a worker's duty.
#[derive(Clone, Debug, PartialEq)]
pub enum Duty {
    /// Wait.
    Idle,
    /// Tokenize raw shards.
    Prepare(Prepare),
    /// Have base and data in memory, and hold no training state.
    Load(Load),
    /// Be a member.
    Train(Train),
    /// End the process.
    Dismissed {
        /// Why.
        reason: String,
        /// It was never welcome and must not come back.
        refused: bool,
    },
    /// Close the stream and try again later: another process has this worker's name, and lives.
    NotNow {
        /// Which.
        reason: String,
    },
}

/// Raw shards to tokenize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// The run.
    pub run: RunId,
    /// Its resolved spec.
    pub spec_yaml: String,
    /// Names the prepared data set.
    pub fingerprint: String,
    /// In this order.
    pub shards: Vec<RawShard>,
}

/// A piece of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawShard {
    /// Among all of the run.
    pub index: u32,
    /// Index of the source in the spec: training sources first, then held-out ones.
    pub source: u32,
    /// The object.
    pub url: String,
    /// Its pinned size.
    pub bytes: u64,
    /// Its pinned identity, where the store has one.
    pub etag: Option<String>,
    /// Its pinned time of change.
    pub modified_ms: u64,
    /// The bytes of the object in which this shard's records begin; all of them where it is not cut.
    pub range: Range<u64>,
}

/// What a worker must have in memory to become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The run.
    pub run: RunId,
    /// Its resolved spec.
    pub spec_yaml: String,
    /// Names the prepared data set.
    pub fingerprint: String,
    /// What the plan's chunks must add up to.
    pub plan_digest: String,
}

/// A membership and this worker's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Train {
    /// As for a load.
    pub load: Load,
    /// The membership.
    pub generation: Generation,
    /// The lineage.
    pub lineage: Lineage,
    /// This worker's.
    pub rank: u32,
    /// Ring addresses by rank.
    pub members: Vec<String>,
    /// Proves membership between peers.
    pub ring_key: [u8; 32],
    /// Where to start from; none: the base.
    pub checkpoint: Option<Start>,
    /// Measure the held-out loss before the first step.
    pub evaluate_first: bool,
    /// Stop after the current step, with a checkpoint.
    pub stop: bool,
    /// Of the base, once it is recorded.
    pub base_digest: Option<String>,
}

/// A committed checkpoint, to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its manifest.
    pub manifest: String,
    /// The manifest's SHA-256, as the journal has it.
    pub sha256: String,
}

impl Train {
    /// Where reports of this duty belong.
    pub fn place(&self) -> Place {
        Place { run: self.load.run.clone(), generation: self.generation, lineage: self.lineage }
    }
}
