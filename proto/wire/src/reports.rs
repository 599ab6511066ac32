//! Conversion between gRPC reports and domain types.

use crate::messages::report::What;
use crate::{Error, messages, millis, named, refuse};
use proto::id::{Generation, Incarnation, Lineage, RunId, WorkerId};
use proto::manifest::{Digests, File};
use proto::protocol::{
    Accusation, Attachment, Cause, Hello, Phase, Place, Report, SavedPart, ShardOutcome, SourceSum,
    StepDone,
};
use proto::receipt::{NAMES, Skipped};
use std::time::Duration;

impl From<Place> for messages::Place {
    fn from(place: Place) -> Self {
        Self {
            run: place.run.to_string(),
            generation: place.generation.0,
            lineage: place.lineage.0,
        }
    }
}

impl From<Report> for messages::Report {
    fn from(report: Report) -> Self {
        let what = match report {
            Report::Hello(hello) => What::Hello(hello.into()),
            Report::Beat { step, phase, collective } => {
                What::Beat(messages::Beat { step, phase: phase as i32, collective })
            }
            Report::ShardPrepared { run, shard, outcome } => {
                What::ShardPrepared(shard_prepared(&run, shard, outcome))
            }
            Report::Loaded { run, base_digest } => {
                What::Loaded(messages::Loaded { run: run.to_string(), base_digest })
            }
            Report::StepDone(place, done) => What::StepDone(step_done(place, done)),
            Report::Skipped(place, s) => What::Skipped(messages::Skipped {
                place: Some(place.into()),
                step: s.step,
                samples: s.samples,
                unnamed: s.unnamed,
            }),
            Report::Evaluated(place, step, sums) => What::Evaluated(messages::Evaluated {
                place: Some(place.into()),
                step,
                sums: sums.into_iter().map(Into::into).collect(),
            }),
            Report::PartBegun(place, step) => {
                What::PartBegun(messages::PartBegun { place: Some(place.into()), step })
            }
            Report::PartSaved(place, step, part) => What::PartSaved(part_saved(place, step, part)),
            Report::PartFailed(place, step, message) => {
                What::PartFailed(messages::PartFailed { place: Some(place.into()), step, message })
            }
            Report::Stopped { run, generation, step } => What::Stopped(messages::Stopped {
                run: run.to_string(),
                generation: generation.0,
                step,
            }),
            Report::Trouble { run, generation, step, cause, message, shard, accusation } => {
                What::Trouble(messages::Trouble {
                    run: run.to_string(),
                    generation: generation.0,
                    step,
                    cause: cause as i32,
                    message,
                    shard,
                    accusation: accusation.map(Into::into),
                })
            }
            Report::Leaving { deadline } => {
                What::Leaving(messages::Leaving { deadline_ms: millis(deadline) })
            }
        };
        Self { what: Some(what) }
    }
}

impl From<Hello> for messages::Hello {
    fn from(h: Hello) -> Self {
        Self {
            protocol: h.protocol,
            worker: h.worker.to_string(),
            incarnation: h.incarnation.to_string(),
            device: h.device,
            threads: h.threads,
            ring: h.ring,
            attachment: h
                .attachment
                .map(|a| messages::Attachment { place: Some(a.place.into()), step: a.step }),
            last_end: h.last_end.unwrap_or_default(),
        }
    }
}

fn shard_prepared(run: &RunId, shard: u32, outcome: ShardOutcome) -> messages::ShardPrepared {
    messages::ShardPrepared {
        run: run.to_string(),
        shard,
        receipt_json: serde_json::to_string(&outcome.receipt).unwrap_or_default(),
        positions: outcome.positions,
        part_samples: outcome.parts,
    }
}

fn step_done(place: Place, s: StepDone) -> messages::StepDone {
    messages::StepDone {
        place: Some(place.into()),
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
        sources: s.sources.into_iter().map(Into::into).collect(),
    }
}

