//! An object of a source as it was when the run began, read by range.

use crate::inputs::trouble;
use crate::session::Trouble;
use bytes::Bytes;
use data::ReadAt;
use proto::error::chain;
use proto::protocol::{Cause, RawShard};
use std::io;
use std::ops::Range;
use storage::{Object, Storage};
use tokio::runtime::Handle;

/// An object that has not changed since the survey.
pub(super) struct PinnedObject {
    storage: Storage,
    key: String,
    bytes: u64,
    etag: Option<String>,
    runtime: Handle,
}

impl PinnedObject {
    /// Checks that the object of `shard` still exists and is unchanged. Must be called within a runtime; reading
    /// blocks, so it must be done outside of it.
    ///
    /// # Errors
    /// [`Cause::Data`] for an object that is gone or has changed, [`Cause::Storage`] if the store fails.
    pub(super) async fn find(shard: &RawShard) -> Result<Self, Trouble> {
        let unread = |e: storage::Error| {
            let cause = if e.is_users() { Cause::Data } else { Cause::Storage };
            trouble(cause)(chain(&e))
        };
        let (storage, key) = Storage::containing(&shard.url).map_err(unread)?;
        let storage = storage.confined().map_err(unread)?;
        let found = storage.head(&key).await.map_err(unread)?;
        // If the store has no ETags, the modification time is compared instead.
        let as_old = |o: &Object| o.etag.is_some() || o.modified_ms == shard.modified_ms;
        let same = |o: &Object| o.bytes == shard.bytes && o.etag == shard.etag && as_old(o);
        let same = found.as_ref().is_some_and(same);
        if !same {
            let what = if found.is_some() { "has changed" } else { "has disappeared" };
            let url = &shard.url;
            let message = format!("`{url}` {what} since the run began\nhint: start the run again");
            return Err(trouble(Cause::Data)(message));
        }
        Ok(Self {
            storage,
            key,
            bytes: shard.bytes,
            etag: shard.etag.clone(),
            runtime: Handle::current(),
        })
    }
}

impl ReadAt for PinnedObject {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let wanted = range.end - range.start;
        let read = self.storage.read_range(&self.key, range, self.etag.as_deref());
        let bytes = self.runtime.block_on(read).map_err(io::Error::other)?;
        if bytes.len() as u64 != wanted {
            // The store has no ETag by which it could have refused the read.
            let (url, key) = (self.storage.url().to_owned(), self.key.clone());
            return Err(io::Error::other(storage::Error::Changed { url, key }));
        }
        Ok(bytes)
    }
}

/// The cause to report if a pinned object cannot be read further: the data if it was changed, else the storage.
pub(super) fn blame(error: &io::Error) -> Cause {
    use storage::Error as E;
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(E::Changed { .. } | E::NotFound { .. }) => Cause::Data,
        Some(E::Location { .. } | E::Damaged { .. } | E::Access { .. }) | None => Cause::Storage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_object_that_changes_while_it_is_read_is_a_fault_of_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let read = |object: PinnedObject, range| {
            tokio::task::spawn_blocking(move || object.read_at(range).unwrap_err())
        };
        let found = || async {
            std::fs::write(&path, "{}\n{}\n").unwrap();
            let storage = Storage::open_existing(folder.path().to_str().unwrap()).unwrap();
            let object = storage.head("a.jsonl").await.unwrap().unwrap();
            let url = format!("{}/a.jsonl", storage.url());
            let shard = RawShard {
                index: 0,
                source: 0,
                url,
                bytes: object.bytes,
                etag: object.etag,
                modified_ms: object.modified_ms,
                range: 0..object.bytes,
            };
            PinnedObject::find(&shard).await.unwrap()
        };
        let object = found().await;
        std::fs::write(&path, "{}\n").unwrap();
        let error = read(object, 3..6).await.unwrap();
        assert_eq!(blame(&error), Cause::Data, "{error}");
        assert!(error.to_string().contains("a.jsonl` has changed since the run began"), "{error}");

        let unpinned = PinnedObject { etag: None, bytes: 9, ..found().await };
        let error = read(unpinned, 3..9).await.unwrap();
        assert_eq!(blame(&error), Cause::Data, "shorter, in a store without ETags: {error}");

        let object = found().await;
        std::fs::remove_file(&path).unwrap();
        let error = read(object, 0..3).await.unwrap();
        assert_eq!(blame(&error), Cause::Data, "{error}");

        assert_eq!(blame(&io::Error::other("the network is gone")), Cause::Storage);
    }
}
