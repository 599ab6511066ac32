//! Copies a base model from the hub to the output, once. Workers then need neither the hub nor its token, and the run
//! does not depend on later changes to the repository.
//!
//! Only the files that a model folder needs are copied. The manifest is written last, so a folder without one is
//! incomplete. Two coordinators that stage the same commit write the same bytes.

use super::progress::Progress;
use crate::core::Fault;
use bytes::Bytes;
use futures::StreamExt;
use proto::error::chain;
use proto::event::Failure;
use proto::key;
use proto::manifest::{self, Digests, Hasher, Staged};
use proto::spec::hub::{Commit, Kind};
use proto::spec::{HubName, Location, Spec};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::Storage;
use storage::hub::{self, Hub};
use thiserror::Error;

/// Uploads older than this are abandoned.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Why a model cannot be staged.
#[derive(Debug, Error)]
enum Error {
    #[error(transparent)]
    Hub(#[from] hub::Error),
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error(
        "it contains no model: there is no `config.json`\nhint: name a repository in Hugging Face's format"
    )]
    NoModel,
    #[error("`{file}` was damaged during the download: {what}\nhint: run the command again")]
    Damaged { file: String, what: String },
}

/// Stages the base of a run, if it is on the hub.
///
/// # Errors
/// A user fault for a repository without a model, an infrastructure fault if the hub or the storage fails.
pub(crate) async fn stage(output: &Storage, spec: &Spec, progress: &Progress) -> Result<(), Fault> {
    let Location::Hub(name) = &spec.model().base else { return Ok(()) };
    let Some(commit) = name.pinned() else { return Ok(()) };
    progress.begin(format!("model.base `{name}`"));
    stage_commit(output, name, &commit, progress).await.map_err(|e| {
        let users = match &e {
            Error::Hub(e) => e.is_users(),
            Error::Storage(e) => e.is_users(),
            Error::NoModel => true,
            Error::Damaged { .. } => false,
        };
        Fault {
            kind: if users { Failure::User } else { Failure::Infrastructure },
            message: format!("model.base `{}`: {}", spec.model().base, chain(&e)),
        }
    })
}

async fn stage_commit(
    output: &Storage,
    name: &HubName,
    commit: &Commit,
    progress: &Progress,
) -> Result<(), Error> {
    let folder = key::staged(&name.repo, commit.as_str());
    let contents = format!("{folder}/{}", Staged::MANIFEST);
    if output.head(&contents).await?.is_some() {
        return Ok(());
    }
    let files = Hub::from_env()?.files(Kind::Model, &name.repo, commit, "").await?;
    if !files.iter().any(|f| f.path == "config.json") {
        return Err(Error::NoModel);
    }
    let url = Location::Hub(name.at(commit.clone())).to_string();
    let repository = Storage::open_existing(&url)?;
    // Uploads of a coordinator that died while it staged this commit.
    output.sweep(&folder, ABANDONED_AFTER).await?;
    let mut staged = Staged { files: Vec::new() };
    for file in files.into_iter().filter(|f| Staged::takes(&f.path)) {
        tracing::info!(repository = name.repo, file = file.path, bytes = file.bytes, "staging");
        staged.files.push(copy((&repository, output), &folder, file, progress).await?);
    }
    let body = serde_json::to_vec_pretty(&staged).expect("a table of contents is JSON");
    // Another coordinator may have created it first, with the same files of the same commit.
    output.create(&contents, body).await?;
    Ok(())
}

/// Copies a file. A file that differs from its digest on the hub does not appear in the output.
async fn copy(
    (repository, output): (&Storage, &Storage),
    folder: &str,
    file: hub::File,
    progress: &Progress,
) -> Result<manifest::File, Error> {
    let hash = Arc::<Mutex<Hasher>>::default();
    let add = |piece: Result<Bytes, storage::Error>| {
        let piece = piece?;
        hash.lock().expect("no code panics while holding the lock").update(&piece);
        progress.note();
        Ok(piece)
    };
    let verdict = futures::stream::once(async {
        let hash = hash.lock().expect("no code panics while holding the lock").clone();
        let Digests { sha256, .. } = hash.finish();
        match &file.sha256 {
            Some(wanted) if *wanted != sha256 => {
                let what = format!("its SHA-256 is {sha256}, not {wanted}");
                Err(Error::Damaged { file: file.path.clone(), what })
            }
            Some(_) | None => Ok(Bytes::new()),
        }
    });
    let pieces = repository.pieces(&file.path, file.bytes, None).map(add).chain(verdict);
    output.put_stream(&format!("{folder}/{}", file.path), file.bytes, pieces).await?;
    let digests = hash.lock().expect("no code panics while holding the lock").clone().finish();
    Ok(manifest::File { key: file.path, bytes: file.bytes, digests, tensors: Vec::new() })
}
