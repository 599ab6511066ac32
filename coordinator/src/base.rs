//! What the coordinator reads in a base model's folder. It never reads the weights.

use crate::core::Fault;
use crate::progress::Progress;
use crate::survey::storage_fault;
use bytes::Bytes;
use proto::event::Failure;
use proto::spec::Location;
use proto::storage::{self, Patience, Storage};

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
