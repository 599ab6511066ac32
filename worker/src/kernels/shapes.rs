//! Arguments of kernels other than plain windows.

use crate::device::{Buffer, Device, Window, WindowMut};
use std::ops::Range;

/// Whether a result replaces the existing contents or is added to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Onto {
    /// Overwrite the contents, which are unspecified.
    Fresh,
    /// Add to the contents.
    Sum,
}

/// The destination of a result.
pub struct Out<'a> {
    /// The elements.
    pub to: WindowMut<'a>,
    /// Whether to overwrite the elements or add to them.
    pub onto: Onto,
}

/// An operand `[rows, cols]` of a matrix product: whole rows or parts of wider rows, possibly transposed.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    pub(super) window: Window<'a>,
    /// Dimensions of the matrix as it is multiplied, after any transposition.
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Number of elements from the start of one stored row to the next.
    pub(super) stride: usize,
    /// Whether the columns of the matrix are the stored rows.
    pub(super) transposed: bool,
}

impl<'a> Operand<'a> {
    /// A matrix of whole rows.
    ///
    /// # Panics
    /// If the window does not have `rows * cols` elements.
    pub fn new(window: Window<'a>, rows: usize, cols: usize) -> Self {
        assert_eq!(window.len(), rows * cols, "a matrix of {rows} x {cols}");
        Self { window, rows, cols, stride: cols, transposed: false }
    }

    /// Number of rows of the matrix as it is multiplied.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// A range of columns of a matrix that is not transposed.
    ///
    /// # Panics
    /// If the matrix is transposed or has fewer columns.
    pub fn cols(self, cols: Range<usize>) -> Self {
        assert!(!self.transposed && cols.end <= self.cols, "{cols:?} of {} columns", self.cols);
        let start = cols.start.min(self.window.len());
        Self { window: self.window.window(start..self.window.len()), cols: cols.len(), ..self }
    }
}

/// A selection of rows of a matrix.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Indices of the rows, u32.
    pub indices: Window<'a>,
    /// Number of elements per row.
    pub width: usize,
}

/// The weights and epsilon of a normalization.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// One weight for each element of a group.
    pub w: Window<'a>,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// How rows are split into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Number of heads.
    pub heads: usize,
    /// Features per head.
    pub head_dim: usize,
}

/// Rotary position embeddings (Su et al. 2021), which rotate the two halves of a head as `transformers` does.
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// Cosines `[positions, E / 2]`.
    pub cos: Window<'a>,
    /// Sines `[positions, E / 2]`.
    pub sin: Window<'a>,
    /// Each row's position, u32.
    pub positions: Window<'a>,
}

/// The transformation that is applied when rows are split into heads; its transpose when they are merged.
#[derive(Clone, Copy)]
pub struct Turn<'a> {
    /// Rotation of the heads, if any.
    pub rotation: Option<Rotation<'a>>,
    /// Factor by which the heads are multiplied.
    pub scale: f32,
}

impl Turn<'_> {
    /// Leaves heads unchanged.
    pub const NONE: Self = Self { rotation: None, scale: 1. };
}

/// The shape and settings of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; each is shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Features per head.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`; it is applied to queries when they are split into heads.
    pub scale: f32,
    /// Maximum number of keys that a query attends to, including its own; `None` for all up to its own.
    pub window: Option<usize>,
}

impl Attention {
    /// Number of query heads that share a key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The first key that the query at `position` attends to.
    pub fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Rows that attend to each other. The queries are at the last positions of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of the queries.
    pub queries: Range<usize>,
    /// Rows of keys and values, starting at position 0.
    pub keys: Range<usize>,
}

/// The spans of a batch of rows. They ascend and do not overlap.
#[derive(Debug)]
pub struct Spans {
    list: Vec<Span>,
    /// The keys that each row of queries sees: none outside all spans.
    seen: Vec<Range<u32>>,
    /// The same on the device, u32 `[T, 2]`.
    visible: Buffer,
}

impl Spans {
    /// These spans of `rows` rows of queries.
    pub fn new(device: &Device, rows: usize, list: Vec<Span>) -> Self {
        let mut seen = vec![0..0; rows];
        for Span { queries, keys } in &list {
            // The last query sees all keys, and each one before sees one key less.
            for (row, end) in queries.clone().rev().zip((keys.start..=keys.end).rev()) {
                seen[row] = keys.start as u32..end as u32;
            }
        }
        let flat = seen.iter().flat_map(|keys| [keys.start, keys.end]).collect();
        Self { list, seen, visible: device.stage::<u32>(flat) }
    }

    /// The spans.
    pub fn list(&self) -> &[Span] {
        &self.list
    }

    /// The keys that a row of queries sees through a window.
    pub(super) fn seen(&self, row: usize, window: Option<usize>) -> Range<usize> {
        let Range { start, end } = self.seen[row];
        let (start, end) = (start as usize, end as usize);
        start.max(end.saturating_sub(window.unwrap_or(usize::MAX)))..end
    }

    /// The first key and the end of the keys that each row of queries sees without a window, u32 `[T, 2]`.
    pub(super) fn visible(&self) -> Window<'_> {
        self.visible.all()
    }
}

/// The inputs and results of an attention, for its backward.
#[derive(Clone, Copy)]
pub struct Attended<'a> {
    /// Rotated and scaled queries `[H, T, E]`, rotated keys and values `[K, T, E]`.
    pub qkv: [Window<'a>; 3],
    /// The output as rows `[T, H E]`.
    pub y: Window<'a>,
    /// Each query's log-sum-exp, `[H, T]`.
    pub log_sums: Window<'a>,
}

/// The factors of one AdamW update (Loshchilov and Hutter 2019) of one tensor, as applied to each element:
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
