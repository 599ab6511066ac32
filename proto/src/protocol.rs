//! What workers and the coordinator say to each other, as domain types; the wire's twins are converted here and
//! nowhere else. What a peer sends never panics: a message that makes no sense is an [`Error`] that names the field.

use crate::id::{Epoch, Generation, Incarnation, Lineage, RunId, WorkerId};
use crate::manifest::File;
use crate::receipt::Receipt;
use crate::wire;
use std::time::Duration;
use thiserror::Error;

/// A message that this version does not understand.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{field}`: {reason}")]
pub struct Error {
    /// The field's path in the message.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

fn refuse<T>(field: &'static str, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error {
        field,
        reason: reason.into(),
    })
}

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
}

/// A duty that outlived its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The run.
    pub run: RunId,
    /// Its membership.
    pub generation: Generation,
    /// Its lineage.
    pub lineage: Lineage,
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
}

/// One source's share of a held-out loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalSum {
    /// Index of the source in the spec.
    pub source: u32,
    /// Sum of weight * nll.
    pub loss_sum: f64,
    /// Sum of weights.
    pub weight: f64,
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
        /// What became of its records.
        receipt: Receipt,
        /// Samples in the prepared shard.
        samples: u64,
    },
    /// Base, tokenizer and data are in memory.
    Loaded {
        /// The run.
        run: RunId,
    },
    /// A step was committed.
    StepDone(Place, StepDone),
    /// Its share of the held-out set is measured.
    Evaluated(Place, u64, Vec<EvalSum>),
    /// Its part of the checkpoint after `step` steps is stored.
    PartSaved(Place, u64, Vec<File>),
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
    /// The manifest to start from; none: the base.
    pub checkpoint: Option<String>,
    /// Measure the held-out loss before the first step.
    pub evaluate_first: bool,
    /// Stop after the current step, with a checkpoint.
    pub stop: bool,
}

impl Train {
    /// Where reports of this duty belong.
    pub fn place(&self) -> Place {
        Place {
            run: self.load.run.clone(),
            generation: self.generation,
            lineage: self.lineage,
        }
    }
}

// ------------------------------------------------------------------------------------------------ reports

impl From<Report> for wire::Report {
    fn from(report: Report) -> Self {
        use wire::report::What;
        let what = match report {
            Report::Hello(h) => What::Hello(wire::Hello {
                protocol: h.protocol,
                worker: h.worker.to_string(),
                incarnation: h.incarnation.to_string(),
                device: h.device,
                threads: h.threads,
                ring: h.ring,
                attachment: h.attachment.map(|a| wire::Attachment {
                    run: a.run.to_string(),
                    generation: a.generation.0,
                    lineage: a.lineage.0,
                    step: a.step,
                }),
            }),
            Report::Beat {
                step,
                phase,
                collective,
            } => What::Beat(wire::Beat {
                step,
                phase: phase as i32,
                collective,
            }),
            Report::ShardPrepared {
                run,
                shard,
                receipt,
                samples,
            } => What::ShardPrepared(wire::ShardPrepared {
                run: run.to_string(),
                shard,
                receipt_json: serde_json::to_string(&receipt).unwrap_or_default(),
                samples,
            }),
            Report::Loaded { run } => What::Loaded(wire::Loaded {
                run: run.to_string(),
            }),
            Report::StepDone(place, s) => What::StepDone(wire::StepDone {
                run: place.run.to_string(),
                generation: place.generation.0,
                lineage: place.lineage.0,
                step: s.step,
                loss: s.loss,
                learning_rate: s.learning_rate,
                grad_norm: s.grad_norm,
                applied: s.applied,
                samples: s.samples,
                samples_digest: s.samples_digest,
                tokens: s.tokens,
                trained_tokens: s.trained_tokens,
                compute_ms: millis(s.compute),
                reduce_wait_ms: millis(s.reduce_wait),
            }),
            Report::Evaluated(place, step, sums) => What::Evaluated(wire::Evaluated {
                run: place.run.to_string(),
                generation: place.generation.0,
                lineage: place.lineage.0,
                step,
                sums: sums
                    .into_iter()
                    .map(|s| wire::EvalSum {
                        source: s.source,
                        loss_sum: s.loss_sum,
                        weight: s.weight,
                    })
                    .collect(),
            }),
            Report::PartSaved(place, step, files) => What::PartSaved(wire::PartSaved {
                run: place.run.to_string(),
                generation: place.generation.0,
                lineage: place.lineage.0,
                step,
                files: files
                    .into_iter()
                    .map(|f| wire::SavedFile {
                        key: f.key,
                        bytes: f.bytes,
                        sha256: f.sha256,
                        tensors: f.tensors,
                    })
                    .collect(),
            }),
            Report::Stopped {
                run,
                generation,
                step,
            } => What::Stopped(wire::Stopped {
                run: run.to_string(),
                generation: generation.0,
                step,
            }),
            Report::Trouble {
                run,
                generation,
                step,
                cause,
                message,
            } => What::Trouble(wire::Trouble {
                run: run.to_string(),
                generation: generation.0,
                step,
                cause: cause as i32,
                message,
            }),
            Report::Leaving { deadline } => What::Leaving(wire::Leaving {
                deadline_ms: millis(deadline),
            }),
        };
        Self { what: Some(what) }
    }
}

