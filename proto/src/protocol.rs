//! The messages between workers and the coordinator, as domain types. The crate `wire` converts them to gRPC
//! messages.

use crate::event::Failure;
use crate::id::{Epoch, Generation, Incarnation, Lineage, RunId, WorkerId};
use crate::manifest::File;
use crate::receipt::{Receipt, Skipped};
use std::ops::Range;
use std::time::Duration;

/// The first report of a worker on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`crate::PROTOCOL`] of its build.
    pub protocol: u32,
    /// The name of its slot.
    pub worker: WorkerId,
    /// The identity of its process.
    pub incarnation: Incarnation,
    /// The kind of its device. All members of a run have the same.
    pub device: String,
    /// Number of computing threads.
    pub threads: u32,
    /// The address of its collective listener, for its peers.
    pub ring: String,
    /// The membership in which it is still training.
    pub attachment: Option<Attachment>,
    /// How the previous process in its slot ended, as text.
    pub last_end: Option<String>,
}

/// A membership in which a worker kept training when its stream broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The membership.
    pub place: Place,
    /// Number of steps committed.
    pub step: u64,
}

/// What the training thread is doing, so that the cause of a hang can be named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum Phase {
    /// Doing nothing.
    #[default]
    Idle = 1,
    /// Tokenizing raw shards.
    Preparing = 2,
    /// Reading the base, the data or a checkpoint.
    Loading = 3,
    /// Computing forward and backward.
    Computing = 4,
    /// Taking part in a collective.
    Reducing = 5,
    /// Measuring the held-out loss.
    Evaluating = 6,
    /// Taking a snapshot.
    Saving = 7,
}

/// Figures of one committed step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDone {
    /// The step's index, from 0.
    pub step: u64,
    /// The loss of the global batch, equal on every rank.
    pub loss: f64,
    /// The learning rate of the update.
    pub learning_rate: f64,
    /// The global gradient norm before clipping.
    pub grad_norm: f64,
    /// Whether the update was applied. It is skipped if the gradient is not finite.
    pub applied: bool,
    /// Number of samples of this rank.
    pub samples: u64,
    /// Order-independent digest of the samples of this rank.
    pub samples_digest: u64,
    /// Number of tokens of this rank, trained or not.
    pub tokens: u64,
    /// Number of trained tokens of this rank.
    pub trained_tokens: u64,
    /// Time spent in forward and backward.
    pub compute: Duration,
    /// Time spent waiting for reductions after the last backward.
    pub reduce_wait: Duration,
    /// Sums of this rank, by source.
    pub sources: Vec<SourceSum>,
}

/// Sums over the targets of one source in a rank's share of a step or of the held-out set.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SourceSum {
    /// The source's index in the spec, among the sources to train on or among those to evaluate on.
    pub source: u32,
    /// Sum of weight * negative log-likelihood.
    pub loss_sum: f64,
    /// Sum of weights.
    pub weight: f64,
    /// Number of targets with a weight above 0.
    pub trained_tokens: u64,
}

/// The membership of a run to which a report belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The run.
    pub run: RunId,
    /// The number of the membership.
    pub generation: Generation,
    /// The lineage.
    pub lineage: Lineage,
}

/// The result of preparing a raw shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardOutcome {
    /// The receipt of its records. Places count from the start of the shard.
    pub receipt: Receipt,
    /// The number of its lines or rows, from which the positions of the object's next shard count.
    pub positions: u64,
    /// The number of samples in each part of the prepared shard.
    pub parts: Vec<u64>,
}

/// The rank that another rank lost or could not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// The accused rank.
    pub rank: u32,
    /// Whether no connection to it was ever made.
    pub connecting: bool,
    /// The accuser's other neighbour, if a connection to that one was made.
    pub met: Option<u32>,
}

/// What caused a trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Cause {
    /// A collective broke, because of another worker.
    Peer = 1,
    /// The data set. The run fails.
    Data = 2,
    /// The base model or its tokenizer, or that there is not enough memory for it. The run fails.
    Model = 3,
    /// The object store.
    Storage = 4,
    /// This worker itself.
    Internal = 5,
    /// The checkpoint to start from is not what was committed.
    Checkpoint = 6,
    /// The ranks have different states.
    Diverged = 7,
}

/// A rank's stored part of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedPart {
    /// Its files.
    pub files: Vec<File>,
    /// Digest of the whole state at that step: parameters, moments and update count. Equal on every rank.
    pub digest: String,
    /// How long training stood still for it on this rank.
    pub pause: Duration,
}

