//! The memory that kernels take while they run, as types and numbers of elements. It depends only on shapes, so that a
//! rehearsal knows it.

use crate::device::Dtype;
use crate::kernels::Attention;

/// A type, and a number of elements.
pub(crate) type Piece = (Dtype, usize);

/// Elements per chunk of a sum of squares.
pub(super) const CHUNK_ELEMENTS: usize = 64 * 1024;

/// Rows per block of a sum over rows, at least.
const BLOCK_ROWS: usize = 64;
/// Blocks of a sum over rows, at most.
const BLOCKS: usize = 256;

/// Queries of a tile of scores, at most. In this crate's own tests tiles are small, so that small cases have several.
pub(super) const QUERIES: usize = if cfg!(test) { 48 } else { 1024 };
/// Queries of a tile, at least, however many keys there are.
const QUERIES_MIN: usize = if cfg!(test) { 16 } else { 64 };
/// Scores of a tile, at most, unless it has [`QUERIES_MIN`] queries.
const SCORES: usize = 64 << 20;

/// The number of blocks of a sum over `rows` rows, and the rows of each.
pub(super) fn blocks(rows: usize) -> [usize; 2] {
    let block = rows.div_ceil(BLOCKS).max(BLOCK_ROWS);
    [rows.div_ceil(block), block]
}

/// That of a sum over rows.
pub(crate) fn sum_columns(rows: usize, cols: usize) -> [Piece; 1] {
    [(Dtype::F32, blocks(rows)[0] * cols)]
}

/// The inverse roots of the gradient of a norm's weights, which sums over rows besides.
pub(crate) fn inverse_rms(groups: usize) -> [Piece; 1] {
    [(Dtype::F32, groups)]
}

/// The number of chunks of a sum of `n` squares.
pub(super) fn chunks(n: usize) -> usize {
    n.div_ceil(CHUNK_ELEMENTS)
}

/// That of a sum of `n` squares.
pub(crate) fn sum_squares(n: usize) -> [Piece; 1] {
    [(Dtype::F64, chunks(n))]
}

/// Queries of a tile that sees all keys. Tiles that see fewer have more queries.
fn queries(a: &Attention, [rows, keys]: [usize; 2]) -> usize {
    (SCORES / (a.heads * keys).max(1)).clamp(QUERIES_MIN, QUERIES).min(rows.max(1))
}

/// The scores of a tile, and the rounded probabilities, if activations are not f32; `rows` are those of queries and of
/// keys.
pub(crate) fn attend(dtype: Dtype, a: &Attention, rows: [usize; 2]) -> Vec<Piece> {
    let scores = a.heads * queries(a, rows) * rows[1];
    [(Dtype::F32, scores)].into_iter().chain(rounded(dtype, [scores])).collect()
}

/// As [`attend`], and the gradients of scores; each query's mean; the gradients of keys and values before they are
/// rounded.
pub(crate) fn attend_back(dtype: Dtype, a: &Attention, rows: usize) -> Vec<Piece> {
    let scores = a.heads * queries(a, [rows; 2]) * rows;
    let gradients = rounded(dtype, [a.heads * rows * a.head_dim; 2]);
    let gradients = gradients.map(|(_, elements)| (Dtype::F32, elements));
    [(Dtype::F32, scores), (Dtype::F32, scores), (Dtype::F32, a.heads * rows)]
        .into_iter()
        .chain(rounded(dtype, [scores; 2]))
        .chain(gradients)
        .collect()
}

/// Pieces that exist only if activations are not f32.
fn rounded<const N: usize>(dtype: Dtype, elements: [usize; N]) -> impl Iterator<Item = Piece> {
    elements.into_iter().filter(move |_| dtype != Dtype::F32).map(move |n| (dtype, n))
}