impl TryFrom<wire::Report> for Report {
    type Error = Error;

    fn try_from(report: wire::Report) -> Result<Self, Error> {
        use wire::report::What;
        let Some(what) = report.what else {
            return refuse("report.what", "is missing");
        };
        Ok(match what {
            What::Hello(h) => Self::Hello(Hello {
                protocol: h.protocol,
                worker: WorkerId::new(named("hello.worker", h.worker)?),
                incarnation: Incarnation::new(named("hello.incarnation", h.incarnation)?),
                device: named("hello.device", h.device)?,
                threads: h.threads,
                ring: named("hello.ring", h.ring)?,
                attachment: h
                    .attachment
                    .map(|a| {
                        Ok::<_, Error>(Attachment {
                            run: RunId::new(named("hello.attachment.run", a.run)?),
                            generation: Generation(a.generation),
                            lineage: Lineage(a.lineage),
                            step: a.step,
                        })
                    })
                    .transpose()?,
            }),
            What::Beat(b) => Self::Beat {
                step: b.step,
                phase: phase(b.phase)?,
                collective: b.collective,
            },
            What::ShardPrepared(s) => Self::ShardPrepared {
                run: RunId::new(named("shard_prepared.run", s.run)?),
                shard: s.shard,
                receipt: serde_json::from_str(&s.receipt_json).map_err(|e| Error {
                    field: "shard_prepared.receipt_json",
                    reason: e.to_string(),
                })?,
                samples: s.samples,
            },
            What::Loaded(l) => Self::Loaded {
                run: RunId::new(named("loaded.run", l.run)?),
            },
            What::StepDone(s) => Self::StepDone(
                place("step_done.run", s.run, s.generation, s.lineage)?,
                StepDone {
                    step: s.step,
                    loss: s.loss,
                    learning_rate: s.learning_rate,
                    grad_norm: s.grad_norm,
                    applied: s.applied,
                    samples: s.samples,
                    samples_digest: s.samples_digest,
                    tokens: s.tokens,
                    trained_tokens: s.trained_tokens,
                    compute: Duration::from_millis(s.compute_ms),
                    reduce_wait: Duration::from_millis(s.reduce_wait_ms),
                },
            ),
            What::Evaluated(e) => Self::Evaluated(
                place("evaluated.run", e.run, e.generation, e.lineage)?,
                e.step,
                e.sums
                    .into_iter()
                    .map(|s| EvalSum {
                        source: s.source,
                        loss_sum: s.loss_sum,
                        weight: s.weight,
                    })
                    .collect(),
            ),
            What::PartSaved(p) => Self::PartSaved(
                place("part_saved.run", p.run, p.generation, p.lineage)?,
                p.step,
                p.files
                    .into_iter()
                    .map(|f| {
                        Ok(File {
                            key: named("part_saved.files.key", f.key)?,
                            bytes: f.bytes,
                            sha256: named("part_saved.files.sha256", f.sha256)?,
                            tensors: f.tensors,
                        })
                    })
                    .collect::<Result<_, Error>>()?,
            ),
            What::Stopped(s) => Self::Stopped {
                run: RunId::new(named("stopped.run", s.run)?),
                generation: Generation(s.generation),
                step: s.step,
            },
            What::Trouble(t) => Self::Trouble {
                run: RunId::new(named("trouble.run", t.run)?),
                generation: Generation(t.generation),
                step: t.step,
                cause: match wire::Cause::try_from(t.cause) {
                    Ok(wire::Cause::Peer) => Cause::Peer,
                    Ok(wire::Cause::Data) => Cause::Data,
                    Ok(wire::Cause::Model) => Cause::Model,
                    Ok(wire::Cause::Storage) => Cause::Storage,
                    Ok(wire::Cause::Internal) => Cause::Internal,
                    Ok(wire::Cause::Unspecified) | Err(_) => {
                        return refuse("trouble.cause", format!("{} means nothing", t.cause));
                    }
                },
                message: t.message,
            },
            What::Leaving(l) => Self::Leaving {
                deadline: Duration::from_millis(l.deadline_ms),
            },
        })
    }
}

