//! Prepared shards: tokenized samples, stored as parts, which are safetensors files of bounded size.
//!
//! ```text
//! offsets      u64 [samples + 1]  start of each sample's tokens, then the total number of tokens
//! hashes       u64 [samples]      hash of the content before the template: equal for equal records
//! positions    u64 [samples]      number of the line, record or row, from 1
//! objects      u32 [samples]      index into the header's list of objects
//! records      u32 [samples]      index of the record that the sample was made from
//! sums         f32 [samples]      sum of the weights
//! targets      u32 [samples]      number of tokens with a weight above 0
//! contents     u64 [records]      these six are the records' features
//! settings     u64 [records]
//! instructions u64 [records]      0 if there is no exchange; then `settings` and `answers` are 0 as well
//! answers      u64 [records]
//! flaws        u8  [records]      1: looping, 2: incomplete
//! signatures   u8  [128, records] ordered by place, so that a band of places is contiguous
//! tokens       u32 [tokens]
//! weights      f32 [tokens]       weight of each token as a target; 0 for the first token of a document
//! header       JSON under the metadata key `muster`: format version, fingerprint, objects
//! ```
//!
//! In the file, the signatures follow all other features, and tokens and weights come last: planning reads only the
//! front of a part, reads signatures only for checks that compare them, and never reads tokens. Positions count
//! from the start of the raw shard. Where the raw shard begins in its object is known only when all shards of the
//! object are prepared, and is stored in the manifest. Equal input results in equal bytes.

mod features;
mod front;
mod layout;
mod shard;
mod writer;

use safetensors::tensor::SafeTensorError;
use serde::{Deserialize, Serialize};

use crate::receipt::Place;

pub use features::{Exchange, Features, Flaws, SIGNATURE, Signature};
pub use front::{Front, HEAD_BYTES};
pub use shard::Shard;
pub use writer::Writer;

/// The version of the layout above. A shard of another version is refused, and must be prepared again.
pub const FORMAT_VERSION: u32 = 4;

const HEADER_KEY: &str = "muster";

/// Why bytes are not a prepared shard that this program reads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are truncated, or are not a safetensors file.
    #[error(
        "not a whole safetensors file of {bytes} bytes\n\
         hint: the object is truncated or foreign; delete it, and it is prepared again"
    )]
    NotSafetensors {
        /// The number of bytes given.
        bytes: usize,
        /// The parser's error.
        #[source]
        source: SafeTensorError,
    },
    /// The bytes are a safetensors file, but not a prepared shard.
    #[error("a safetensors file, but not a prepared shard: {0}")]
    Foreign(String),
    /// The shard was written by another version of this program.
    #[error(
        "prepared shard of format {found}, this program reads {FORMAT_VERSION}\n\
         hint: delete it, and it is prepared again"
    )]
    Version {
        /// The shard's version.
        found: u32,
    },
    /// The contents of the shard contradict each other.
    #[error("prepared shard with {0}")]
    Inconsistent(String),
}

/// One tokenized document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// The weight of each token as a target; the first is 0.
    pub weights: Vec<f32>,
    /// Hash of the content before the template, so that it does not depend on the tokenizer.
    pub hash: u64,
    /// The number of the line, record or row, from 1.
    pub position: u64,
}

impl Sample {
    /// What a plan needs to know about this sample.
    pub fn meta(&self) -> Meta {
        Meta {
            length: self.tokens.len() as u32,
            weight: weight_sum(&self.weights),
            hash: self.hash,
        }
    }

    /// The number of its tokens that are targets.
    pub fn targets(&self) -> usize {
        self.weights.iter().filter(|&&weight| weight > 0.0).count()
    }
}

/// What a plan needs to know about a sample: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meta {
    /// Number of tokens.
    pub length: u32,
    /// Sum of the weights.
    pub weight: f32,
    /// Content hash.
    pub hash: u64,
}

impl Meta {
    /// The encoded size of one `Meta`.
    pub const BYTES: usize = 16;

    /// Encodes length, weight and hash in little-endian order.
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
    /// The object's name as the user would write it: `s3://d/7.jsonl`.
    pub name: String,
    /// The source's index in the run spec.
    pub source: u32,
    /// What positions count.
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
    /// Rows of a table in a format without lines.
    Row,
}

impl Unit {
    /// The place of a record, of which only the position is known.
    pub fn place(self, position: u64) -> Place {
        match self {
            Unit::Line => Place::line(position),
            Unit::Record => Place::record(position),
            Unit::Row => Place::Row { row: position },
        }
    }

    fn label(self) -> &'static str {
        match self {
            Unit::Line => "line",
            Unit::Record => "record",
            Unit::Row => "row",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    fingerprint: String,
    objects: Vec<Object>,
}

/// Describes what is wrong with a document's weights, if anything.
fn weights_flaw(weights: &[f32]) -> Option<String> {
    if weights.first().is_some_and(|&first| first != 0.0) {
        return Some("a trained first token".into());
    }
    let bad = weights.iter().find(|w| !(w.is_finite() && **w >= 0.0))?;
    Some(format!("the weight {bad}"))
}

/// The sum, computed in f64 so that the order has next to no influence on the sum of a long sample.
fn weight_sum(weights: &[f32]) -> f32 {
    weights.iter().map(|&w| f64::from(w)).sum::<f64>() as f32
}

#[cfg(test)]
mod tests;