fn part_saved(place: Place, step: u64, part: SavedPart) -> messages::PartSaved {
    let file = |f: File| messages::SavedFile {
        key: f.key,
        bytes: f.bytes,
        sha256: f.digests.sha256,
        xxh3: f.digests.xxh3,
        tensors: f.tensors,
    };
    messages::PartSaved {
        place: Some(place.into()),
        step,
        digest: part.digest,
        pause_ms: millis(part.pause),
        files: part.files.into_iter().map(file).collect(),
    }
}

impl TryFrom<messages::Report> for Report {
    type Error = Error;

    fn try_from(report: messages::Report) -> Result<Self, Error> {
        let Some(what) = report.what else {
            return refuse("report.what", "is missing");
        };
        Ok(match what {
            What::Hello(hello) => Self::Hello(hello.try_into()?),
            What::Beat(b) => {
                Self::Beat { step: b.step, phase: phase(b.phase)?, collective: b.collective }
            }
            What::ShardPrepared(s) => Self::ShardPrepared {
                run: RunId::new(named("shard_prepared.run", s.run.clone())?),
                shard: s.shard,
                outcome: s.try_into()?,
            },
            What::Loaded(l) => Self::Loaded {
                run: RunId::new(named("loaded.run", l.run)?),
                base_digest: named("loaded.base_digest", l.base_digest)?,
            },
            What::StepDone(mut s) => {
                Self::StepDone(place("step_done.place", s.place.take())?, s.into())
            }
            What::Skipped(mut s) => {
                let names = s.samples.len();
                if names > NAMES {
                    let reason = format!("must have at most {NAMES} names, has {names}");
                    return refuse("skipped.samples", reason);
                }
                let place = place("skipped.place", s.place.take())?;
                Self::Skipped(
                    place,
                    Skipped { step: s.step, samples: s.samples, unnamed: s.unnamed },
                )
            }
            What::Evaluated(e) => Self::Evaluated(
                place("evaluated.place", e.place)?,
                e.step,
                e.sums.into_iter().map(Into::into).collect(),
            ),
            What::PartBegun(p) => Self::PartBegun(place("part_begun.place", p.place)?, p.step),
            What::PartSaved(mut p) => {
                Self::PartSaved(place("part_saved.place", p.place.take())?, p.step, p.try_into()?)
            }
            What::PartFailed(p) => {
                Self::PartFailed(place("part_failed.place", p.place)?, p.step, p.message)
            }
            What::Stopped(s) => Self::Stopped {
                run: RunId::new(named("stopped.run", s.run)?),
                generation: Generation(s.generation),
                step: s.step,
            },
            What::Trouble(t) => Self::Trouble {
                run: RunId::new(named("trouble.run", t.run)?),
                generation: Generation(t.generation),
                step: t.step,
                cause: cause(t.cause)?,
                message: t.message,
                shard: t.shard,
                accusation: t.accusation.map(Into::into),
            },
            What::Leaving(l) => Self::Leaving { deadline: Duration::from_millis(l.deadline_ms) },
        })
    }
}

impl TryFrom<messages::Hello> for Hello {
    type Error = Error;

    fn try_from(h: messages::Hello) -> Result<Self, Error> {
        let attachment = |a: messages::Attachment| {
            Ok::<_, Error>(Attachment {
                place: place("hello.attachment.place", a.place)?,
                step: a.step,
            })
        };
        Ok(Self {
            protocol: h.protocol,
            worker: WorkerId::new(named("hello.worker", h.worker)?),
            incarnation: Incarnation::new(named("hello.incarnation", h.incarnation)?),
            device: named("hello.device", h.device)?,
            threads: h.threads,
            ring: named("hello.ring", h.ring)?,
            attachment: h.attachment.map(attachment).transpose()?,
            last_end: Some(h.last_end).filter(|end| !end.is_empty()),
        })
    }
}

impl TryFrom<messages::ShardPrepared> for ShardOutcome {
    type Error = Error;

