//! The files of a base model's folder that the coordinator reads: configuration and tokenizer, never weights.

use super::fault;
use super::progress::Progress;
use crate::core::Fault;
use bytes::Bytes;
use proto::event::Failure;
use proto::spec::Location;
use serde_json::Value;
use storage::{Patience, Storage};

/// Checks that the folder holds a model.
///
/// # Errors
/// A user fault if the folder is missing or holds no model, an infrastructure fault if storage fails.
pub(crate) async fn check(location: &Location, progress: &Progress) -> Result<(), Fault> {
    progress.begin(format!("model.base `{location}`"));
    let base = open(location, Patience::Listing).await?;
    if base.head("config.json").await.map_err(unread)?.is_some() {
        return Ok(());
    }
    // The object is also missing if the bucket does not exist; this reports a missing bucket.
    base.probe().await.map_err(unread)?;
    let hint = match base.head("model/config.json").await.map_err(unread)? {
        Some(_) => "name the folder `model` in it",
        None => "name a folder in Hugging Face's format",
    };
    Err(Fault {
        kind: Failure::User,
        message: format!(
            "model.base: there is no model in {location}: it has no `config.json`\nhint: {hint}"
        ),
    })
}

/// Reads the files in [`data::Folder::FILES`]; a missing file counts as empty.
///
/// # Errors
/// The errors of [`check`].
pub(crate) async fn tokenizer(
    location: &Location,
    progress: &Progress,
) -> Result<Vec<Bytes>, Fault> {
    let base = open(location, Patience::Data).await?;
    let mut files = Vec::with_capacity(data::Folder::FILES.len());
    for name in data::Folder::FILES {
        progress.begin(format!("model.base `{location}`, `{name}`"));
        match base.read(name).await {
            Ok(body) => files.push(body),
            Err(storage::Error::NotFound { .. }) => files.push(Bytes::new()),
            Err(e) => return Err(unread(e)),
        }
    }
    Ok(files)
}

/// The longest sequence that the base was trained on, in tokens, if its `config.json` names one. It is only needed for
/// a warning, so a file that cannot be read counts as one that names none.
pub(crate) async fn positions(location: &Location) -> Option<u64> {
    let base = open(location, Patience::Listing).await.ok()?;
    let config = base.read("config.json").await.ok()?;
    positions_in(&serde_json::from_slice(&config).ok()?)
}

/// The weights of a model.
pub(crate) struct Weights {
    pub(crate) parameters: u64,
    /// The size of their files.
    pub(crate) bytes: u64,
}

/// The weights in the base's safetensors files, whose sizes tell; `None` if it has none.
///
/// # Errors
/// The errors of [`check`].
pub(crate) async fn weights(location: &Location) -> Result<Option<Weights>, Fault> {
    let base = open(location, Patience::Listing).await?;
    let config = base.read("config.json").await.map_err(unread)?;
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let dtype = ["torch_dtype", "dtype"].into_iter().find_map(|key| config[key].as_str());
    let width = if dtype == Some("float32") { 4 } else { 2 };
    let files = base.list("").await.map_err(unread)?;
    let weights = files.iter().filter(|f| !f.key.contains('/') && f.key.ends_with(".safetensors"));
    let bytes = weights.map(|file| file.bytes).sum();
    Ok((bytes > 0).then_some(Weights { parameters: bytes / width, bytes }))
}

/// Reads `rope_scaling` of transformers 4 and `rope_parameters` of transformers 5: a scaled rotary embedding reaches
/// `factor` times the original length. In some configurations `max_position_embeddings` is the length before scaling,
/// in others the length after it. The longer of the two counts, which avoids false warnings.
fn positions_in(config: &Value) -> Option<u64> {
    let trained = config["max_position_embeddings"].as_u64()?;
    let rope = ["rope_scaling", "rope_parameters"].map(|key| &config[key]);
    let scaling = rope.into_iter().find(|rope| rope["factor"].is_number());
    let Some(scaling) = scaling else { return Some(trained) };
    let before = scaling["original_max_position_embeddings"].as_u64().unwrap_or(trained);
    let scaled = before as f64 * scaling["factor"].as_f64().unwrap_or(1.0);
    Some(trained.max(scaled as u64))
}

/// Opens the base's folder on a blocking thread, because a file system that never answers must not block other tasks.
async fn open(location: &Location, patience: Patience) -> Result<Storage, Fault> {
    let location = location.clone();
    let opened = tokio::task::spawn_blocking(move || {
        if let Some(folder) = location.as_file().filter(|folder| !folder.is_dir()) {
            let hint = "hint: relative paths start at the spec's folder";
            let message = format!("model.base: there is no folder {}\n{hint}", folder.display());
            return Err(Fault { kind: Failure::User, message });
        }
        let storage = Storage::open_with_patience(&location.to_string(), patience);
        storage.and_then(Storage::confined).map_err(unread)
    });
    opened.await.expect("opening a folder does not panic")
}

fn unread(error: storage::Error) -> Fault {
    fault::unreadable("model.base", &error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scaled_rotary_embeddings_reach_further() {
        let of = |rope: Value| {
            let mut config = json!({"max_position_embeddings": 1000});
            config.as_object_mut().unwrap().extend(rope.as_object().unwrap().clone());
            positions_in(&config)
        };
        assert_eq!(of(json!({})), Some(1000));
        assert_eq!(of(json!({"rope_scaling": null})), Some(1000));
        assert_eq!(of(json!({"rope_parameters": {"rope_type": "default"}})), Some(1000));
        assert_eq!(of(json!({"rope_scaling": {"type": "linear", "factor": 2.0}})), Some(2000));
        let yarn = json!({"factor": 4.0, "original_max_position_embeddings": 500});
        assert_eq!(of(json!({"rope_parameters": yarn})), Some(2000));
        let llama3 = json!({"factor": 8.0, "original_max_position_embeddings": 100});
        assert_eq!(of(json!({"rope_scaling": llama3})), Some(1000));
        assert_eq!(positions_in(&json!({})), None);
    }
}
