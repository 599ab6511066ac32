//! What a plan needs to know of a prepared data set: read part by part from the front, never the tokens.

use crate::quality::Records;
use bytes::Bytes;
use proto::error::chain;
use proto::manifest::{Prepared, PreparedPart};
use proto::plan::Meta;
use proto::prepared::{Front, HEAD_BYTES};
use proto::storage::{self, Storage};
use thiserror::Error;

/// Every sample by its id.
#[derive(Debug)]
pub(crate) struct Contents {
    /// 16 bytes a sample.
    pub(crate) metas: Vec<Meta>,
    /// What the quality checks compare.
    pub(crate) records: Records,
    /// Samples by source, which follow each other.
    pub(crate) by_source: Vec<u32>,
}

/// Why a prepared data set cannot be planned with.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The object store's fault.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A part is not what the manifest says.
    #[error("{0}")]
    Damaged(String),
}

impl Contents {
    /// Reads the front of every part that `prepared` lists, of `sources` sources.
    ///
    /// # Errors
    /// Storage, or parts that are missing, foreign or damaged.
    pub(crate) async fn read(
        storage: &Storage,
        fingerprint: &str,
        prepared: &Prepared,
        sources: usize,
    ) -> Result<Self, Error> {
        let (metas, records) = (Vec::new(), Records::default());
        let mut contents = Self { metas, records, by_source: vec![0; sources] };
        for part in prepared.parts(fingerprint) {
            let damaged = |what: String| Error::Damaged(format!("`{}`: {what}", part.key));
            let bytes = read_front(storage, &part).await?;
            let front = Front::parse(bytes).map_err(|e| damaged(chain(&e)))?;
            let front = front.starting_after(part.starts_after);
            if front.fingerprint() != fingerprint || front.len() as u64 != part.samples {
                return Err(damaged("belongs to another data set".into()));
            }
            contents.add(&front).map_err(damaged)?;
        }
        Ok(contents)
    }

    fn add(&mut self, front: &Front) -> Result<(), String> {
        for index in 0..front.len() {
            let source = front.object(index).map(|object| object.source);
            let count = source.and_then(|source| self.by_source.get_mut(source as usize));
            *count.ok_or_else(|| format!("sample {index} is of no source"))? += 1;
        }
        self.records.push(front);
        self.metas.extend(front.metas().map(|m| Meta {
            length: m.length,
            weight: m.weight,
            hash: m.hash,
        }));
        Ok(())
    }
}

/// The bytes of a part's front: one read, and a second where the first was too short.
async fn read_front(storage: &Storage, part: &PreparedPart) -> Result<Bytes, Error> {
    let damaged =
        |e: proto::prepared::Error| Error::Damaged(format!("`{}`: {}", part.key, chain(&e)));
    let mut wanted = HEAD_BYTES;
    loop {
        let bytes = storage.read_range(&part.key, 0..wanted, None).await?;
        let needed = Front::needs(&bytes).map_err(damaged)?;
        // Fewer than wanted: the object ends there.
        if needed <= bytes.len() as u64 || (bytes.len() as u64) < wanted {
            return Ok(bytes);
        }
        wanted = needed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::manifest::PreparedShard;
    use proto::prepared::{Features, Flaws, Object, SIGNATURE, Sample, Signature, Unit, Writer};
    use proto::receipt::Receipt;

    fn part(fingerprint: &str, source: u32, lengths: &[usize]) -> Vec<u8> {
        let mut writer = Writer::new(fingerprint);
        writer.object(Object { name: "o".into(), source, unit: Unit::Line });
        for (hash, length) in (0..).zip(lengths) {
            let mut weights = vec![1.0; *length];
            weights[0] = 0.0;
            let (flaws, signature) = (Flaws::default(), Signature([0; SIGNATURE]));
            writer.record(Features { content: hash, exchange: None, flaws, signature });
            writer.push(&Sample { tokens: vec![7; *length], weights, hash, position: 1 });
        }
        writer.finish()
    }

    #[tokio::test]
    async fn contents_are_read_from_the_front_of_every_part_in_order() {
        let storage = Storage::memory();
        let many = vec![3; 2000];
        for (key, body) in [
            (proto::key::prepared_part("f", 0, 0), part("f", 0, &[2, 5])),
            (proto::key::prepared_part("f", 0, 1), part("f", 0, &[4])),
            // A front that is larger than what is read at first.
            (proto::key::prepared_part("f", 2, 0), part("f", 1, &many)),
        ] {
            storage.put(&key, body).await.unwrap();
        }
        let shard = |parts: &[u64]| PreparedShard { starts_after: 0, parts: parts.to_vec() };
        let mut prepared = Prepared {
            shards: vec![shard(&[2, 1]), shard(&[]), shard(&[2000])],
            receipt: Receipt::default(),
        };
        let contents = Contents::read(&storage, "f", &prepared, 2).await.unwrap();
        let lengths: Vec<u32> = contents.metas.iter().map(|m| m.length).collect();
        assert_eq!((&lengths[..3], lengths.len()), (&[2, 5, 4][..], 2003));
        assert_eq!(contents.by_source, [3, 2000]);

        prepared.shards[0].parts[1] = 2;
        let error = Contents::read(&storage, "f", &prepared, 2).await.unwrap_err().to_string();
        assert!(error.contains("shard-00000-001.safetensors`: belongs to another"), "{error}");
        prepared.shards[0].parts[1] = 1;
        let error = Contents::read(&storage, "f", &prepared, 1).await.unwrap_err().to_string();
        assert!(error.contains("sample 0 is of no source"), "{error}");
        let cut = part("f", 1, &many)[..20_000].to_vec();
        storage.put(&proto::key::prepared_part("f", 2, 0), cut).await.unwrap();
        let error = Contents::read(&storage, "f", &prepared, 2).await.unwrap_err().to_string();
        assert!(error.contains("not a whole safetensors file"), "{error}");
    }
}
