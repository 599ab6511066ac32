//! The records' signatures in storage, 128 bytes each. They are read by ranges of places, so that they are never all in
//! memory.

use super::{Error, READS};
use bytes::Bytes;
use futures::StreamExt;
use proto::prepared::{Front, SIGNATURE};
use std::ops::Range;
use storage::Storage;

/// The signatures of all records, by id.
#[derive(Debug)]
pub(crate) struct Signatures {
    storage: Storage,
    parts: Vec<Part>,
    records: usize,
}

/// The signatures of the records in one part.
#[derive(Debug)]
struct Part {
    key: String,
    /// The offset of the signatures in the object.
    start: u64,
    records: Range<usize>,
}

impl Signatures {
    /// The signatures of no records; [`Self::push`] adds parts.
    pub(super) fn new(storage: Storage) -> Self {
        Self { storage, parts: Vec::new(), records: 0 }
    }

    /// Adds the records of the next part, at `key`.
    pub(super) fn push(&mut self, key: String, front: &Front) {
        let first = self.records;
        self.records += front.records();
        let start = front.signatures(0..SIGNATURE).start;
        self.parts.push(Part { key, start, records: first..self.records });
    }

    /// Reads the bytes of all signatures at `places`, place by place.
    ///
    /// # Errors
    /// Errors of the store, and a part that is shorter than its front says.
    pub(crate) async fn read(&self, places: Range<usize>) -> Result<Vec<u8>, Error> {
        let mut all = vec![0; places.len() * self.records];
        let read = async |part| Ok::<_, Error>((part, self.read_part(part, &places).await?));
        let parts = futures::stream::iter(&self.parts).map(read);
        let mut parts = std::pin::pin!(parts.buffer_unordered(READS));
        while let Some(part) = parts.next().await {
            let (part, bytes) = part?;
            let of_part = bytes.chunks_exact(part.records.len().max(1));
            for (of_place, bytes) in all.chunks_exact_mut(self.records.max(1)).zip(of_part) {
                of_place[part.records.clone()].copy_from_slice(bytes);
            }
        }
        Ok(all)
    }

    async fn read_part(&self, part: &Part, places: &Range<usize>) -> Result<Bytes, Error> {
        let records = part.records.len() as u64;
        let at = |place: usize| part.start + place as u64 * records;
        let range = at(places.start)..at(places.end);
        let wanted = range.end - range.start;
        let bytes = self.storage.read_range(&part.key, range, None).await?;
        if bytes.len() as u64 != wanted {
            return Err(Error::Damaged(format!("`{}` ends within its signatures", part.key)));
        }
        Ok(bytes)
    }
}
