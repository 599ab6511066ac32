//! From a shard's bytes to samples; nothing of what they claim is believed unchecked.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{
    Error, Exchange, FORMAT_VERSION, Flaws, HEADER_KEY, Header, Meta, Object, SIGNATURE, Sample,
    weights_flaw,
};

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
    sample_records: Vec<u32>,
    sums: Vec<f32>,
    targets: Vec<u32>,
    contents: Vec<u64>,
    settings: Vec<u64>,
    instructions: Vec<u64>,
    answers: Vec<u64>,
    flaws: Vec<u8>,
    signatures_at: usize,
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
            sample_records: u32s(part("records", Dtype::U32)?),
            sums: f32s(part("sums", Dtype::F32)?),
            targets: u32s(part("targets", Dtype::U32)?),
            contents: u64s(part("contents", Dtype::U64)?),
            settings: u64s(part("settings", Dtype::U64)?),
            instructions: u64s(part("instructions", Dtype::U64)?),
            answers: u64s(part("answers", Dtype::U64)?),
            flaws: part("flaws", Dtype::U8)?.to_vec(),
            signatures_at: at("signatures"),
            tokens_at: at("tokens"),
            weights_at: at("weights"),
            fingerprint: header.fingerprint,
            objects: header.objects,
            bytes: bytes.clone(),
        };
        shard.check(tokens, part("weights", Dtype::F32)?.len() / 4)?;
        let signatures = tensors.tensor("signatures");
        let shape = signatures.as_ref().map(|view| (view.dtype(), view.shape()));
        let wanted = [SIGNATURE, shard.records()];
        if !shape.as_ref().is_ok_and(|found| *found == (Dtype::U8, &wanted[..])) {
            return Err(Error::Inconsistent(format!("no tensor `signatures` of {wanted:?} bytes")));
        }
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

    /// Where in its object a sample comes from: what it counts, the object's unit says.
    pub fn position(&self, index: usize) -> Option<u64> {
        self.positions.get(index).copied()
    }

    /// How many of a sample's tokens are targets.
    pub fn targets(&self, index: usize) -> Option<u32> {
        self.targets.get(index).copied()
    }

    /// Records in the shard: each made one sample, or a few.
    pub fn records(&self) -> usize {
        self.contents.len()
    }

    /// The record that a sample is made of; a record's samples follow each other.
    pub fn record(&self, index: usize) -> Option<usize> {
        self.sample_records.get(index).map(|&record| record as usize)
    }

    /// The hash of a record's content.
    pub fn content(&self, record: usize) -> Option<u64> {
        self.contents.get(record).copied()
    }

    /// A record's question and answer, where it has them.
    pub fn exchange(&self, record: usize) -> Option<Exchange> {
        let instruction = *self.instructions.get(record).filter(|&&hash| hash != 0)?;
        let (setting, answer) = (self.settings[record], self.answers[record]);
        Some(Exchange { setting, instruction, answer })
    }

    /// What is wrong with a record's answer.
    pub fn flaws(&self, record: usize) -> Option<Flaws> {
        Flaws::from_bits(*self.flaws.get(record)?)
    }

    /// Some places of all records' signatures, place by place.
    ///
    /// # Panics
    /// If there are no such places.
    pub fn signatures(&self, places: Range<usize>) -> &[u8] {
        assert!(places.start <= places.end && places.end <= SIGNATURE, "{places:?}");
        let at = |place: usize| self.signatures_at + place * self.records();
        &self.bytes[at(places.start)..at(places.end)]
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
            ("record indices", self.sample_records.len(), samples),
            ("sums", self.sums.len(), samples),
            ("targets", self.targets.len(), samples),
            ("settings", self.settings.len(), self.records()),
            ("instructions", self.instructions.len(), self.records()),
            ("answers", self.answers.len(), self.records()),
            ("flaws", self.flaws.len(), self.records()),
        ];
        for (name, found, wanted) in lengths {
            if found != wanted {
                return flaw(format!("{found} {name}, not {wanted}"));
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
        if let Some(bits) = self.flaws.iter().find(|&&bits| Flaws::from_bits(bits).is_none()) {
            return flaw(format!("the flaws {bits:#b}"));
        }
        // Every record has a sample, and none comes twice.
        let mut records = self.sample_records.clone();
        records.dedup();
        if !records.iter().copied().eq(0..self.records() as u32) {
            return flaw(format!("records out of order, or not {} of them", self.records()));
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
