//! An object of a source as it was when the run began, read by range.

use super::trouble;

use crate::session::Trouble;
use bytes::Bytes;
use data::ReadAt;
use proto::error::chain;
use proto::protocol::{Cause, RawShard};
use proto::storage::{Object, Storage};
use std::io;
use std::ops::Range;
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
    /// [`Cause::Data`] for one that is gone or has changed.
    pub(super) async fn find(shard: &RawShard) -> Result<Self, Trouble> {
        let data = trouble(Cause::Data);
        let (storage, key) = Storage::containing(&shard.url).map_err(|e| data(chain(&e)))?;
        let found = storage.head(&key).await.map_err(|e| data(chain(&e)))?;
        // Where a store tells no identity, time has to do.
        let as_old = |o: &Object| o.etag.is_some() || o.modified_ms == shard.modified_ms;
        let same = |o: &Object| o.bytes == shard.bytes && o.etag == shard.etag && as_old(o);
        let same = found.as_ref().is_some_and(same);
        if !same {
            let what = if found.is_some() { "has changed" } else { "is gone" };
            let url = &shard.url;
            let message = format!("`{url}` {what} since the run began\nhint: start the run again");
            return Err(data(message));
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
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}
