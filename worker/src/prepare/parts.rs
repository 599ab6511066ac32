//! A prepared shard on its way into storage, in parts of bounded size.

use crate::inputs::storage_trouble;
use crate::session::Trouble;
use data::PreparedRecord;
use proto::key;
use proto::prepared::{Object, Writer};
use storage::Storage;
use tokio::runtime::Handle;

/// A part, but for its last record: a few times that is in memory while it is written. Short samples take more beside
/// their tokens than for them, so bytes are counted, not tokens.
const PART_BYTES: usize = 16 << 20;

/// Where a shard is cut, between two records, is a function of its records alone: whoever prepares it again writes the
/// same parts.
pub(super) struct Parts {
    storage: Storage,
    runtime: Handle,
    fingerprint: String,
    shard: u32,
    object: Object,
    writer: Writer,
    /// Samples in each part that is stored.
    stored: Vec<u64>,
}

impl Parts {
    /// No part yet of prepared shard `shard`, all of `object`. To be called within a runtime, used outside of it.
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

    /// Adds a record, and stores the part that it fills.
    ///
    /// # Errors
    /// Storage.
    pub(super) fn push(&mut self, record: PreparedRecord) -> Result<(), Trouble> {
        self.writer.record(record.features);
        record.samples.iter().for_each(|sample| self.writer.push(sample));
        if self.writer.bytes() >= PART_BYTES { self.store() } else { Ok(()) }
    }

    /// Stores what is left, and says how many samples each part has.
    ///
    /// # Errors
    /// Storage.
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
