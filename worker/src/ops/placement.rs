//! Where the rows of a micro-batch stand: in which document, at which position, rotated by how much.

use super::error::{Error, Result};
use crate::device::{Buffer, Device};
use crate::kernels::{Rotation, Span, Turn};
use std::ops::Range;
use std::sync::Arc;

/// Where the documents of a micro-batch begin: positions restart there, and attention does not look past it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documents {
    /// `[0, len0, len0 + len1, .., T]`.
    starts: Vec<usize>,
}

impl Documents {
    /// Documents of these lengths, one after another.
    pub fn of_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let ends = lengths.into_iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        Self { starts: std::iter::once(0).chain(ends).collect() }
    }

    /// Rows of all documents.
    pub fn rows(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Rows of the longest document.
    pub fn longest(&self) -> usize {
        self.iter().map(|rows| rows.len()).max().unwrap_or(0)
    }

    /// Each document's rows.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.starts.windows(2).map(|w| w[0]..w[1])
    }
}

/// Cosines and sines by position and pair of features, on a device.
#[derive(Debug)]
pub struct Rotary {
    cos: Buffer,
    sin: Buffer,
    pairs: usize,
}

impl Rotary {
    /// Tables `[positions, head_dim / 2]`, row by row.
    ///
    /// # Errors
    /// [`Error::Shape`] if their lengths differ or are no multiple of `pairs`.
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

    /// Positions that the tables cover.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.pairs
    }

    /// Refuses tables that do not fit heads of `head_dim` features at `positions` positions.
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

    /// Rotates rows at these positions, and multiplies them.
    pub(super) fn turn<'a>(&'a self, positions: &'a Buffer, scale: f32) -> Turn<'a> {
        let (cos, sin, positions) = (self.cos.all(), self.sin.all(), positions.all());
        Turn { rotation: Some(Rotation { cos, sin, positions }), scale }
    }
}

/// The documents of a micro-batch and their rotation, on a device: made once, used by every layer.
#[derive(Debug)]
pub struct Placement {
    pub(super) rotary: Arc<Rotary>,
    pub(super) documents: Documents,
    /// Each row's position in its document.
    pub(super) positions: Buffer,
    /// The documents again, as attention sees them.
    pub(super) spans: Vec<Span>,
}

impl Placement {
    /// Documents whose positions are rotated by `rotary`.
    pub fn new(device: &Device, rotary: Arc<Rotary>, documents: Documents) -> Self {
        let positions: Vec<u32> = documents.iter().flat_map(|rows| 0..rows.len() as u32).collect();
        let spans = documents.iter().map(|rows| Span { queries: rows.clone(), keys: rows });
        let spans = spans.collect();
        Self { rotary, documents, positions: device.upload(positions), spans }
    }

    pub(super) fn turn(&self, scale: f32) -> Turn<'_> {
        self.rotary.turn(&self.positions, scale)
    }
}