/// A message from a worker to the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The worker introduces itself.
    Hello(Hello),
    /// The worker is alive.
    Beat {
        /// Number of steps committed.
        step: u64,
        /// What the training thread is doing.
        phase: Phase,
        /// Number of its current or last collective.
        collective: u64,
    },
    /// A raw shard is tokenized and stored.
    ShardPrepared {
        /// The run that it was leased for.
        run: RunId,
        /// The index of the raw shard.
        shard: u32,
        /// The result.
        outcome: ShardOutcome,
    },
    /// Base, tokenizer and data are in memory.
    Loaded {
        /// The run.
        run: RunId,
        /// Digest of the state that training begins with, as this worker has read it.
        base_digest: String,
    },
    /// A step was committed.
    StepDone(Place, StepDone),
    /// A committed step was skipped. Every rank reports the samples of all ranks.
    Skipped(Place, Skipped),
    /// The worker has measured its share of the held-out set after this number of steps.
    Evaluated(Place, u64, Vec<SourceSum>),
    /// The upload of the worker's part of the checkpoint after this number of steps has begun.
    PartBegun(Place, u64),
    /// The worker's part of the checkpoint after this number of steps could not be stored, and why.
    PartFailed(Place, u64, String),
    /// The worker's part of the checkpoint after this number of steps is stored.
    PartSaved(Place, u64, SavedPart),
    /// The training thread ended its duty gracefully.
    Stopped {
        /// The run.
        run: RunId,
        /// The membership that it left.
        generation: Generation,
        /// Number of steps committed.
        step: u64,
    },
    /// The training thread, a loader or an upload failed.
    Trouble {
        /// The run.
        run: RunId,
        /// The membership, or 0 outside training.
        generation: Generation,
        /// Number of steps committed.
        step: u64,
        /// The cause.
        cause: Cause,
        /// The error message.
        message: String,
        /// The raw shard on which it failed.
        shard: Option<u32>,
        /// The rank that it lost or could not reach.
        accusation: Option<Accusation>,
    },
    /// The worker was asked to leave, for example by a signal.
    Leaving {
        /// How long it can stay.
        deadline: Duration,
    },
}

/// A message from the coordinator to a worker: everything that the worker should be doing now.
#[derive(Clone, Debug, PartialEq)]
pub struct Directive {
    /// The coordinator's epoch. A worker ignores a directive with a lower epoch than it has seen.
    pub epoch: Epoch,
    /// The interval between beats.
    pub beat: Duration,
    /// The duty.
    pub duty: Duty,
    /// The number of steps of the current run that the coordinator has recorded. The worker need not report them
    /// again.
    pub heard: u64,
}

/// Why a worker is dismissed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dismissal {
    /// It does not fit, and must not come back.
    Refused,
    /// The coordinator closes before its run has ended. The run can be continued.
    Closing,
    /// The run has succeeded.
    Succeeded,
    /// The run has failed.
    Failed(Failure),
    /// The run was cancelled.
    Cancelled,
}

/// A worker's whole duty.
#[derive(Clone, Debug, PartialEq)]
pub enum Duty {
    /// Wait.
    Idle,
    /// Tokenize raw shards.
    Prepare(Prepare),
    /// Load base and data into memory, without any training state.
    Load(Load),
    /// Train as a member of a membership.
    Train(Train),
    /// End the process.
    Dismissed {
        /// Why the worker is dismissed, as text.
        reason: String,
        /// The same, for the process's exit code.
        why: Dismissal,
    },
    /// Close the stream and try again later, because another live process has this worker's name.
    NotNow {
        /// The other process, as text.
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
    /// The fingerprint of the prepared data set.
    pub fingerprint: String,
    /// The shards, in the order in which they are to be prepared.
    pub shards: Vec<RawShard>,
}

/// A range of one object of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawShard {
    /// Its index among all raw shards of the run.
    pub index: u32,
    /// The index of its source in the spec: first training sources, then evaluation sources, then benchmarks.
    pub source: u32,
    /// The URL or path of the object.
    pub url: String,
    /// The size that the object must have.
    pub bytes: u64,
    /// The ETag that the object must have, if the store has one.
    pub etag: Option<String>,
    /// The time of change that the object must have, in milliseconds since 1970.
    pub modified_ms: u64,
    /// The bytes of the object in which this shard's records begin. The whole object if it is not divided.
    pub range: Range<u64>,
}

/// What a worker must have in memory to become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The run.
    pub run: RunId,
    /// Its resolved spec.
    pub spec_yaml: String,
    /// The fingerprint of the prepared data set.
    pub fingerprint: String,
    /// The digest that the plan must have.
    pub plan_digest: String,
}

/// A membership and this worker's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Train {
    /// What the worker must have in memory.
    pub load: Load,
    /// The number of the membership.
    pub generation: Generation,
    /// The lineage.
    pub lineage: Lineage,
    /// This worker's rank.
    pub rank: u32,
    /// Ring addresses by rank.
    pub members: Vec<String>,
    /// The key with which peers prove their membership to each other.
    pub ring_key: [u8; 32],
    /// The checkpoint to start from, or `None` to start from the base.
    pub checkpoint: Option<Start>,
    /// Whether to measure the held-out loss before the first step.
    pub evaluate_first: bool,
    /// Whether to stop after the current step, with a checkpoint.
    pub stop: bool,
    /// The digest that the base must have, once it is recorded.
    pub base_digest: Option<String>,
}

/// A committed checkpoint to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The key of its manifest.
    pub manifest: String,
    /// The manifest's SHA-256 in the journal.
    pub sha256: String,
}

impl Train {
    /// The place to which reports of this duty belong.
    pub fn place(&self) -> Place {
        Place { run: self.load.run.clone(), generation: self.generation, lineage: self.lineage }
    }

    /// Number of members on this worker's host, including itself.
    pub fn on_host(&self) -> usize {
        let host = |member: &str| member.rsplit_once(':').map(|(host, _)| host.to_owned());
        let own = self.members.get(self.rank as usize).and_then(|member| host(member));
        self.members.iter().filter(|member| host(member) == own).count()
    }
}
