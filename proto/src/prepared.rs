//! The prepared shard: tokenized samples as one safetensors file.
//!
//! ```text
//! offsets   u64 [samples + 1]   where each sample's tokens start; the last one is the number of tokens
//! hashes    u64 [samples]       of the content, before the template: equal records hash equal
//! positions u64 [samples]       the line, or the record's number in a JSON array, from 1
//! objects   u32 [samples]       index into the header's list of objects
//! sums      f32 [samples]       sum of the weights
//! tokens    u32 [tokens]
//! weights   f32 [tokens]        of each token as a target; a document's first is never one: 0
//! header    JSON under the metadata key `muster`: format version, fingerprint, objects
//! ```
//!
//! The tensors that a plan needs stand first, and equal input gives equal bytes. Nothing here knows a tokenizer.

use std::collections::HashMap;

use bytes::Bytes;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::receipt::Place;

/// The layout above. A shard of another version is refused, and prepared anew.
pub const FORMAT_VERSION: u32 = 1;

const HEADER_KEY: &str = "muster";

/// Why bytes are not a prepared shard that this program reads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cut short, or no safetensors file at all.
    #[error(
        "not a whole safetensors file of {bytes} bytes\nhint: the object is cut or foreign; delete it, and it is prepared anew"
    )]
    NotSafetensors {
        /// What was given.
        bytes: usize,
        /// What the parser says.
        #[source]
        source: SafeTensorError,
    },
    /// A safetensors file, but not of ours.
    #[error("a safetensors file, but no prepared shard: {0}")]
    Foreign(String),
    /// Of ours, but of another program version.
    #[error(
        "prepared shard of format {found}, this program reads {FORMAT_VERSION}\nhint: delete it, and it is prepared anew"
    )]
    Version {
        /// The shard's version.
        found: u32,
    },
    /// Its parts contradict each other.
    #[error("prepared shard with {0}")]
    Inconsistent(String),
}

/// One document ready to be trained on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The weight of each token as a target; the first is 0.
    pub weights: Vec<f32>,
    /// Of the content before the template, so it outlives a change of tokenizer.
    pub hash: u64,
    /// The line, or the record's number in a JSON array, from 1.
    pub position: u64,
}

impl Sample {
    /// What a plan needs to know of this sample.
    pub fn meta(&self) -> Meta {
        Meta {
            length: self.tokens.len() as u32,
            weight: weight_sum(&self.weights),
            hash: self.hash,
        }
    }
}

/// All that a plan needs to know of a sample: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meta {
    /// Tokens.
    pub length: u32,
    /// Sum of the weights.
    pub weight: f32,
    /// Content hash.
    pub hash: u64,
}

impl Meta {
    /// Bytes of one meta on the wire.
    pub const BYTES: usize = 16;

    /// Little-endian: length, weight, hash.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.weight.to_le_bytes());
        bytes[8..].copy_from_slice(&self.hash.to_le_bytes());
        bytes
    }

    /// The inverse of [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Meta {
        let [a, b, c, d, e, f, g, h, hash @ ..] = bytes;
        Meta {
            length: u32::from_le_bytes([a, b, c, d]),
            weight: f32::from_le_bytes([e, f, g, h]),
            hash: u64::from_le_bytes(hash),
        }
    }
}

/// An object whose records became samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// As the user would write it: `s3://d/7.jsonl`.
    pub name: String,
    /// The source's index in the run spec.
    pub source: u32,
    /// What a sample's position counts.
    pub unit: Unit,
}

/// What a position counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Lines of the object.
    Line,
    /// Elements of a JSON array.
    Record,
}