// ------------------------------------------------------------------------------------------------ directives

impl From<Directive> for wire::Directive {
    fn from(directive: Directive) -> Self {
        use wire::directive::Duty as Wire;
        let duty = match directive.duty {
            Duty::Idle => Wire::Idle(wire::Idle {}),
            Duty::Prepare(p) => Wire::Prepare(wire::Prepare {
                run: p.run.to_string(),
                spec_yaml: p.spec_yaml,
                fingerprint: p.fingerprint,
                shards: p
                    .shards
                    .into_iter()
                    .map(|s| wire::RawShard {
                        index: s.index,
                        source: s.source,
                        url: s.url,
                        bytes: s.bytes,
                        etag: s.etag.unwrap_or_default(),
                        modified_ms: s.modified_ms,
                    })
                    .collect(),
            }),
            Duty::Load(l) => Wire::Load(wire::Load {
                run: l.run.to_string(),
                spec_yaml: l.spec_yaml,
                fingerprint: l.fingerprint,
                plan_digest: l.plan_digest,
            }),
            Duty::Train(t) => Wire::Train(wire::Train {
                run: t.load.run.to_string(),
                spec_yaml: t.load.spec_yaml,
                fingerprint: t.load.fingerprint,
                plan_digest: t.load.plan_digest,
                generation: t.generation.0,
                lineage: t.lineage.0,
                rank: t.rank,
                members: t.members,
                ring_key: t.ring_key.to_vec(),
                checkpoint: t.checkpoint.unwrap_or_default(),
                evaluate_first: t.evaluate_first,
                stop: t.stop,
            }),
            Duty::Dismissed { reason, refused } => {
                Wire::Dismissed(wire::Dismissed { reason, refused })
            }
        };
        Self {
            coordinator_epoch: directive.epoch.0,
            beat_ms: millis(directive.beat),
            duty: Some(duty),
        }
    }
}

impl TryFrom<wire::Directive> for Directive {
    type Error = Error;

    fn try_from(directive: wire::Directive) -> Result<Self, Error> {
        use wire::directive::Duty as Wire;
        let Some(duty) = directive.duty else {
            return refuse("directive.duty", "is missing");
        };
        let duty = match duty {
            Wire::Idle(_) => Duty::Idle,
            Wire::Prepare(p) => Duty::Prepare(Prepare {
                run: RunId::new(named("prepare.run", p.run)?),
                spec_yaml: p.spec_yaml,
                fingerprint: named("prepare.fingerprint", p.fingerprint)?,
                shards: p
                    .shards
                    .into_iter()
                    .map(|s| RawShard {
                        index: s.index,
                        source: s.source,
                        url: s.url,
                        bytes: s.bytes,
                        etag: Some(s.etag).filter(|e| !e.is_empty()),
                        modified_ms: s.modified_ms,
                    })
                    .collect(),
            }),
            Wire::Load(l) => Duty::Load(load(l.run, l.spec_yaml, l.fingerprint, l.plan_digest)?),
            Wire::Train(t) => Duty::Train(Train {
                load: load(t.run, t.spec_yaml, t.fingerprint, t.plan_digest)?,
                generation: Generation(t.generation),
                lineage: Lineage(t.lineage),
                rank: if (t.rank as usize) < t.members.len() {
                    t.rank
                } else {
                    let reason = format!("{} of {} members", t.rank, t.members.len());
                    return refuse("train.rank", reason);
                },
                members: t.members,
                ring_key: t.ring_key.try_into().map_err(|k: Vec<u8>| Error {
                    field: "train.ring_key",
                    reason: format!("32 bytes expected, got {}", k.len()),
                })?,
                checkpoint: Some(t.checkpoint).filter(|c| !c.is_empty()),
                evaluate_first: t.evaluate_first,
                stop: t.stop,
            }),
            Wire::Dismissed(d) => Duty::Dismissed {
                reason: d.reason,
                refused: d.refused,
            },
        };
        Ok(Self {
            epoch: Epoch(directive.coordinator_epoch),
            beat: Duration::from_millis(directive.beat_ms.clamp(10, 60_000)),
            duty,
        })
    }
}

