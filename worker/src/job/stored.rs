//! What a run has in storage before it trains: its plan and its prepared samples, fetched and verified.

use super::{storage_trouble, trouble};

use crate::ops::{Documents, Target};
use crate::session::Trouble;
use crate::train::MicroBatch;
use proto::error::chain;
use proto::key;
use proto::manifest;
use proto::plan::{Chunk, Pack, Step, Summary};
use proto::prepared::{Sample, Shard};
use proto::protocol::{Cause, Load};
use proto::storage::Storage;

/// The run's plan.
pub(super) struct Plan {
    pub(super) summary: Summary,
    pub(super) chunks: Vec<Chunk>,
    /// Held-out packs by source.
    pub(super) held_out: Vec<Step>,
}

/// Prepared shards; sample ids count through them in order.
pub(super) struct Samples {
    shards: Vec<Shard>,
    /// The id of each shard's first sample.
    starts: Vec<u32>,
}

impl Plan {
    pub(super) async fn fetch(storage: &Storage, load: &Load) -> Result<Self, Trouble> {
        let damaged = |what: String| trouble(Cause::Data)(format!("the stored plan: {what}"));
        let read = |key: String| async move { storage.read(&key).await.map_err(storage_trouble) };
        let bytes = read(key::plan_outline(&load.run)).await?;
        if manifest::sha256(&bytes) != load.plan_digest {
            return Err(damaged("it is not the coordinator's".into()));
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

    /// A step of the run, from 0, and its epoch.
    pub(super) fn step(&self, step: u64) -> Result<(u32, &Step), Trouble> {
        let lacks = || trouble(Cause::Internal)(format!("the plan has no step {step}"));
        let chunk = self.chunks.iter().rfind(|c| c.first_step <= step).ok_or_else(lacks)?;
        let at = usize::try_from(step - chunk.first_step).map_err(|_| lacks())?;
        Ok((chunk.epoch, chunk.steps.get(at).ok_or_else(lacks)?))
    }
}

impl Samples {
    pub(super) async fn fetch(storage: &Storage, fingerprint: &str) -> Result<Self, Trouble> {
        let damaged = |what: String| trouble(Cause::Data)(format!("the prepared data set: {what}"));
        let bytes = storage.read(&key::prepared_manifest(fingerprint)).await;
        let prepared: manifest::Prepared = serde_json::from_slice(&bytes.map_err(storage_trouble)?)
            .map_err(|e| damaged(e.to_string()))?;
        let mut samples = Self { shards: Vec::new(), starts: Vec::new() };
        let mut start = 0u32;
        for (index, count) in (0..).zip(&prepared.samples) {
            let key = key::prepared_shard(fingerprint, index);
            let body = storage.read(&key).await.map_err(storage_trouble)?;
            let shard =
                Shard::parse(body).map_err(|e| damaged(format!("`{key}`: {}", chain(&e))))?;
            if shard.fingerprint() != fingerprint || shard.len() as u64 != *count {
                return Err(damaged(format!("`{key}` belongs to another")));
            }
            samples.starts.push(start);
            start += u32::try_from(shard.len()).map_err(|_| damaged("too many samples".into()))?;
            samples.shards.push(shard);
        }
        Ok(samples)
    }

    /// The shard that holds a sample, and the sample's index there.
    fn find(&self, id: u32) -> Option<(&Shard, usize)> {
        let shard = self.starts.partition_point(|start| *start <= id).checked_sub(1)?;
        Some((&self.shards[shard], (id - self.starts[shard]) as usize))
    }

    fn sample(&self, id: u32) -> Result<Sample, Trouble> {
        let found = self.find(id).and_then(|(shard, index)| shard.sample(index));
        found.ok_or_else(|| lacks(id))
    }

    /// The index of its source in the spec.
    fn source(&self, id: u32) -> Result<u32, Trouble> {
        let object = self.find(id).and_then(|(shard, index)| shard.object(index));
        object.map(|object| object.source).ok_or_else(|| lacks(id))
    }

    /// Where a sample comes from, for people.
    pub(super) fn origin(&self, id: u32) -> Result<String, Trouble> {
        let found = self.find(id).and_then(|(shard, index)| shard.origin(index));
        found.ok_or_else(|| lacks(id))
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
