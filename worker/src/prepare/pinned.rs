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

/// An object that is still what the survey found.
pub(super) struct PinnedObject {
    storage: Storage,
    key: String,
    bytes: u64,
    etag: Option<String>,
    runtime: Handle,
}

impl PinnedObject {
    /// Looks whether the object of `shard` is still there and the same. To be called within a runtime, and read
    /// outside of it.
    ///
    /// # Errors
    /// [`Cause::Data`] for one that is gone or has changed, [`Cause::Storage`] where nobody answers.
    pub(super) async fn find(shard: &RawShard) -> Result<Self, Trouble> {
        let unread = |e: storage::Error| {
            let cause = if e.is_users() { Cause::Data } else { Cause::Storage };
            trouble(cause)(chain(&e))
        };
        let (storage, key) = Storage::containing(&shard.url).map_err(unread)?;
        let found = storage.head(&key).await.map_err(unread)?;
        // Where a store tells no identity, time has to do.
        let as_old = |o: &Object| o.etag.is_some() || o.modified_ms == shard.modified_ms;
        let same = |o: &Object| o.bytes == shard.bytes && o.etag == shard.etag && as_old(o);
        let same = found.as_ref().is_some_and(same);
        if !same {
            let what = if found.is_some() { "has changed" } else { "is gone" };
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
            // The store has no ETag to tell by.
            let (url, key) = (self.storage.url().to_owned(), self.key.clone());
            return Err(io::Error::other(storage::Error::Changed { url, key }));
        }
        Ok(bytes)
    }
}

/// Whose fault it is that a pinned object cannot be read on: whoever changed it, or the store.
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
