//! From samples to a shard's bytes.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, TensorView};

use super::{FORMAT_VERSION, HEADER_KEY, Header, Object, Sample, weight_sum, weights_flaw};

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
    /// If no object was named, or the sample breaks the layout's rules: those are errors of the
    /// caller.
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
            ("offsets", Dtype::U64, samples + 1, le(&self.offsets, u64::to_le_bytes)),
            ("hashes", Dtype::U64, samples, le(&self.hashes, u64::to_le_bytes)),
            ("positions", Dtype::U64, samples, le(&self.positions, u64::to_le_bytes)),
            ("objects", Dtype::U32, samples, le(&self.objects, u32::to_le_bytes)),
            ("sums", Dtype::F32, samples, le(&self.sums, f32::to_le_bytes)),
            ("tokens", Dtype::U32, tokens, le(&self.tokens, u32::to_le_bytes)),
            ("weights", Dtype::F32, tokens, le(&self.weights, f32::to_le_bytes)),
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

fn le<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| to_bytes(value)).collect()
}
