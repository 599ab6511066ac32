//! What the coordinator reads in a base model's folder. It never reads the weights.

use crate::core::Fault;
use crate::progress::Progress;
use crate::survey::storage_fault;
use bytes::Bytes;
use proto::event::Failure;
use proto::spec::Location;
use proto::storage::{self, Patience, Storage};
use serde_json::Value;

/// Whether there is a model in the folder.
///
/// # Errors
/// A fault of the user's for a folder that is missing or holds no model, of the infrastructure's for storage.
pub(crate) async fn check(location: &Location, progress: &Progress) -> Result<(), Fault> {
    progress.begin(format!("model.base `{location}`"));
    let base = open(location, Patience::Listing)?;
    if base.head("config.json").await.map_err(unread)?.is_some() {
        return Ok(());
    }
    // Where there is no bucket, there is no object either.
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

/// The contents of [`data::Folder::FILES`], empty where there is none.
///
/// # Errors
/// As [`check`].
pub(crate) async fn tokenizer(
    location: &Location,
    progress: &Progress,
) -> Result<Vec<Bytes>, Fault> {
    let base = open(location, Patience::Data)?;
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

/// How many positions of a sequence the base has been trained on, where its `config.json` says so and can be read: it
/// decides about nothing but a warning.
pub(crate) async fn positions(location: &Location) -> Option<u64> {
    let base = open(location, Patience::Listing).ok()?;
    let config = base.read("config.json").await.ok()?;
    positions_in(&serde_json::from_slice(&config).ok()?)
}

/// As transformers reads it: scaled rotations (`rope_scaling`, since version 5 `rope_parameters`) reach `factor` times
/// as far as those that the model was trained with before. Configurations differ in whether `max_position_embeddings`
/// is the one or the other; the longer counts, so that nobody is warned without need.
fn positions_in(config: &Value) -> Option<u64> {
    let trained = config["max_position_embeddings"].as_u64()?;
    let rope = ["rope_scaling", "rope_parameters"].map(|key| &config[key]);
    let scaling = rope.into_iter().find(|rope| rope["factor"].is_number());
    let Some(scaling) = scaling else { return Some(trained) };
    let before = scaling["original_max_position_embeddings"].as_u64().unwrap_or(trained);
    let scaled = before as f64 * scaling["factor"].as_f64().unwrap_or(1.0);
    Some(trained.max(scaled as u64))
}

fn open(location: &Location, patience: Patience) -> Result<Storage, Fault> {
    if let Some(folder) = location.as_file().filter(|folder| !folder.is_dir()) {
        let hint = "hint: relative paths start at the spec's folder";
        let message = format!("model.base: there is no folder {}\n{hint}", folder.display());
        return Err(Fault { kind: Failure::User, message });
    }
    Storage::open_with_patience(&location.to_string(), patience).map_err(unread)
}

fn unread(error: storage::Error) -> Fault {
    storage_fault("model.base", &error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scaled_rotations_reach_further() {
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
