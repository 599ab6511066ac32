//! Writes a prepared shard to storage, in parts of bounded size.

use crate::inputs::storage_trouble;
use crate::session::Trouble;
use data::PreparedRecord;
use proto::key;
use proto::prepared::{Object, Writer};
use storage::Storage;
use tokio::runtime::Handle;

/// A part is stored once it has at least this size. A few times as much memory is used while it is written. The limit
/// is in bytes, not in tokens, since a short sample takes more space for its other fields than for its tokens.
const PART_BYTES: usize = 16 << 20;

/// The parts of a prepared shard. Where the shard is cut, between two records, depends on its records alone, so a
/// worker that prepares it again writes the same parts.
pub(super) struct Parts {
    storage: Storage,
    runtime: Handle,
    fingerprint: String,
    shard: u32,
    object: Object,
    writer: Writer,
    /// Number of samples in each stored part.
    stored: Vec<u64>,
}

impl Parts {
    /// Starts prepared shard `shard`, whose records all come from `object`. Must be called within a runtime; the
    /// methods block, so they must be called outside of it.
    pub(super) fn new(storage: Storage, fingerprint: String, shard: u32, object: Object) -> Self {
        let writer = Self::writer(&fingerprint, &object);
        let (runtime, stored) = (Handle::current(), Vec::new());
        Self { storage, runtime, fingerprint, shard, object, writer, stored }
    }

    fn writer(fingerprint: &str, object: &Object) -> Writer {
        let mut writer = Writer::new(fingerprint);
        writer.object(object.clone());
        writer
    }

    /// Adds a record, and stores the part if that fills it.
    ///
    /// # Errors
    /// [`Cause::Storage`](proto::protocol::Cause::Storage).
    pub(super) fn push(&mut self, record: PreparedRecord) -> Result<(), Trouble> {
        self.writer.record(record.features);
        record.samples.iter().for_each(|sample| self.writer.push(sample));
        if self.writer.bytes() >= PART_BYTES { self.store() } else { Ok(()) }
    }

    /// Stores the last part, and returns the number of samples in each part.
    ///
    /// # Errors
    /// [`Cause::Storage`](proto::protocol::Cause::Storage).
    pub(super) fn finish(mut self) -> Result<Vec<u64>, Trouble> {
        if !self.writer.is_empty() {
            self.store()?;
        }
        Ok(self.stored)
    }

    fn store(&mut self) -> Result<(), Trouble> {
        let next = Self::writer(&self.fingerprint, &self.object);
        let full = std::mem::replace(&mut self.writer, next);
        let samples = full.len() as u64;
        let part = u32::try_from(self.stored.len()).unwrap_or(u32::MAX);
        let key = key::prepared_part(&self.fingerprint, self.shard, part);
        let stored = self.runtime.block_on(self.storage.put(&key, full.finish()));
        stored.map_err(storage_trouble)?;
        self.stored.push(samples);
        Ok(())
    }
}
