//! The records' signatures, 128 bytes each, where they lie: read by ranges of places, so that nobody holds all of them.

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

/// Those of a part's records.
#[derive(Debug)]
struct Part {
    key: String,
    /// Where in it they begin.
    start: u64,
    records: Range<usize>,
}

impl Signatures {
    /// Of no record yet.
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

    /// Some places of all signatures, place by place.
    ///
    /// # Errors
    /// Storage, or a part that is shorter than its front says.
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
