//! The placement of a micro-batch's rows: the document, the position within it, and the rotation for that position.

use super::error::{Error, Result};
use crate::device::{Buffer, Device};
use crate::kernels::{Rotation, Span, Spans, Turn};
use std::ops::Range;
use std::sync::Arc;

/// The boundaries of a micro-batch's documents: positions restart and attention ends at each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documents {
    /// Row boundaries `[0, len0, len0 + len1, .., T]`.
    starts: Vec<usize>,
}

impl Documents {
    /// Consecutive documents of these lengths.
    pub fn of_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let ends = lengths.into_iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        Self { starts: std::iter::once(0).chain(ends).collect() }
    }

    /// Number of rows of all documents.
    pub fn rows(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Number of rows of the longest document.
    pub fn longest(&self) -> usize {
        self.iter().map(|rows| rows.len()).max().unwrap_or(0)
    }

    /// The range of rows of each document.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.starts.windows(2).map(|w| w[0]..w[1])
    }
}

/// Cosines and sines of the rotary embedding, per position and pair of features, on a device.
#[derive(Debug)]
pub struct Rotary {
    cos: Buffer,
    sin: Buffer,
    pairs: usize,
}

impl Rotary {
    /// Makes tables `[positions, pairs]` from row-major elements; `pairs` is `head_dim / 2`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths differ or are not a multiple of `pairs`.
    pub fn new(device: &Device, cos: Vec<f32>, sin: Vec<f32>, pairs: usize) -> Result<Self> {
        if pairs == 0 || !cos.len().is_multiple_of(pairs) || cos.len() != sin.len() {
            return Err(Error::Shape {
                op: "rotary",
                expected: format!("two tables of {pairs} columns"),
                got: format!("{} cosines and {} sines", cos.len(), sin.len()),
            });
        }
        Ok(Self { cos: device.upload(cos), sin: device.upload(sin), pairs })
    }

    /// Number of positions that the tables cover.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.pairs
    }

    /// Checks that the tables fit heads of `head_dim` features and cover `positions` positions.
    pub(super) fn check(&self, head_dim: usize, positions: usize) -> Result<()> {
        if head_dim != 2 * self.pairs {
            return Err(Error::Shape {
                op: "rotary",
                expected: format!("tables of {} columns", head_dim / 2),
                got: self.pairs.to_string(),
            });
        }
        if positions > self.positions() {
            return Err(Error::Position { position: positions - 1, positions: self.positions() });
        }
        Ok(())
    }

    /// The rotation for rows at these positions, combined with a factor.
    pub(super) fn turn<'a>(&'a self, positions: &'a Buffer, scale: f32) -> Turn<'a> {
        let (cos, sin, positions) = (self.cos.all(), self.sin.all(), positions.all());
        Turn { rotation: Some(Rotation { cos, sin, positions }), scale }
    }
}

/// The documents of a micro-batch and their rotation, on a device. Made once and used by every layer.
#[derive(Debug)]
pub struct Placement {
    pub(super) rotary: Arc<Rotary>,
    pub(super) documents: Documents,
    /// Each row's position in its document.
    pub(super) positions: Buffer,
    /// The documents as spans of queries and keys for attention.
    pub(super) spans: Spans,
}

impl Placement {
    /// The placement of `documents`, rotated by `rotary`.
    pub fn new(device: &Device, rotary: Arc<Rotary>, documents: Documents) -> Self {
        let positions: Vec<u32> = documents.iter().flat_map(|rows| 0..rows.len() as u32).collect();
        let spans = documents.iter().map(|rows| Span { queries: rows.clone(), keys: rows });
        let spans = Spans::new(device, documents.rows(), spans.collect());
        Self { rotary, documents, positions: device.stage(positions), spans }
    }

    pub(super) fn turn(&self, scale: f32) -> Turn<'_> {
        self.rotary.turn(&self.positions, scale)
    }
}