fn load(
    run: String,
    spec_yaml: String,
    fingerprint: String,
    plan_digest: String,
) -> Result<Load, Error> {
    Ok(Load {
        run: RunId::new(named("load.run", run)?),
        spec_yaml,
        fingerprint: named("load.fingerprint", fingerprint)?,
        plan_digest: named("load.plan_digest", plan_digest)?,
    })
}

/// Names are between 1 and 512 bytes.
fn named(field: &'static str, value: String) -> Result<String, Error> {
    match value.len() {
        1..=512 => Ok(value),
        n => refuse(field, format!("must have 1 to 512 bytes, has {n}")),
    }
}

fn place(field: &'static str, run: String, generation: u64, lineage: u64) -> Result<Place, Error> {
    Ok(Place {
        run: RunId::new(named(field, run)?),
        generation: Generation(generation),
        lineage: Lineage(lineage),
    })
}

fn phase(value: i32) -> Result<Phase, Error> {
    Ok(match wire::Phase::try_from(value) {
        Ok(wire::Phase::Idle) => Phase::Idle,
        Ok(wire::Phase::Preparing) => Phase::Preparing,
        Ok(wire::Phase::Loading) => Phase::Loading,
        Ok(wire::Phase::Computing) => Phase::Computing,
        Ok(wire::Phase::Reducing) => Phase::Reducing,
        Ok(wire::Phase::Evaluating) => Phase::Evaluating,
        Ok(wire::Phase::Saving) => Phase::Saving,
        Ok(wire::Phase::Unspecified) | Err(_) => {
            return refuse("beat.phase", format!("{value} means nothing"));
        }
    })
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_directive_survives_the_wire() {
        let directive = Directive {
            epoch: Epoch(3),
            beat: Duration::from_millis(500),
            duty: Duty::Train(Train {
                load: Load {
                    run: RunId::new("r"),
                    spec_yaml: "name: r".into(),
                    fingerprint: "f".into(),
                    plan_digest: "d".into(),
                },
                generation: Generation(4),
                lineage: Lineage(2),
                rank: 1,
                members: vec!["a:1".into(), "b:2".into()],
                ring_key: [7; 32],
                checkpoint: Some("c".into()),
                evaluate_first: true,
                stop: false,
            }),
        };
        let wire = wire::Directive::from(directive.clone());
        assert_eq!(Directive::try_from(wire), Ok(directive));
    }

    #[test]
    fn messages_that_mean_nothing_are_refused_by_field() {
        let empty = Report::try_from(wire::Report { what: None }).unwrap_err();
        assert_eq!(empty.field, "report.what");
        let beat = wire::Report {
            what: Some(wire::report::What::Beat(wire::Beat::default())),
        };
        assert_eq!(Report::try_from(beat).unwrap_err().field, "beat.phase");
        let train = wire::Directive {
            duty: Some(wire::directive::Duty::Train(wire::Train {
                run: "r".into(),
                fingerprint: "f".into(),
                plan_digest: "d".into(),
                rank: 2,
                members: vec!["a:1".into()],
                ..Default::default()
            })),
            ..Default::default()
        };
        assert_eq!(Directive::try_from(train).unwrap_err().field, "train.rank");
    }
}
