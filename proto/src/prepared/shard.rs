//! Reads samples from a shard's bytes, and checks everything that it reads.

use bytes::Bytes;
use safetensors::tensor::SafeTensorError;

use super::{Error, Front, Sample, weights_flaw};

/// A prepared shard whose front has been read and checked. Samples are decoded and their weights checked on access,
/// so that no page of tokens in a mapped file is touched before.
#[derive(Clone, Debug)]
pub struct Shard {
    bytes: Bytes,
    front: Front,
}

impl Shard {
    /// Reads a complete shard.
    ///
    /// # Errors
    /// The errors of [`Front::parse`].
    pub fn parse(bytes: Bytes) -> Result<Shard, Error> {
        let front = Front::parse(bytes.clone())?;
        if bytes.len() < front.file_end() {
            let source = SafeTensorError::MetadataIncompleteBuffer;
            return Err(Error::NotSafetensors { bytes: bytes.len(), source });
        }
        Ok(Shard { bytes, front })
    }

    /// Counts positions from the start of the object, which has `positions` lines or rows before the shard.
    #[must_use]
    pub fn starting_after(self, positions: u64) -> Shard {
        Shard { front: self.front.starting_after(positions), ..self }
    }

    /// Everything except signatures, tokens and weights.
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// Number of samples in the shard.
    pub fn len(&self) -> usize {
        self.front.len()
    }

    /// Whether the shard has no samples.
    pub fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    /// The sample with this index, or `None` past the end.
    ///
    /// # Errors
    /// [`Error::Inconsistent`] for invalid weights.
    pub fn sample(&self, index: usize) -> Result<Option<Sample>, Error> {
        let (Some(hash), Some(position)) = (self.front.hash(index), self.front.position(index))
        else {
            return Ok(None);
        };
        let of = self.front.tokens_of(index);
        let slices = self
            .front
            .tokens_and_weights()
            .map(|tensor| &self.bytes[tensor.start + of.start * 4..tensor.start + of.end * 4]);
        let [tokens, weights] = slices;
        let weights = words(weights, f32::from_le_bytes);
        if let Some(found) = weights_flaw(&weights) {
            return Err(Error::Inconsistent(format!("{found} in sample {index}")));
        }
        Ok(Some(Sample { tokens: words(tokens, u32::from_le_bytes), weights, hash, position }))
    }

    /// Where a sample comes from, as text: `s3://d/7.jsonl, line 42`.
    pub fn origin(&self, index: usize) -> Option<String> {
        self.front.origin(index)
    }
}

fn words<T>(bytes: &[u8], word: fn([u8; 4]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|chunk| word(*chunk)).collect()
}
