//! Keys of objects under the output prefix.
//!
//! ```text
//! pool/journal/0000000007.json
//! <run>/spec.yaml  spec.resolved.yaml  receipt.json
//! <run>/journal/0000000042.json
//! <run>/plan/{<epoch>/<chunk>.bin, held-out.bin, outline.json}
//! <run>/checkpoints/{latest, best}     names of the newest and the best checkpoint, as hints
//! <run>/checkpoints/step-00001200-l2/{model/..., state/..., receipt.json, manifest.json}
//! <run>/metrics/00000012.jsonl
//! <run>/model/...
//! prepared/<fingerprint>/{shard-00012-003.safetensors, manifest.json}
//! staged/<owner>--<name>-<commit>/{config.json, model.safetensors, ..., staged.json}
//! ```
//!
//! A run's folder name ends in a date, a time and a random mark, so it is never `pool`, `prepared` or `staged`.

use crate::id::{CheckpointId, Lineage, RunId};

/// The folder of the pool's journal.
pub const POOL_JOURNAL: &str = "pool/journal";

/// The folder of a run's journal.
pub fn journal(run: &RunId) -> String {
    format!("{run}/journal")
}

/// Entry `number` of the journal in `folder`.
pub fn journal_entry(folder: &str, number: u64) -> String {
    format!("{folder}/{number:010}.json")
}

/// The number of a journal entry, given its key.
pub fn journal_number(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

/// The spec as the user wrote it.
pub fn spec(run: &RunId) -> String {
    format!("{run}/spec.yaml")
}

/// The resolved spec.
pub fn resolved_spec(run: &RunId) -> String {
    format!("{run}/spec.resolved.yaml")
}

/// The receipt of a run.
pub fn receipt(run: &RunId) -> String {
    format!("{run}/receipt.json")
}

/// The folder of the plan.
pub fn plan(run: &RunId) -> String {
    format!("{run}/plan")
}

/// The plan's table of contents.
pub fn plan_outline(run: &RunId) -> String {
    format!("{}/outline.json", plan(run))
}

/// A chunk of an epoch's plan, relative to the plan's folder.
pub fn plan_chunk(epoch: u32, chunk: usize) -> String {
    format!("{epoch:04}/{chunk:06}.bin")
}

/// The packs of the held-out set, relative to the plan's folder.
pub const HELD_OUT_PLAN: &str = "held-out.bin";

/// A numbered chunk of the run's metrics.
pub fn metrics(run: &RunId, chunk: u64) -> String {
    format!("{run}/metrics/{chunk:08}.jsonl")
}

/// The folder of a run's checkpoints.
pub fn checkpoints(run: &RunId) -> String {
    format!("{run}/checkpoints")
}

/// The name of a checkpoint's folder.
pub fn checkpoint_name(lineage: Lineage, step: u64) -> String {
    format!("step-{step:08}-l{lineage}")
}

/// The checkpoint whose folder has this name, or `None` if it is not a checkpoint's folder.
pub fn checkpoint_id(name: &str) -> Option<CheckpointId> {
    let (step, lineage) = name.strip_prefix("step-")?.split_once("-l")?;
    Some(CheckpointId { lineage: Lineage(lineage.parse().ok()?), step: step.parse().ok()? })
}

/// The folder of a checkpoint.
pub fn checkpoint(run: &RunId, lineage: Lineage, step: u64) -> String {
    format!("{}/{}", checkpoints(run), checkpoint_name(lineage, step))
}

/// A checkpoint's manifest.
pub fn manifest(run: &RunId, lineage: Lineage, step: u64) -> String {
    format!("{}/manifest.json", checkpoint(run, lineage, step))
}

/// The folder of the finished model.
pub fn model(run: &RunId) -> String {
    format!("{run}/model")
}

/// The folder of a model that was staged from the Hugging Face hub.
pub fn staged(repo: &str, commit: &str) -> String {
    format!("staged/{}-{commit}", repo.replace('/', "--"))
}

/// The folder of a prepared data set.
pub fn prepared(fingerprint: &str) -> String {
    format!("prepared/{fingerprint}")
}

/// A part of a prepared shard.
pub fn prepared_part(fingerprint: &str, shard: u32, part: u32) -> String {
    format!("{}/shard-{shard:05}-{part:03}.safetensors", prepared(fingerprint))
}

/// The manifest of a prepared data set. It is written last, so that it exists only when all shards do.
pub fn prepared_manifest(fingerprint: &str) -> String {
    format!("prepared/{fingerprint}/manifest.json")
}

/// The folder of a run's metrics.
pub fn all_metrics(run: &RunId) -> String {
    format!("{run}/metrics")
}