    fn try_from(s: messages::ShardPrepared) -> Result<Self, Error> {
        let receipt = serde_json::from_str(&s.receipt_json)
            .map_err(|e| Error { field: "shard_prepared.receipt_json", reason: e.to_string() })?;
        Ok(Self { receipt, positions: s.positions, parts: s.part_samples })
    }
}

impl From<messages::StepDone> for StepDone {
    fn from(s: messages::StepDone) -> Self {
        Self {
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
            sources: s.sources.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<messages::PartSaved> for SavedPart {
    type Error = Error;

    fn try_from(p: messages::PartSaved) -> Result<Self, Error> {
        let file = |f: messages::SavedFile| {
            Ok(File {
                key: named("part_saved.files.key", f.key)?,
                bytes: f.bytes,
                digests: Digests {
                    sha256: named("part_saved.files.sha256", f.sha256)?,
                    xxh3: named("part_saved.files.xxh3", f.xxh3)?,
                },
                tensors: f.tensors,
            })
        };
        Ok(Self {
            digest: named("part_saved.digest", p.digest)?,
            pause: Duration::from_millis(p.pause_ms),
            files: p.files.into_iter().map(file).collect::<Result<_, Error>>()?,
        })
    }
}

impl From<Accusation> for messages::Accusation {
    fn from(Accusation { rank, connecting, met }: Accusation) -> Self {
        Self { rank, connecting, met }
    }
}

impl From<messages::Accusation> for Accusation {
    fn from(messages::Accusation { rank, connecting, met }: messages::Accusation) -> Self {
        Self { rank, connecting, met }
    }
}

impl From<SourceSum> for messages::SourceSum {
    fn from(s: SourceSum) -> Self {
        let SourceSum { source, loss_sum, weight, trained_tokens } = s;
        Self { source, loss_sum, weight, trained_tokens }
    }
}

impl From<messages::SourceSum> for SourceSum {
    fn from(s: messages::SourceSum) -> Self {
        let messages::SourceSum { source, loss_sum, weight, trained_tokens } = s;
        Self { source, loss_sum, weight, trained_tokens }
    }
}

fn place(field: &'static str, place: Option<messages::Place>) -> Result<Place, Error> {
    let Some(place) = place else { return refuse(field, "is missing") };
    Ok(Place {
        run: RunId::new(named(field, place.run)?),
        generation: Generation(place.generation),
        lineage: Lineage(place.lineage),
    })
}

fn phase(value: i32) -> Result<Phase, Error> {
    Ok(match messages::Phase::try_from(value) {
        Ok(messages::Phase::Idle) => Phase::Idle,
        Ok(messages::Phase::Preparing) => Phase::Preparing,
        Ok(messages::Phase::Loading) => Phase::Loading,
        Ok(messages::Phase::Computing) => Phase::Computing,
        Ok(messages::Phase::Reducing) => Phase::Reducing,
        Ok(messages::Phase::Evaluating) => Phase::Evaluating,
        Ok(messages::Phase::Saving) => Phase::Saving,
        Ok(messages::Phase::Unspecified) | Err(_) => {
            return refuse("beat.phase", format!("unknown value {value}"));
        }
    })
}

fn cause(value: i32) -> Result<Cause, Error> {
    Ok(match messages::Cause::try_from(value) {
        Ok(messages::Cause::Peer) => Cause::Peer,
        Ok(messages::Cause::Data) => Cause::Data,
        Ok(messages::Cause::Model) => Cause::Model,
        Ok(messages::Cause::Storage) => Cause::Storage,
        Ok(messages::Cause::Internal) => Cause::Internal,
        Ok(messages::Cause::Checkpoint) => Cause::Checkpoint,
        Ok(messages::Cause::Diverged) => Cause::Diverged,
        Ok(messages::Cause::Unspecified) | Err(_) => {
            return refuse("trouble.cause", format!("unknown value {value}"));
        }
    })
}
