//! Stores a rank's part of a checkpoint while training goes on.
//!
//! A large file goes part by part, so that what is tried again, and bounded in time, is a part.

use crate::checkpoint::Snapshot;
use crate::job::Job;
use crate::session::Trouble;
use bytes::Bytes;
use futures::stream;
use proto::manifest::{File, sha256};
use proto::protocol::{Cause, Place};
use proto::storage::{self, Patience};

const HINT: &str =
    "\nhint: make room or mend the storage; --resume goes on from the last checkpoint";

/// Stores every file of the part and says what they are.
///
/// # Errors
/// What the store says, after its own retries.
pub async fn store(job: &Job, place: &Place, snapshot: Snapshot) -> Result<Vec<File>, Trouble> {
    let folder = proto::key::checkpoint(&place.run, place.lineage, snapshot.step);
    let trouble = |error: storage::Error| Trouble {
        cause: Cause::Storage,
        message: proto::error::chain(&error) + HINT,
    };
    let storage = job.storage().patient(Patience::Checkpoint).map_err(trouble)?;
    let mut files = Vec::new();
    for part in snapshot.files {
        let (bytes, sha256) = (part.body.len() as u64, sha256(&part.body));
        let key = format!("{folder}/{}", part.key);
        let body = stream::iter([Ok(Bytes::from(part.body))]);
        storage.put_stream(&key, bytes, body).await.map_err(trouble)?;
        files.push(File { key: part.key, bytes, sha256, tensors: part.tensors });
    }
    Ok(files)
}
