//! Documents laid end to end, and rotary position embeddings (Su et al. 2021; halves rotated, as
//! `transformers` does).

use std::ops::Range;

use rayon::prelude::*;

use super::{
    error::{Error, Result},
    kernel::{self, vectorized},
    pool,
    tape::Onto,
};

/// Where the documents of a micro-batch begin: positions restart there, and attention does not look
/// past it.
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

    /// Each document's rows.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.starts.windows(2).map(|w| w[0]..w[1])
    }

    /// Each row's position in its document.
    pub(super) fn positions(&self) -> Vec<usize> {
        self.iter().flat_map(|rows| 0..rows.len()).collect()
    }
}

/// Cosines and sines by position and pair of features.
#[derive(Clone, Debug)]
pub struct Rotary {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
}

impl Rotary {
    /// Tables `[positions, head_dim / 2]`, row by row.
    ///
    /// # Errors
    /// [`Error::Shape`] if their lengths differ or are no multiple of `pairs`.
    pub fn new(cos: Vec<f32>, sin: Vec<f32>, pairs: usize) -> Result<Self> {
        if pairs == 0 || !cos.len().is_multiple_of(pairs) || cos.len() != sin.len() {
            return Err(Error::Shape {
                op: "rotary",
                expected: format!("two tables of {pairs} columns"),
                got: format!("{} cosines and {} sines", cos.len(), sin.len()),
            });
        }
        Ok(Self { cos, sin, pairs })
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

    /// Rotates `x` by the angles of `position`, times `scale`, into `y`.
    #[inline(always)]
    fn rotate(&self, y: &mut [f32], x: &[f32], position: usize, scale: f32) {
        let (cos, sin) = self.row(position);
        let (y1, y2) = y.split_at_mut(self.pairs);
        let (x1, x2) = x.split_at(self.pairs);
        let ys = y1.iter_mut().zip(y2);
        for (((y1, y2), (x1, x2)), (c, s)) in ys.zip(x1.iter().zip(x2)).zip(cos.iter().zip(sin)) {
            *y1 = (x1 * c - x2 * s) * scale;
            *y2 = (x2 * c + x1 * s) * scale;
        }
    }

    /// Rotates back, in place: the transpose of [`Rotary::rotate`].
    #[inline(always)]
    fn rotate_back(&self, x: &mut [f32], position: usize, scale: f32) {
        let (cos, sin) = self.row(position);
        let (x1, x2) = x.split_at_mut(self.pairs);
        for ((x1, x2), (c, s)) in x1.iter_mut().zip(x2).zip(cos.iter().zip(sin)) {
            (*x1, *x2) = ((*x1 * c + *x2 * s) * scale, (*x2 * c - *x1 * s) * scale);
        }
    }

    #[inline(always)]
    fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let at = position * self.pairs..(position + 1) * self.pairs;
        (&self.cos[at.clone()], &self.sin[at])
    }
}

/// How rows are turned on their way to or from their heads.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    /// Tables and each row's position; `None` to leave rows as they are.
    pub(super) rotary: Option<(&'a Rotary, &'a [usize])>,
    /// A factor for every element.
    pub(super) scale: f32,
}

impl Turn<'_> {
    pub(super) const NONE: Self = Self { rotary: None, scale: 1. };
}

/// Rows that one task moves.
const TASK_ROWS: usize = 128;

/// From rows `[T, H E]` to heads `[H, T, E]`, turned.
pub(super) fn split_heads(x: &[f32], heads: usize, head_dim: usize, turn: Turn<'_>) -> Vec<f32> {
    let width = heads * head_dim;
    let mut y = pool::take(x.len());
    if x.is_empty() {
        return y;
    }
    let rows = x.len() / width;
    y.par_chunks_mut(rows * head_dim).enumerate().for_each(|(head, y)| {
        y.par_chunks_mut(TASK_ROWS * head_dim).enumerate().for_each(|(task, y)| {
            vectorized(|| {
                for (i, y) in y.chunks_exact_mut(head_dim).enumerate() {
                    let row = task * TASK_ROWS + i;
                    let x = &x[row * width + head * head_dim..][..head_dim];
                    match turn.rotary {
                        Some((rotary, at)) => rotary.rotate(y, x, at[row], turn.scale),
                        None => y.iter_mut().zip(x).for_each(|(y, x)| *y = x * turn.scale),
                    }
                }
            });
        });
    });
    y
}

/// From heads `[H, T, E]` to rows `[T, H / group E]`, turned back; `group` neighbouring heads are
/// summed in order.
pub(super) fn merge_heads(
    y: &mut [f32],
    onto: Onto,
    x: &[f32],
    (head_dim, group): (usize, usize),
    rows: usize,
    turn: Turn<'_>,
) {
    if x.is_empty() {
        return;
    }
    let width = y.len() / rows;
    y.par_chunks_mut(kernel::task_rows(width) * width).enumerate().for_each(|(task, y)| {
        let mut sum = vec![0f32; head_dim];
        vectorized(|| {
            for (i, y) in y.chunks_exact_mut(width).enumerate() {
                let row = task * kernel::task_rows(width) + i;
                for (head, y) in y.chunks_exact_mut(head_dim).enumerate() {
                    sum.fill(0.);
                    for member in head * group..(head + 1) * group {
                        let x = &x[(member * rows + row) * head_dim..][..head_dim];
                        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
                    }
                    match turn.rotary {
                        Some((rotary, at)) => rotary.rotate_back(&mut sum, at[row], turn.scale),
                        None => sum.iter_mut().for_each(|sum| *sum *= turn.scale),
                    }
                    match onto {
                        Onto::Fresh => y.copy_from_slice(&sum),
                        Onto::Sum => y.iter_mut().zip(&sum).for_each(|(y, sum)| *y += sum),
                    }
                }
            }
        });
    });
}
