//! From a shard's bytes to samples; nothing of what they claim is believed unchecked.

use std::collections::HashMap;

use bytes::Bytes;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{Error, FORMAT_VERSION, HEADER_KEY, Header, Meta, Object, Sample, weights_flaw};

/// A prepared shard that was read and checked; tokens are decoded on demand.
#[derive(Clone, Debug)]
pub struct Shard {
    bytes: Bytes,
    fingerprint: String,
    objects: Vec<Object>,
    tokens_at: usize,
    weights_at: usize,
    offsets: Vec<u64>,
    hashes: Vec<u64>,
    positions: Vec<u64>,
    sample_objects: Vec<u32>,
    sums: Vec<f32>,
}

impl Shard {
    /// Reads a whole shard.
    ///
    /// # Errors
    /// Bytes that are cut, foreign, of another version, or that contradict themselves. Preparing
    /// the raw shard again is the way out of all of them.
    pub fn parse(bytes: Bytes) -> Result<Shard, Error> {
        let not_whole = |source| Error::NotSafetensors { bytes: bytes.len(), source };
        let (header_bytes, metadata) = SafeTensors::read_metadata(&bytes).map_err(not_whole)?;
        let header = read_header(metadata.metadata().as_ref())?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(not_whole)?;
        let part = |name: &str, dtype| read_part(&tensors, name, dtype);
        let at = |name: &str| {
            let info = metadata.info(name);
            // A header is preceded by its length.
            info.map_or(0, |info| 8 + header_bytes + info.data_offsets.0)
        };
        let tokens = part("tokens", Dtype::U32)?.len() / 4;
        let shard = Shard {
            offsets: u64s(part("offsets", Dtype::U64)?),
            hashes: u64s(part("hashes", Dtype::U64)?),
            positions: u64s(part("positions", Dtype::U64)?),
            sample_objects: u32s(part("objects", Dtype::U32)?),
            sums: f32s(part("sums", Dtype::F32)?),
            tokens_at: at("tokens"),
            weights_at: at("weights"),
            fingerprint: header.fingerprint,
            objects: header.objects,
            bytes: bytes.clone(),
        };
        shard.check(tokens, part("weights", Dtype::F32)?.len() / 4)?;
        Ok(shard)
    }

    /// Samples in the shard.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// What made the tokens what they are.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What a plan needs, sample by sample.
    pub fn metas(&self) -> impl ExactSizeIterator<Item = Meta> + '_ {
        (0..self.len()).map(|i| Meta {
            length: (self.offsets[i + 1] - self.offsets[i]) as u32,
            weight: self.sums[i],
            hash: self.hashes[i],
        })
    }

    /// The sample with this index; none past the end.
    pub fn sample(&self, index: usize) -> Option<Sample> {
        if index >= self.len() {
            return None;
        }
        let (from, to) = (self.offsets[index] as usize, self.offsets[index + 1] as usize);
        let slice = |at: usize| &self.bytes[at + from * 4..at + to * 4];
        Some(Sample {
            tokens: u32s(slice(self.tokens_at)),
            weights: f32s(slice(self.weights_at)),
            hash: self.hashes[index],
            position: self.positions[index],
        })
    }

    /// The object that a sample comes from.
    pub fn object(&self, index: usize) -> Option<&Object> {
        let object = *self.sample_objects.get(index)?;
        self.objects.get(object as usize)
    }

    /// Where a sample comes from, for people: `s3://d/7.jsonl, line 42`.
    pub fn origin(&self, index: usize) -> Option<String> {
        let object = self.object(index)?;
        let position = self.positions[index];
        Some(format!("{}, {} {position}", object.name, object.unit.label()))
    }

    fn check(&self, tokens: usize, weights: usize) -> Result<(), Error> {
        let flaw = |text: String| Err(Error::Inconsistent(text));
        let samples = self.len();
        if tokens != weights {
            return flaw(format!("{tokens} tokens and {weights} weights"));
        }
        let lengths = [
            ("offsets", self.offsets.len(), samples + 1),
            ("positions", self.positions.len(), samples),
            ("objects", self.sample_objects.len(), samples),
            ("sums", self.sums.len(), samples),
        ];
        for (name, found, wanted) in lengths {
            if found != wanted {
                return flaw(format!("{found} {name} for {samples} samples, not {wanted}"));
            }
        }
        let ends = (self.offsets[0], self.offsets[samples]);
        if ends != (0, tokens as u64) || !self.offsets.is_sorted() {
            return flaw(format!("offsets that do not run from 0 to {tokens}"));
        }
        let objects = self.objects.len();
        if let Some(&object) = self.sample_objects.iter().find(|&&o| o as usize >= objects) {
            return flaw(format!("a sample of object {object}, but {objects} objects"));
        }
        for index in 0..samples {
            let (from, to) = (self.offsets[index] as usize, self.offsets[index + 1] as usize);
            let at = self.weights_at;
            let weights = f32s(&self.bytes[at + from * 4..at + to * 4]);
            if let Some(found) = weights_flaw(&weights) {
                return flaw(format!("{found} in sample {index}"));
            }
        }
        Ok(())
    }
}

fn read_header(metadata: Option<&HashMap<String, String>>) -> Result<Header, Error> {
    let json = metadata.and_then(|map| map.get(HEADER_KEY));
    let json = json.ok_or_else(|| Error::Foreign(format!("no `{HEADER_KEY}` in its metadata")))?;
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let foreign = |error: serde_json::Error| Error::Foreign(error.to_string());
    let Version { version } = serde_json::from_str(json).map_err(foreign)?;
    if version != FORMAT_VERSION {
        return Err(Error::Version { found: version });
    }
    serde_json::from_str(json).map_err(foreign)
}

fn read_part<'a>(tensors: &SafeTensors<'a>, name: &str, dtype: Dtype) -> Result<&'a [u8], Error> {
    let missing = |_| Error::Inconsistent(format!("no tensor `{name}`"));
    let view = tensors.tensor(name).map_err(missing)?;
    if view.dtype() != dtype || view.shape().len() != 1 {
        let (found, shape) = (view.dtype(), view.shape());
        let text = format!("`{name}` as {found:?} {shape:?}, not {dtype:?} of one dimension");
        return Err(Error::Inconsistent(text));
    }
    Ok(view.data())
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    let word = |chunk: &[u8]| chunk.try_into().expect("chunks_exact gives N bytes");
    bytes.chunks_exact(N).map(word)
}

fn u64s(bytes: &[u8]) -> Vec<u64> {
    words(bytes).map(u64::from_le_bytes).collect()
}

fn u32s(bytes: &[u8]) -> Vec<u32> {
    words(bytes).map(u32::from_le_bytes).collect()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    words(bytes).map(f32::from_le_bytes).collect()
}
