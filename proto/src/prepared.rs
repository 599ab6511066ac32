//! The prepared shard: tokenized samples as safetensors files of bounded size, its parts.
//!
//! ```text
//! offsets      u64 [samples + 1]  where each sample's tokens start, then the number of tokens
//! hashes       u64 [samples]      of the content, before the template: equal records hash equal
//! positions    u64 [samples]      the line, or the record's or row's number, from 1
//! objects      u32 [samples]      index into the header's list of objects
//! records      u32 [samples]      index of the record that it was made of
//! sums         f32 [samples]      sum of the weights
//! targets      u32 [samples]      tokens that have a weight
//! contents     u64 [records]      these six are the records' features
//! settings     u64 [records]
//! instructions u64 [records]      0 where there is no exchange, in `settings` and `answers` too
//! answers      u64 [records]
//! flaws        u8  [records]      1: looping, 2: incomplete
//! signatures   u8  [128, records] place by place, so that a band of them is one piece
//! tokens       u32 [tokens]
//! weights      f32 [tokens]       of each token as a target; a document's first is never one: 0
//! header       JSON under the metadata key `muster`: format version, fingerprint, objects
//! ```
//!
//! The signatures stand behind all else of the records, and tokens and weights last: a plan reads a part's
//! front, signatures only where a check compares them, and tokens never. Positions
//! count from the start of the raw shard: where that lies in its object is known only when all of them
//! are prepared, and stands in the manifest. Equal input gives equal bytes. Nothing here knows a
//! tokenizer.

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

/// The layout above. A shard of another version is refused, and prepared anew.
pub const FORMAT_VERSION: u32 = 4;

const HEADER_KEY: &str = "muster";

/// Why bytes are not a prepared shard that this program reads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cut short, or no safetensors file at all.
    #[error(
        "not a whole safetensors file of {bytes} bytes\n\
         hint: the object is cut or foreign; delete it, and it is prepared anew"
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
        "prepared shard of format {found}, this program reads {FORMAT_VERSION}\n\
         hint: delete it, and it is prepared anew"
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
    /// The line, or the record's or row's number, from 1.
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

    /// How many of its tokens are targets.
    pub fn targets(&self) -> usize {
        self.weights.iter().filter(|&&weight| weight > 0.0).count()
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
    /// Rows of a table that has no lines.
    Row,
}

impl Unit {
    /// The place of a record, as far as its position tells.
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

#[cfg(test)]
mod tests;
