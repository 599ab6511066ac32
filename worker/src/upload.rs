//! Stores a rank's part of a checkpoint while training goes on.

use crate::checkpoint::Snapshot;
use crate::job::Job;
use crate::session::Trouble;
use proto::manifest::{File, sha256};
use proto::protocol::{Cause, Place};

const HINT: &str =
    "\nhint: make room or mend the storage; --resume goes on from the last checkpoint";

/// Stores every file of the part and says what they are.
///
/// # Errors
/// What the store says, after its own retries.
pub async fn store(job: &Job, place: &Place, snapshot: Snapshot) -> Result<Vec<File>, Trouble> {
    let folder = proto::key::checkpoint(&place.run, place.lineage, snapshot.step);
    let mut files = Vec::new();
    for part in snapshot.files {
        let (bytes, sha256) = (part.body.len() as u64, sha256(&part.body));
        let key = format!("{folder}/{}", part.key);
        job.storage().put(&key, part.body).await.map_err(|error| Trouble {
            cause: Cause::Storage,
            message: proto::error::chain(&error) + HINT,
        })?;
        files.push(File { key: part.key, bytes, sha256, tensors: part.tensors });
    }
    Ok(files)
}