impl Unit {
    /// The position of a record at `place`, in this unit.
    pub fn position(self, place: Place) -> u64 {
        match self {
            Unit::Line => place.line,
            Unit::Record => place.record.unwrap_or(place.line),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Unit::Line => "line",
            Unit::Record => "record",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    fingerprint: String,
    objects: Vec<Object>,
}

/// Collects samples and writes them as one shard.
#[derive(Debug)]
pub struct Writer {
    header: Header,
    offsets: Vec<u64>,
    hashes: Vec<u64>,
    positions: Vec<u64>,
    objects: Vec<u32>,
    sums: Vec<f32>,
    tokens: Vec<u32>,
    weights: Vec<f32>,
}

impl Writer {
    /// An empty shard; `fingerprint` names everything that made its tokens what they are.
    pub fn new(fingerprint: impl Into<String>) -> Writer {
        Writer {
            header: Header {
                version: FORMAT_VERSION,
                fingerprint: fingerprint.into(),
                objects: Vec::new(),
            },
            offsets: vec![0],
            hashes: Vec::new(),
            positions: Vec::new(),
            objects: Vec::new(),
            sums: Vec::new(),
            tokens: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Names the object that the samples pushed from now on come from.
    pub fn object(&mut self, object: Object) {
        self.header.objects.push(object);
    }

    /// Adds a sample of the object named last.
    ///
    /// # Panics
    /// If no object was named, or the sample breaks the layout's rules: those are errors of the caller.
    pub fn push(&mut self, sample: &Sample) {
        let Some(object) = self.header.objects.len().checked_sub(1) else {
            panic!("an object is named before its samples");
        };
        assert_eq!(sample.tokens.len(), sample.weights.len());
        if let Some(flaw) = weights_flaw(&sample.weights) {
            panic!("a sample with {flaw}");
        }
        self.tokens.extend_from_slice(&sample.tokens);
        self.weights.extend_from_slice(&sample.weights);
        self.offsets.push(self.tokens.len() as u64);
        self.hashes.push(sample.hash);
        self.positions.push(sample.position);
        self.objects.push(object as u32);
        self.sums.push(weight_sum(&sample.weights));
    }

    /// Samples so far.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is no sample yet.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The shard's bytes.
    pub fn finish(self) -> Vec<u8> {
        let samples = self.hashes.len();
        let tokens = self.tokens.len();
        let parts = [
            (
                "offsets",
                Dtype::U64,
                samples + 1,
                le(&self.offsets, u64::to_le_bytes),
            ),
            (
                "hashes",
                Dtype::U64,
                samples,
                le(&self.hashes, u64::to_le_bytes),
            ),
            (
                "positions",
                Dtype::U64,
                samples,
                le(&self.positions, u64::to_le_bytes),
            ),
            (
                "objects",
                Dtype::U32,
                samples,
                le(&self.objects, u32::to_le_bytes),
            ),
            (
                "sums",
                Dtype::F32,
                samples,
                le(&self.sums, f32::to_le_bytes),
            ),
            (
                "tokens",
                Dtype::U32,
                tokens,
                le(&self.tokens, u32::to_le_bytes),
            ),
            (
                "weights",
                Dtype::F32,
                tokens,
                le(&self.weights, f32::to_le_bytes),
            ),
        ];
        let views = parts.iter().map(|(name, dtype, len, data)| {
            let view = TensorView::new(*dtype, vec![*len], data);
            (*name, view.expect("each part has its length's bytes"))
        });
        let header = serde_json::to_string(&self.header).expect("a header is plain JSON");
        // One key only: the order of several would differ between processes.
        let metadata = HashMap::from([(HEADER_KEY.to_owned(), header)]);
        safetensors::serialize(views, Some(metadata)).expect("the views are valid")
    }
}

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
    /// Bytes that are cut, foreign, of another version, or that contradict themselves. Preparing the raw shard
    /// again is the way out of all of them.
    pub fn parse(bytes: Bytes) -> Result<Shard, Error> {
        let not_whole = |source| Error::NotSafetensors {
            bytes: bytes.len(),
            source,
        };
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
        let (from, to) = (
            self.offsets[index] as usize,
            self.offsets[index + 1] as usize,
        );
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
        Some(format!(
            "{}, {} {position}",
            object.name,
            object.unit.label()
        ))
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
                return flaw(format!(
                    "{found} {name} for {samples} samples, not {wanted}"
                ));
            }
        }
        let ends = (self.offsets[0], self.offsets[samples]);
        if ends != (0, tokens as u64) || !self.offsets.is_sorted() {
            return flaw(format!("offsets that do not run from 0 to {tokens}"));
        }
        let objects = self.objects.len();
        if let Some(&object) = self.sample_objects.iter().find(|&&o| o as usize >= objects) {
            return flaw(format!(
                "a sample of object {object}, but {objects} objects"
            ));
        }
        for index in 0..samples {
            let (from, to) = (
                self.offsets[index] as usize,
                self.offsets[index + 1] as usize,
            );
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

/// What is wrong with one document's weights, if anything.
fn weights_flaw(weights: &[f32]) -> Option<String> {
    if weights.first().is_some_and(|&first| first != 0.0) {
        return Some("a trained first token".into());
    }
    let bad = weights.iter().find(|w| !(w.is_finite() && **w >= 0.0))?;
    Some(format!("the weight {bad}"))
}

/// Summed in f64: a long sample's sum must not depend on the order.
fn weight_sum(weights: &[f32]) -> f32 {
    weights.iter().map(|&w| f64::from(w)).sum::<f64>() as f32
}

fn le<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| to_bytes(value)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Sample> {
        let sample = |tokens: &[u32], weights: &[f32], position| Sample {
            tokens: tokens.to_vec(),
            weights: weights.to_vec(),
            hash: 0x1234_5678_9abc_def0 + position,
            position,
        };
        vec![
            sample(&[1, 2, 3], &[0.0, 0.0, 1.0], 1),
            sample(&[7, 8], &[0.0, 0.5], 2),
            sample(&[4, 5, 6, 9], &[0.0, 1.0, 1.0, 0.25], 40),
        ]
    }

    fn bytes_of(samples: &[Sample]) -> Vec<u8> {
        let mut writer = Writer::new("f00d");
        writer.object(Object {
            name: "a.json".into(),
            source: 0,
            unit: Unit::Record,
        });
        writer.push(&samples[0]);
        writer.object(Object {
            name: "s3://d/7.jsonl".into(),
            source: 1,
            unit: Unit::Line,
        });
        samples[1..].iter().for_each(|sample| writer.push(sample));
        writer.finish()
    }

    #[test]
    fn shard_gives_back_what_was_written() {
        let samples = samples();
        let shard = Shard::parse(bytes_of(&samples).into()).expect("our own bytes");
        let back: Vec<Sample> = (0..3).filter_map(|i| shard.sample(i)).collect();
        assert_eq!(back, samples);
        assert_eq!(shard.sample(3), None);
        let metas: Vec<Meta> = shard.metas().collect();
        assert_eq!(metas, samples.iter().map(Sample::meta).collect::<Vec<_>>());
        assert_eq!(metas[2].weight, 2.25);
        assert_eq!(Meta::from_bytes(metas[2].to_bytes()), metas[2]);
        assert_eq!(size_of::<Meta>(), Meta::BYTES);
        assert_eq!(shard.origin(0).as_deref(), Some("a.json, record 1"));
        assert_eq!(shard.origin(2).as_deref(), Some("s3://d/7.jsonl, line 40"));
        assert_eq!(shard.object(2).map(|object| object.source), Some(1));
        assert_eq!(shard.fingerprint(), "f00d");
    }

    #[test]
    fn equal_samples_give_equal_bytes() {
        assert_eq!(bytes_of(&samples()), bytes_of(&samples()));
    }

    #[test]
    fn shard_without_samples_is_a_shard() {
        let shard = Shard::parse(Writer::new("").finish().into()).expect("an empty shard");
        assert!(shard.is_empty());
    }

    #[test]
    fn every_cut_of_a_shard_is_an_error() {
        let whole = bytes_of(&samples());
        for len in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..len]);
            let error = Shard::parse(cut).expect_err("a cut shard");
            assert!(
                matches!(error, Error::NotSafetensors { .. }),
                "{len}: {error}"
            );
        }
    }

    #[test]
    fn flipped_bytes_never_panic() {
        let whole = bytes_of(&samples());
        for at in 0..whole.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                if let Ok(shard) = Shard::parse(bytes.into()) {
                    (0..shard.len()).for_each(|i| drop((shard.sample(i), shard.origin(i))));
                }
            }
        }
    }

    #[test]
    fn foreign_and_future_files_are_refused_by_name() {
        let data = [0u8; 4];
        let view = TensorView::new(Dtype::F32, vec![1], &data).expect("4 bytes");
        let foreign = safetensors::serialize([("w", &view)], None).expect("valid");
        let error = Shard::parse(foreign.into()).expect_err("a model's file");
        assert!(
            error.to_string().contains("no `muster` in its metadata"),
            "{error}"
        );

        let text = String::from_utf8_lossy(&bytes_of(&samples())).into_owned();
        assert!(text.contains(r#"\"version\":1"#));
        let mut bytes = bytes_of(&samples());
        let at = text.find(r#"\"version\":1"#).expect("found above") + r#"\"version\":"#.len();
        bytes[at] = b'2';
        let error = Shard::parse(bytes.into()).expect_err("a future shard");
        assert!(matches!(error, Error::Version { found: 2 }), "{error}");
    }
}
