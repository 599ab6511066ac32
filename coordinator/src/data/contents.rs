//! Reads what planning needs from a prepared data set: the front of every part, never the tokens.
//!
//! ```text
//! parts --fronts--> metas      16 bytes per sample; all that is kept without quality checks
//!                   Records    60 bytes per record, for the quality checks
//!       --ranges--> Signatures 128 bytes per record, a few of which are in memory at a time
//! ```

mod signatures;

use super::quality::Records;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use proto::error::chain;
use proto::manifest::{Prepared, PreparedPart};
use proto::plan::Meta;
use proto::prepared::{Front, HEAD_BYTES};
use proto::spec::Data;
pub(crate) use signatures::Signatures;
use std::future;
use storage::Storage;
use thiserror::Error;

/// Number of concurrent reads. A data set has hundreds of parts, and a store takes tens of milliseconds to answer.
const READS: usize = 8;

/// The samples of a prepared data set, without their tokens.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The metas of all samples, by sample id.
    pub(crate) metas: Vec<Meta>,
    /// Number of samples of each source; ids ascend with the sources.
    pub(crate) by_source: Vec<u32>,
    /// The input of the quality checks, if any check is on.
    pub(crate) checked: Option<Checked>,
}

/// The input of the quality checks.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The records, without their signatures.
    pub(crate) records: Records,
    /// The signatures, which are read in ranges.
    pub(crate) signatures: Signatures,
}

/// Why a prepared data set cannot be planned with.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// A storage operation failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A part differs from the manifest.
    #[error("{0}")]
    Damaged(String),
}

impl Error {
    fn damaged(part: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Error::Damaged(format!("`{part}`: {}", chain(error)))
    }
}

impl Contents {
    /// Reads the front of every part that `prepared` lists.
    ///
    /// # Errors
    /// Errors of the store, and parts that are missing, damaged or of another data set.
    pub(crate) async fn read(
        storage: &Storage,
        fingerprint: &str,
        prepared: &Prepared,
        data: &Data,
    ) -> Result<Self, Error> {
        let checked = || Checked {
            records: Records::default(),
            signatures: Signatures::new(storage.clone()),
        };
        let mut contents = Self {
            metas: reserve_metas(prepared)?,
            by_source: vec![0; data.sources().len()],
            checked: data.quality.is_on().then(checked),
        };
        futures::stream::iter(prepared.parts(fingerprint))
            .map(async |part| Ok((read_front(storage, &part).await?, part)))
            .buffered(READS)
            .try_for_each(|(bytes, part)| {
                future::ready(contents.add_part(bytes, fingerprint, part))
            })
            .await?;
        Ok(contents)
    }

    fn add_part(
        &mut self,
        bytes: Bytes,
        fingerprint: &str,
        part: PreparedPart,
    ) -> Result<(), Error> {
        let damaged = |what: &str| Error::Damaged(format!("`{}`: {what}", part.key));
        let front = Front::parse(bytes).map_err(|e| Error::damaged(&part.key, &e))?;
        let front = front.starting_after(part.starts_after);
        if front.fingerprint() != fingerprint || front.len() as u64 != part.samples {
            return Err(damaged("belongs to another data set"));
        }
        self.add(&front).map_err(|what| damaged(&what))?;
        if let Some(checked) = &mut self.checked {
            checked.records.push(&front);
            checked.signatures.push(part.key, &front);
        }
        Ok(())
    }

    fn add(&mut self, front: &Front) -> Result<(), String> {
        for index in 0..front.len() {
            let source = front.object(index).map(|object| object.source);
            let count = source.and_then(|source| self.by_source.get_mut(source as usize));
            *count.ok_or_else(|| format!("sample {index} belongs to no source"))? += 1;
        }
        self.metas.extend(front.metas().map(|m| Meta {
            length: m.length,
            weight: m.weight,
            hash: m.hash,
        }));
        Ok(())
    }
}

/// An empty list with capacity for the metas of all samples. A growing list would take three times the memory while it
/// is reallocated.
fn reserve_metas(prepared: &Prepared) -> Result<Vec<Meta>, Error> {
    let parts = prepared.shards.iter().flat_map(|shard| &shard.parts);
    let samples = parts.fold(0u64, |sum, samples| sum.saturating_add(*samples));
    let mut metas = Vec::new();
    // A sample's id has 32 bits.
    let reserved = u32::try_from(samples).ok().map(|n| metas.try_reserve_exact(n as usize));
    match reserved {
        Some(Ok(())) => Ok(metas),
        Some(Err(_)) | None => Err(Error::Damaged(format!("{samples} samples are too many"))),
    }
}

