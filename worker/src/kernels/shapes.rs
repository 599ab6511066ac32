//! What kernels are given beside plain windows.

use crate::device::{Window, WindowMut};
use std::ops::Range;

/// Whether a result replaces what is there or is added to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Onto {
    /// The contents are unspecified: overwrite them.
    Fresh,
    /// Add to the contents.
    Sum,
}

/// Where a result goes.
pub struct Out<'a> {
    /// The elements.
    pub to: WindowMut<'a>,
    /// What to do with their present values.
    pub onto: Onto,
}

/// A matrix `[rows, cols]` to be multiplied: whole rows or parts of wider ones, perhaps transposed.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    pub(super) window: Window<'a>,
    /// Of the matrix as it is multiplied.
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Elements from one stored row to the next.
    pub(super) stride: usize,
    /// Columns of the matrix are stored rows.
    pub(super) transposed: bool,
}

impl<'a> Operand<'a> {
    /// Whole rows.
    ///
    /// # Panics
    /// If the window has another number of elements.
    pub fn new(window: Window<'a>, rows: usize, cols: usize) -> Self {
        assert_eq!(window.len(), rows * cols, "a matrix of {rows} x {cols}");
        Self { window, rows, cols, stride: cols, transposed: false }
    }

    /// Rows of the matrix as it is multiplied.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Some columns of a matrix that is not transposed.
    ///
    /// # Panics
    /// If it is transposed, or does not have them.
    pub fn cols(self, cols: Range<usize>) -> Self {
        assert!(!self.transposed && cols.end <= self.cols, "{cols:?} of {} columns", self.cols);
        let start = cols.start.min(self.window.len());
        Self { window: self.window.window(start..self.window.len()), cols: cols.len(), ..self }
    }
}

/// Which rows of a matrix take part.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Their numbers, u32.
    pub indices: Window<'a>,
    /// Elements of a row.
    pub width: usize,
}

/// A normalization's weights and its epsilon.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// One weight for each element of a group.
    pub w: Window<'a>,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// How rows are cut into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// How many there are.
    pub heads: usize,
    /// Features of each.
    pub head_dim: usize,
}

/// Rotary position embeddings (Su et al. 2021; halves rotated, as `transformers` does).
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// Cosines `[positions, E / 2]`.
    pub cos: Window<'a>,
    /// Sines `[positions, E / 2]`.
    pub sin: Window<'a>,
    /// Each row's position, u32.
    pub positions: Window<'a>,
}

/// What happens to heads on their way.
#[derive(Clone, Copy)]
pub struct Turn<'a> {
    /// They are rotated.
    pub rotation: Option<Rotation<'a>>,
    /// They are multiplied.
    pub scale: f32,
}

impl Turn<'_> {
    /// Heads stay as they are.
    pub const NONE: Self = Self { rotation: None, scale: 1. };
}

/// The shape of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Features per head.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`; queries are multiplied by it when they are split into heads.
    pub scale: f32,
    /// How many keys a query sees at most, itself included; `None` for all before it.
    pub window: Option<usize>,
}

impl Attention {
    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The first of the keys that the query at `position` sees.
    pub fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Rows that attend to each other: the queries stand at the last positions of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of the queries.
    pub queries: Range<usize>,
    /// Rows of keys and values, from position 0 on.
    pub keys: Range<usize>,
}

/// An attention that was computed.
#[derive(Clone, Copy)]
pub struct Attended<'a> {
    /// Rotated and scaled queries `[H, T, E]`, rotated keys and values `[K, T, E]`.
    pub qkv: [Window<'a>; 3],
    /// Its output as rows `[T, H E]`.
    pub y: Window<'a>,
    /// Logarithms of the queries' sums of exponentials, `[H, T]`.
    pub log_sums: Window<'a>,
}

/// One update of AdamW (Loshchilov and Hutter 2019) to one tensor, in the factors that each element needs:
///
/// ```text
/// g' = g gradient_scale      m = m + (g' - m) new1      v = (v beta2) + new2 (g' g')
/// p = (p keep) - rate (m / ((sqrt(v) root) + eps))
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Factor of the summed gradient.
    pub gradient_scale: f32,
    /// `1 - beta1`.
    pub new1: f32,
    /// `beta2`.
    pub beta2: f32,
    /// `1 - beta2`.
    pub new2: f32,
    /// `1 - lr weight_decay`.
    pub keep: f32,
    /// `lr / (1 - beta1^t)`.
    pub rate: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub root: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}
