//! Writes samples as a shard.

use safetensors::tensor::Dtype;

use crate::tensors;

use super::{
    Exchange, FORMAT_VERSION, Features, HEADER_KEY, Header, Object, SIGNATURE, Sample, weight_sum,
    weights_flaw,
};

// Bytes in a shard per sample (without its tokens), per record, and per token with its weight.
const SAMPLE_BYTES: usize = 3 * size_of::<u64>() + 4 * size_of::<u32>();
const RECORD_BYTES: usize = 4 * size_of::<u64>() + 1 + SIGNATURE;
const TOKEN_BYTES: usize = size_of::<u32>() + size_of::<f32>();

/// Collects samples and writes them as one shard.
#[derive(Debug)]
pub struct Writer {
    header: Header,
    offsets: Vec<u64>,
    hashes: Vec<u64>,
    positions: Vec<u64>,
    objects: Vec<u32>,
    records: Vec<u32>,
    sums: Vec<f32>,
    targets: Vec<u32>,
    features: Vec<Features>,
    tokens: Vec<u32>,
    weights: Vec<f32>,
}

impl Writer {
    /// Creates an empty shard. `fingerprint` identifies everything that decides its tokens.
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
            records: Vec::new(),
            sums: Vec::new(),
            targets: Vec::new(),
            features: Vec::new(),
            tokens: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Begins an object: samples that are pushed from now on come from it.
    pub fn object(&mut self, object: Object) {
        self.header.objects.push(object);
    }

    /// Begins a record of the current object: samples that are pushed from now on were made from it.
    pub fn record(&mut self, features: Features) {
        self.features.push(features);
    }

    /// Adds a sample of the current record.
    ///
    /// # Panics
    /// If no object or no record was begun, or if the sample's weights are invalid.
    pub fn push(&mut self, sample: &Sample) {
        let last = |len: usize| len.checked_sub(1).map(|last| last as u32);
        let (Some(object), Some(record)) =
            (last(self.header.objects.len()), last(self.features.len()))
        else {
            panic!("an object is named, and a record begun, before its samples");
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
        self.objects.push(object);
        self.records.push(record);
        self.sums.push(weight_sum(&sample.weights));
        self.targets.push(sample.targets() as u32);
    }

    /// Number of samples so far.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are no samples yet.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The size of the shard so far in bytes, without the table of contents.
    pub fn bytes(&self) -> usize {
        let offsets_end = size_of::<u64>();
        offsets_end
            + self.len() * SAMPLE_BYTES
            + self.features.len() * RECORD_BYTES
            + self.tokens.len() * TOKEN_BYTES
    }

    /// Encodes the shard.
    pub fn finish(self) -> Vec<u8> {
        // The order matters: what a plan reads comes first. `safetensors::serialize` would sort by type and name.
        let parts = [
            part("offsets", Dtype::U64, &self.offsets, u64::to_le_bytes),
            part("hashes", Dtype::U64, &self.hashes, u64::to_le_bytes),
            part("positions", Dtype::U64, &self.positions, u64::to_le_bytes),
            self.of_records("contents", |record| record.content),
            self.of_records("settings", |record| hash_in(record, |hashes| hashes.setting)),
            self.of_records("instructions", |record| hash_in(record, |hashes| hashes.instruction)),
            self.of_records("answers", |record| hash_in(record, |hashes| hashes.answer)),
            part("objects", Dtype::U32, &self.objects, u32::to_le_bytes),
            part("records", Dtype::U32, &self.records, u32::to_le_bytes),
            part("sums", Dtype::F32, &self.sums, f32::to_le_bytes),
            part("targets", Dtype::U32, &self.targets, u32::to_le_bytes),
            self.flaws(),
            self.signatures(),
        ];
        let tokens = self.tokens.len();
        let large = [("tokens", Dtype::U32), ("weights", Dtype::F32)];
        let tensors = parts.iter().map(|part| (part.name, part.dtype, part.shape.clone()));
        let tensors = tensors.chain(large.map(|(name, dtype)| (name, dtype, vec![tokens])));
        let tensors = tensors.map(|(name, dtype, shape)| (name.to_owned(), dtype, shape));
        let header = serde_json::to_string(&self.header).expect("a header is plain JSON");
        let mut bytes = tensors::head([(HEADER_KEY.to_owned(), header)].into(), tensors);
        let small: usize = parts.iter().map(|part| part.data.len()).sum();
        bytes.reserve_exact(small + TOKEN_BYTES * tokens);
        parts.iter().for_each(|part| bytes.extend_from_slice(&part.data));
        // Nearly all of the bytes. They are written without an intermediate copy, which would double the memory.
        self.tokens.into_iter().for_each(|token| bytes.extend_from_slice(&token.to_le_bytes()));
        self.weights.into_iter().for_each(|weight| bytes.extend_from_slice(&weight.to_le_bytes()));
        bytes
    }

    fn of_records(&self, name: &'static str, hash: fn(&Features) -> u64) -> Part {
        let hashes: Vec<u64> = self.features.iter().map(hash).collect();
        part(name, Dtype::U64, &hashes, u64::to_le_bytes)
    }

    fn flaws(&self) -> Part {
        let bits: Vec<u8> = self.features.iter().map(|record| record.flaws.to_bits()).collect();
        part("flaws", Dtype::U8, &bits, u8::to_le_bytes)
    }

    fn signatures(&self) -> Part {
        let records = self.features.len();
        let place = |place| self.features.iter().map(move |record| record.signature.0[place]);
        Part {
            name: "signatures",
            dtype: Dtype::U8,
            shape: vec![SIGNATURE, records],
            data: (0..SIGNATURE).flat_map(place).collect(),
        }
    }
}

/// A tensor, encoded.
struct Part {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

fn part<T: Copy, const N: usize>(
    name: &'static str,
    dtype: Dtype,
    values: &[T],
    to_bytes: fn(T) -> [u8; N],
) -> Part {
    let data = values.iter().flat_map(|&value| to_bytes(value)).collect();
    Part { name, dtype, shape: vec![values.len()], data }
}

fn hash_in(record: &Features, hash: fn(&Exchange) -> u64) -> u64 {
    record.exchange.as_ref().map_or(0, hash)
}
