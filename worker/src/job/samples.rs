//! Reads a run's plan and maps its prepared samples.

use super::mapped;
use crate::inputs::{storage_trouble, trouble};
use crate::ops::{Documents, Target};
use crate::replica::MicroBatch;
use crate::session::Trouble;
use proto::error::chain;
use proto::key;
use proto::manifest;
use proto::plan::{Chunk, Pack, Step, Summary};
use proto::prepared::{Sample, Shard};
use proto::protocol::{Cause, Load};
use storage::Storage;

/// The run's plan.
pub(super) struct Plan {
    pub(super) summary: Summary,
    pub(super) chunks: Vec<Chunk>,
    /// The held-out packs of each source.
    pub(super) held_out: Vec<Step>,
}

/// The parts of the prepared shards; sample ids count through them in order.
pub(super) struct Samples {
    parts: Vec<Shard>,
    /// The id of each part's first sample.
    starts: Vec<u32>,
}

impl Plan {
    pub(super) async fn fetch(storage: &Storage, load: &Load) -> Result<Self, Trouble> {
        let damaged = |what: String| trouble(Cause::Data)(format!("the stored plan: {what}"));
        let read = |key: String| async move { storage.read(&key).await.map_err(storage_trouble) };
        let bytes = read(key::plan_outline(&load.run)).await?;
        if manifest::sha256(&bytes) != load.plan_digest {
            return Err(damaged("it is not the plan that the coordinator made".into()));
        }
        let outline: manifest::Plan =
            serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let mut chunks = Vec::new();
        for (name, sha256) in outline.chunks.iter().chain(&outline.held_out) {
            let body = read(format!("{}/{name}", key::plan(&load.run))).await?;
            if manifest::sha256(&body) != *sha256 {
                return Err(damaged(format!("`{name}` is not what was written")));
            }
            chunks.push(Chunk::decode(&body).map_err(|e| damaged(chain(&e)))?);
        }
        let held_out = outline.held_out.and_then(|_| chunks.pop()).map_or(Vec::new(), |c| c.steps);
        Ok(Self { summary: outline.summary, chunks, held_out })
    }

    /// The epoch of a step, counted from 0, and the step.
    pub(super) fn step(&self, step: u64) -> Result<(u32, &Step), Trouble> {
        let lacks = || trouble(Cause::Internal)(format!("the plan has no step {step}"));
        let chunk = self.chunks.iter().rfind(|c| c.first_step <= step).ok_or_else(lacks)?;
        let at = usize::try_from(step - chunk.first_step).map_err(|_| lacks())?;
        Ok((chunk.epoch, chunk.steps.get(at).ok_or_else(lacks)?))
    }
}

impl Samples {
    /// Maps every part; the operating system decides which pages are in memory.
    pub(super) async fn fetch(storage: &Storage, fingerprint: &str) -> Result<Self, Trouble> {
        let damaged = |what: String| trouble(Cause::Data)(format!("the prepared data set: {what}"));
        let bytes = storage.read(&key::prepared_manifest(fingerprint)).await;
        let prepared: manifest::Prepared = serde_json::from_slice(&bytes.map_err(storage_trouble)?)
            .map_err(|e| damaged(e.to_string()))?;
        let mut samples = Self { parts: Vec::new(), starts: Vec::new() };
        let mut start = 0u32;
        for part in prepared.parts(fingerprint) {
            let key = &part.key;
            let body = mapped::map(storage, key).await?;
            let shard =
                Shard::parse(body).map_err(|e| damaged(format!("`{key}`: {}", chain(&e))))?;
            if shard.front().fingerprint() != fingerprint || shard.len() as u64 != part.samples {
                return Err(damaged(format!("`{key}` belongs to another data set")));
            }
            samples.starts.push(start);
            let next = u32::try_from(shard.len()).ok().and_then(|len| start.checked_add(len));
            start = next.ok_or_else(|| damaged("too many samples".into()))?;
            samples.parts.push(shard.starting_after(part.starts_after));
        }
        Ok(samples)
    }

    /// The part that contains a sample, and the sample's index in it.
    fn find(&self, id: u32) -> Result<(&Shard, usize), Trouble> {
        let part = self.starts.partition_point(|start| *start <= id).checked_sub(1);
        let part = part.ok_or_else(|| lacks(id))?;
        Ok((&self.parts[part], (id - self.starts[part]) as usize))
    }

    fn sample(&self, id: u32) -> Result<Sample, Trouble> {
        let (part, index) = self.find(id)?;
        let damaged = |e| trouble(Cause::Data)(format!("the prepared data set: {}", chain(&e)));
        part.sample(index).map_err(damaged)?.ok_or_else(|| lacks(id))
    }

    /// The index of a sample's source in the spec.
    fn source(&self, id: u32) -> Result<u32, Trouble> {
        let (part, index) = self.find(id)?;
        part.front().object(index).map(|object| object.source).ok_or_else(|| lacks(id))
    }

    /// Where a sample comes from, as text for people.
    pub(super) fn origin(&self, id: u32) -> Result<String, Trouble> {
        let (part, index) = self.find(id)?;
        part.origin(index).ok_or_else(|| lacks(id))
    }

    pub(super) fn micro_batch<'a>(
        &self,
        packs: impl Iterator<Item = &'a Pack>,
    ) -> Result<MicroBatch, Trouble> {
        let (mut samples, mut sources) = (Vec::new(), Vec::new());
        for id in packs.flat_map(|p| &p.samples) {
            samples.push(self.sample(*id)?);
            sources.push(self.source(*id)?);
        }
        let batch = data::assemble(&samples);
        let target = |t: &data::Target| Target { row: t.row, token: t.token, weight: t.weight };
        Ok(MicroBatch {
            sources,
            documents: Documents::of_lengths(samples.iter().map(|s| s.tokens.len())),
            targets: batch.targets.iter().map(target).collect(),
            tokens: batch.tokens,
        })
    }
}

fn lacks(id: u32) -> Trouble {
    trouble(Cause::Internal)(format!("there is no sample {id}"))
}
