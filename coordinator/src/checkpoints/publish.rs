//! The folder of the finished model, as users and `transformers` expect it.

use super::receipt::{self, to_json};
use super::{Unpublished, card};
use futures::{StreamExt, TryStreamExt, stream};
use proto::id::{CheckpointId, RunId};
use proto::key;
use proto::manifest::{Checkpoint, File};
use proto::spec::Spec;
use std::sync::Arc;
use storage::Storage;

/// Number of objects that are copied at the same time.
const COPIES: usize = 8;

/// A model to be published: a checkpoint of a run, and the figures for its card.
pub(crate) struct Finished {
    pub(crate) run: RunId,
    pub(crate) spec: Arc<Spec>,
    pub(crate) checkpoint: CheckpointId,
    /// Held-out losses by steps committed.
    pub(crate) losses: Vec<(u64, f64)>,
}

/// Copies a checkpoint's model to the run's model folder, adds its card, and returns the folder's path or URL.
///
/// # Errors
/// [`Unpublished`]. After an error of the store, the caller can try again.
pub(crate) async fn publish(storage: &Storage, finished: &Finished) -> Result<String, Unpublished> {
    let Finished { run, spec, checkpoint: CheckpointId { lineage, step }, losses } = finished;
    let (lineage, step) = (*lineage, *step);
    let folder = key::checkpoint(run, lineage, step);
    let body = storage.read(&key::manifest(run, lineage, step)).await?;
    let broken = |error: serde_json::Error| Unpublished::Broken(error.to_string());
    let checkpoint: Checkpoint = serde_json::from_slice(&body).map_err(broken)?;
    let target = key::model(run);
    let model = ModelFolder::of(checkpoint.model);
    let copy = async |(file, name): &(File, String)| {
        storage.copy(&format!("{folder}/{}", file.key), &format!("{target}/{name}")).await
    };
    let copies = stream::iter(&model.files).map(copy).buffer_unordered(COPIES);
    copies.try_collect::<()>().await?;
    if let Some(index) = model.index() {
        storage.put(&format!("{target}/{}", Checkpoint::INDEX), index).await?;
    }
    let receipt = receipt::read(storage, &key::receipt(run)).await?;
    let card = card::card(spec, &receipt, step, losses);
    let card = card.map_err(|e| Unpublished::Broken(format!("{e:#}")))?;
    storage.put(&format!("{target}/{}", card::NAME), card).await?;
    let url = format!("{}/{target}", storage.url());
    Ok(url.strip_prefix("file://").unwrap_or(&url).to_owned())
}

/// The files of a checkpoint's model, with the names that `transformers` expects.
pub(crate) struct ModelFolder {
    /// The files of the checkpoint, and their names in the model folder.
    pub(crate) files: Vec<(File, String)>,
}

impl ModelFolder {
    /// Names the model files of a manifest. Files with weights are numbered in their order.
    pub(crate) fn of(model: Vec<File>) -> Self {
        let count = model.iter().filter(|f| !f.tensors.is_empty()).count();
        let mut number = 0;
        let named = |file: File| {
            let below = file.key.strip_prefix(Checkpoint::MODEL).and_then(|k| k.strip_prefix('/'));
            let name = if file.tensors.is_empty() {
                below.unwrap_or(&file.key).to_owned()
            } else {
                number += 1;
                shard_name(number, count)
            };
            (name != Checkpoint::INDEX).then_some((file, name))
        };
        Self { files: model.into_iter().filter_map(named).collect() }
    }

    /// The index of the weights; `None` if a single file has all of them.
    pub(crate) fn index(&self) -> Option<Vec<u8>> {
        let renamed = |(file, name): &(File, String)| File { key: name.clone(), ..file.clone() };
        let shards: Vec<_> = self.files.iter().map(renamed).collect();
        let weights = shards.iter().filter(|f| !f.tensors.is_empty()).count();
        (weights > 1).then(|| to_json(&Checkpoint::model_index(&shards)))
    }
}

/// The name that `transformers` expects for shard `number` of `count`.
fn shard_name(number: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".into(),
        _ => format!("model-{number:05}-of-{count:05}.safetensors"),
    }
}