/// Reads the bytes of a part's front, with a second read if the first was too short.
async fn read_front(storage: &Storage, part: &PreparedPart) -> Result<Bytes, Error> {
    let mut wanted = HEAD_BYTES;
    loop {
        let bytes = storage.read_range(&part.key, 0..wanted, None).await?;
        let needed = Front::needs(&bytes).map_err(|e| Error::damaged(&part.key, &e))?;
        // If there are fewer bytes than wanted, the object ends there.
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
    use proto::prepared::{Features, Flaws, Object, Sample, Signature, Unit, Writer};
    use std::path::Path;

    const TWO_SOURCES: &str = "train: [{source: a}, {source: b}]";
    const MANY: usize = 2000;

    fn body(fingerprint: &str, source: u32, lengths: &[usize]) -> Vec<u8> {
        let mut writer = Writer::new(fingerprint);
        writer.object(Object { name: "o".into(), source, unit: Unit::Line });
        for (record, length) in lengths.iter().enumerate() {
            let mut weights = vec![1.0; *length];
            weights[0] = 0.0;
            let (hash, flaws) = (record as u64, Flaws::default());
            let signature = signature(source as usize, record);
            writer.record(Features { content: hash, exchange: None, flaws, signature });
            writer.push(&Sample { tokens: vec![7; *length], weights, hash, position: 1 });
        }
        writer.finish()
    }

    /// A signature that differs between parts (`seed`), records and places.
    fn signature(seed: usize, record: usize) -> Signature {
        Signature(std::array::from_fn(|place| (seed + 7 * record + 31 * place) as u8))
    }

    /// Stores three parts: two records, one record, and a front that is larger than the first read.
    async fn stored(storage: &Storage) -> Prepared {
        let parts: [(u32, u32, u32, Vec<usize>); 3] =
            [(0, 0, 0, vec![2, 5]), (0, 1, 0, vec![4]), (2, 0, 1, vec![3; MANY])];
        for (shard, part, source, lengths) in parts {
            let key = proto::key::prepared_part("f", shard, part);
            storage.put(&key, body("f", source, &lengths)).await.unwrap();
        }
        let shard = |parts: &[u64]| PreparedShard { starts_after: 0, parts: parts.to_vec() };
        let shards = vec![shard(&[2, 1]), shard(&[]), shard(&[MANY as u64])];
        Prepared { shards, ..Prepared::default() }
    }

    async fn read(storage: &Storage, prepared: &Prepared, data: &str) -> Result<Contents, Error> {
        let yaml = format!("model: {{base: m}}\ndata: {{{data}}}\n");
        let spec = proto::spec::parse(&yaml, Path::new("/")).unwrap();
        Contents::read(storage, "f", prepared, spec.data()).await
    }

    #[tokio::test]
    async fn contents_are_read_from_the_front_of_every_part_in_order() {
        let storage = Storage::memory();
        let prepared = stored(&storage).await;
        let contents = read(&storage, &prepared, TWO_SOURCES).await.unwrap();
        let lengths: Vec<u32> = contents.metas.iter().map(|m| m.length).collect();
        assert_eq!((&lengths[..3], lengths.len()), (&[2, 5, 4][..], 3 + MANY));
        assert_eq!(contents.by_source, [3, MANY as u32]);
    }

    #[tokio::test]
    async fn a_part_that_differs_from_the_manifest_is_refused() {
        let storage = Storage::memory();
        let mut prepared = stored(&storage).await;
        let refused = async |prepared: &Prepared, data: &str| {
            read(&storage, prepared, data).await.unwrap_err().to_string()
        };
        prepared.shards[0].parts[1] = 2;
        let error = refused(&prepared, TWO_SOURCES).await;
        assert!(error.contains("shard-00000-001.safetensors`: belongs to another"), "{error}");
        prepared.shards[0].parts[1] = 1;
        let error = refused(&prepared, "train: [{source: a}]").await;
        assert!(error.contains("sample 0 belongs to no source"), "{error}");
        let cut = body("f", 1, &vec![3; MANY])[..20_000].to_vec();
        storage.put(&proto::key::prepared_part("f", 2, 0), cut).await.unwrap();
        let error = refused(&prepared, TWO_SOURCES).await;
        assert!(error.contains("not a whole safetensors file"), "{error}");
        prepared.shards[0].parts[0] = u64::MAX;
        let error = refused(&prepared, TWO_SOURCES).await;
        assert!(error.contains("samples are too many"), "{error}");
    }

    #[tokio::test]
    async fn signatures_are_read_place_by_place_over_all_parts() {
        let storage = Storage::memory();
        let prepared = stored(&storage).await;
        let checked = read(&storage, &prepared, TWO_SOURCES).await.unwrap().checked.unwrap();
        assert_eq!(checked.records.len(), 3 + MANY);
        let of_parts = [(0, 2), (0, 1), (1, MANY)];
        let all: Vec<Signature> = of_parts
            .iter()
            .flat_map(|(source, records)| (0..*records).map(|r| signature(*source, r)))
            .collect();
        for places in [0..7, 126..128, 5..5] {
            let expected: Vec<u8> =
                places.clone().flat_map(|place| all.iter().map(move |of| of.0[place])).collect();
            assert!(
                checked.signatures.read(places.clone()).await.unwrap() == expected,
                "{places:?}"
            );
        }
        storage.delete(&proto::key::prepared_part("f", 0, 1)).await.unwrap();
        let gone = checked.signatures.read(0..7).await.unwrap_err();
        assert!(matches!(gone, Error::Storage(storage::Error::NotFound { .. })), "{gone}");
    }

    #[tokio::test]
    async fn without_quality_checks_no_records_are_kept() {
        let storage = Storage::memory();
        let prepared = stored(&storage).await;
        let off = "duplicates: off, near_duplicates: off, contradictions: off, loops: off, \
                   incomplete: off, contamination: off";
        let data = format!("{TWO_SOURCES}, quality: {{{off}}}");
        let contents = read(&storage, &prepared, &data).await.unwrap();
        assert!(contents.checked.is_none());
        assert_eq!(contents.metas.capacity(), 3 + MANY);
    }
}
