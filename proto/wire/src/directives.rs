//! Conversion between gRPC directives and domain types.

use crate::{Error, messages, millis, named, refuse};
use proto::event::Failure;
use proto::id::{Epoch, Generation, Lineage, RunId};
use proto::protocol::{Directive, Dismissal, Duty, Load, Prepare, RawShard, Start, Train};
use std::time::Duration;

impl From<Directive> for messages::Directive {
    fn from(directive: Directive) -> Self {
        use messages::directive::Duty as Wire;
        let duty = match directive.duty {
            Duty::Idle => Wire::Idle(messages::Idle {}),
            Duty::Prepare(p) => Wire::Prepare(messages::Prepare {
                run: p.run.to_string(),
                spec_yaml: p.spec_yaml,
                fingerprint: p.fingerprint,
                shards: p
                    .shards
                    .into_iter()
                    .map(|s| messages::RawShard {
                        index: s.index,
                        source: s.source,
                        url: s.url,
                        bytes: s.bytes,
                        etag: s.etag.unwrap_or_default(),
                        modified_ms: s.modified_ms,
                        range_start: s.range.start,
                        range_end: s.range.end,
                    })
                    .collect(),
            }),
            Duty::Load(l) => Wire::Load(messages::Load {
                run: l.run.to_string(),
                spec_yaml: l.spec_yaml,
                fingerprint: l.fingerprint,
                plan_digest: l.plan_digest,
            }),
            Duty::Train(t) => Wire::Train(messages::Train {
                run: t.load.run.to_string(),
                spec_yaml: t.load.spec_yaml,
                fingerprint: t.load.fingerprint,
                plan_digest: t.load.plan_digest,
                generation: t.generation.0,
                lineage: t.lineage.0,
                rank: t.rank,
                members: t.members,
                ring_key: t.ring_key.to_vec(),
                checkpoint: t
                    .checkpoint
                    .map(|Start { manifest, sha256 }| messages::Start { manifest, sha256 }),
                evaluate_first: t.evaluate_first,
                stop: t.stop,
                base_digest: t.base_digest.unwrap_or_default(),
            }),
            Duty::NotNow { reason } => Wire::NotNow(messages::NotNow { reason }),
            Duty::Dismissed { reason, why } => {
                let why = messages::Dismissal::from(why).into();
                Wire::Dismissed(messages::Dismissed { reason, why })
            }
        };
        Self {
            coordinator_epoch: directive.epoch.0,
            beat_ms: millis(directive.beat),
            duty: Some(duty),
            heard: directive.heard,
        }
    }
}

impl TryFrom<messages::Directive> for Directive {
    type Error = Error;

    fn try_from(directive: messages::Directive) -> Result<Self, Error> {
        use messages::directive::Duty as Wire;
        let Some(duty) = directive.duty else {
            return refuse("directive.duty", "is missing");
        };
        let duty = match duty {
            Wire::Idle(_) => Duty::Idle,
            Wire::Prepare(p) => Duty::Prepare(Prepare {
                run: RunId::new(named("prepare.run", p.run)?),
                spec_yaml: p.spec_yaml,
                fingerprint: named("prepare.fingerprint", p.fingerprint)?,
                shards: p.shards.into_iter().map(raw_shard).collect::<Result<_, Error>>()?,
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
                    reason: format!("must have 32 bytes, has {}", k.len()),
                })?,
                checkpoint: t
                    .checkpoint
                    .map(|s| {
                        Ok::<_, Error>(Start {
                            manifest: named("train.checkpoint.manifest", s.manifest)?,
                            sha256: named("train.checkpoint.sha256", s.sha256)?,
                        })
                    })
                    .transpose()?,
                evaluate_first: t.evaluate_first,
                stop: t.stop,
                base_digest: Some(t.base_digest).filter(|digest| !digest.is_empty()),
            }),
            Wire::NotNow(n) => Duty::NotNow { reason: n.reason },
            Wire::Dismissed(d) => Duty::Dismissed { reason: d.reason, why: dismissal(d.why)? },
        };
        Ok(Self {
            epoch: Epoch(directive.coordinator_epoch),
            beat: Duration::from_millis(directive.beat_ms.clamp(10, 60_000)),
            duty,
            heard: directive.heard,
        })
    }
}

fn raw_shard(s: messages::RawShard) -> Result<RawShard, Error> {
    if s.range_start > s.range_end || s.range_end > s.bytes {
        let reason = format!("{}..{} of {} bytes", s.range_start, s.range_end, s.bytes);
        return refuse("prepare.shards.range_end", reason);
    }
    Ok(RawShard {
        index: s.index,
        source: s.source,
        url: s.url,
        bytes: s.bytes,
        etag: Some(s.etag).filter(|e| !e.is_empty()),
        modified_ms: s.modified_ms,
        range: s.range_start..s.range_end,
    })
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

impl From<Dismissal> for messages::Dismissal {
    fn from(why: Dismissal) -> Self {
        match why {
            Dismissal::Refused => Self::Refused,
            Dismissal::Closing => Self::Closing,
            Dismissal::Succeeded => Self::Succeeded,
            Dismissal::Failed(Failure::User) => Self::FailedUser,
            Dismissal::Failed(Failure::Data) => Self::FailedData,
            Dismissal::Failed(Failure::Infrastructure) => Self::FailedInfrastructure,
            Dismissal::Cancelled => Self::Cancelled,
        }
    }
}

fn dismissal(why: i32) -> Result<Dismissal, Error> {
    use messages::Dismissal as Wire;
    Ok(match Wire::try_from(why) {
        Ok(Wire::Refused) => Dismissal::Refused,
        Ok(Wire::Closing) => Dismissal::Closing,
        Ok(Wire::Succeeded) => Dismissal::Succeeded,
        Ok(Wire::FailedUser) => Dismissal::Failed(Failure::User),
        Ok(Wire::FailedData) => Dismissal::Failed(Failure::Data),
        Ok(Wire::FailedInfrastructure) => Dismissal::Failed(Failure::Infrastructure),
        Ok(Wire::Cancelled) => Dismissal::Cancelled,
        Ok(Wire::Unspecified) | Err(_) => {
            return refuse("dismissed.why", format!("is {why}, which is unknown"));
        }
    })
}
