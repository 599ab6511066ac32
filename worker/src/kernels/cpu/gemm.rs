//! Matrix products: a thin wrapper around the `gemm` crate.
//!
//! Here the crate runs each product on one thread. [`gemm_parallel`] cuts the result into tiles whose sizes depend
//! only on the shapes, so that the same sums run in the same order on any number of threads.

// The crate takes pointers and strides, which only the checked views below create.
#![allow(unsafe_code)]

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::simd::{LANES, vectorized};
use crate::device::{Element, give, take};
use crate::kernels::{Onto, Operand};

/// A view of a matrix, row- or column-major, possibly part of wider rows.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T = f32> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a, T: Element> Matrix<'a, T> {
    /// A matrix of whole rows.
    pub(super) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a matrix of {rows} x {cols}");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// A view of an operand in host memory.
    pub(super) fn of(operand: Operand<'a>) -> Self {
        let Operand { window, rows, cols, stride, transposed } = operand;
        let stored = if transposed { (cols, rows) } else { (rows, cols) };
        // The last row may be part of a wider row that ends beyond the window.
        let least = if stored.0 == 0 { 0 } else { (stored.0 - 1) * stride + stored.1 };
        assert!(window.len() >= least, "a matrix of {rows} x {cols} with rows of {stride}");
        let (rows, cols) = stored;
        let whole = Self { data: window.host(), rows, cols, row_stride: stride, col_stride: 1 };
        if transposed { whole.t() } else { whole }
    }

    /// A range of rows.
    pub(super) fn rows(self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.rows, "{rows:?} of {} rows", self.rows);
        let start = (rows.start * self.row_stride).min(self.data.len());
        Self { data: &self.data[start..], rows: rows.len(), ..self }
    }

    /// A range of columns.
    pub(super) fn cols(self, cols: Range<usize>) -> Self {
        self.t().rows(cols).t()
    }

    /// The transpose, by swapped strides.
    pub(super) fn t(self) -> Self {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Self { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }
}

/// A matrix to write to.
pub(super) struct MatrixMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl<'a> MatrixMut<'a> {
    /// A matrix of whole rows.
    pub(super) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a matrix of {rows} x {cols}");
        Self { data, rows, cols }
    }
}

/// `c = a b` or `c += a b`, on this thread.
pub(super) fn gemm(c: MatrixMut<'_>, onto: Onto, a: Matrix<'_>, b: Matrix<'_>) {
    let (rows, cols) = (c.rows, c.cols);
    // SAFETY: there is only one tile.
    unsafe { Product::new(c, onto, a, b).tile(0, rows, 0, cols) };
}

/// `c = a b` or `c += a b`, in tiles on all threads of the pool.
pub(super) fn gemm_parallel(c: MatrixMut<'_>, onto: Onto, a: Matrix<'_>, b: Matrix<'_>) {
    /// Tile sizes chosen by measurement: the packed operands of a tile serve enough arithmetic, and there are enough
    /// tiles to balance the load.
    const TILE_ROWS_MAX: usize = 516;
    const TILE_COLS: usize = 128;
    /// Number of rows that the crate's kernels process at a time.
    const KERNEL_ROWS: usize = 6;

    if turns(c.rows, b.col_stride != 1, b.rows * b.cols) {
        let mut turned = take::<f32>(b.rows * b.cols);
        transpose(&mut turned, b.t());
        gemm_parallel(c, onto, a, Matrix::new(&turned, b.rows, b.cols));
        return give(turned);
    }
    let (rows, cols) = (c.rows, c.cols);
    let product = Product::new(c, onto, a, b);
    let tiles = rows.div_ceil(TILE_ROWS_MAX).max(1);
    let tile_rows = rows.div_ceil(tiles).next_multiple_of(KERNEL_ROWS);
    let (down, across) = (rows.div_ceil(tile_rows.max(1)), cols.div_ceil(TILE_COLS));
    (0..down * across).into_par_iter().with_max_len(1).for_each(|tile| {
        let (row, col) = (tile / across * tile_rows, tile % across * TILE_COLS);
        let (rows, cols) = (tile_rows.min(rows - row), TILE_COLS.min(cols - col));
        // SAFETY: tiles begin at multiples of their size, so they do not overlap.
        unsafe { product.tile(row, rows, col, cols) };
    });
}

/// Whether [`gemm_parallel`] first makes the right operand row-major, in memory from the pool.
pub(super) fn turns(rows: usize, transposed: bool, elements: usize) -> bool {
    /// A transposed right operand is made row-major once for all tiles if it has at most this many elements and the
    /// result has at least `TURNED_ROWS_MIN` rows. Otherwise the crate packs it again for each tile, one element at a
    /// time.
    const TURNED_ELEMENTS_MAX: usize = 8 << 20;
    const TURNED_ROWS_MIN: usize = 128;
    transposed && rows >= TURNED_ROWS_MIN && elements <= TURNED_ELEMENTS_MAX
}

/// `y = x^T` for an `x` with contiguous rows or parts of rows, in parallel.
pub(super) fn transpose(y: &mut [f32], x: Matrix<'_>) {
    const SIDE: usize = LANES;
    assert_eq!((y.len(), x.col_stride), (x.rows * x.cols, 1), "a transpose of rows");
    if y.is_empty() {
        return;
    }
    y.par_chunks_mut(SIDE * x.rows).enumerate().for_each(|(block, y)| {
        let first = block * SIDE;
        let width = SIDE.min(x.cols - first);
        vectorized(|| {
            for row in (0..x.rows).step_by(SIDE) {
                let height = SIDE.min(x.rows - row);
                // The square stays in registers or the L1 cache.
                let mut square = [[0f32; SIDE]; SIDE];
                for (i, line) in square[..height].iter_mut().enumerate() {
                    let from = &x.data[(row + i) * x.row_stride + first..][..width];
                    line[..width].copy_from_slice(from);
                }
                for (j, y) in y.chunks_exact_mut(x.rows).enumerate() {
                    for (y, line) in y[row..row + height].iter_mut().zip(&square) {
                        *y = line[j];
                    }
                }
            }
        });
    });
}

/// A product whose operands have matching shapes.
struct Product<'a> {
    c: *mut f32,
    c_stride: usize,
    onto: Onto,
    a: Matrix<'a>,
    b: Matrix<'a>,
}

// SAFETY: `c` points into a slice that is mutably borrowed for 'a by the only holder of the product, and threads that
// share the product write disjoint tiles of it (`gemm_parallel`).
unsafe impl Sync for Product<'_> {}

impl<'a> Product<'a> {
    fn new(c: MatrixMut<'a>, onto: Onto, a: Matrix<'a>, b: Matrix<'a>) -> Self {
        assert_eq!(
            (c.rows, c.cols, a.cols),
            (a.rows, b.cols, b.rows),
            "the shapes of operands match"
        );
        Self { c: c.data.as_mut_ptr(), c_stride: c.cols, onto, a, b }
    }

    /// Computes `rows` x `cols` elements of `c`, starting at `row` and `col`.
    ///
    /// # Safety
    /// No two threads may compute overlapping tiles of one product at the same time.
    unsafe fn tile(&self, row: usize, rows: usize, col: usize, cols: usize) {
        let Self { a, b, .. } = self;
        let inside = row + rows <= a.rows && col + cols <= b.cols;
        assert!(inside, "a tile lies inside the result");
        // SAFETY: the views' constructors checked that every element lies in its slice, and the assertion checked
        // that the tile lies in the result. The caller ensures that no other thread writes this tile. `a` and `b`
        // cannot alias `c`, which was borrowed mutably.
        unsafe {
            gemm::gemm(
                rows,
                cols,
                a.cols,
                self.c.add(row * self.c_stride + col),
                1,
                self.c_stride as isize,
                self.onto == Onto::Sum,
                a.data.as_ptr().add(row * a.row_stride),
                a.col_stride as isize,
                a.row_stride as isize,
                b.data.as_ptr().add(col * b.col_stride),
                b.col_stride as isize,
                b.row_stride as isize,
                1.,
                1.,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers, so that every product and sum is exact in f32.
    fn integers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7 + seed * 3) % 11) as f32 - 5.).collect()
    }

    fn at(m: &Matrix<'_>, row: usize, col: usize) -> f32 {
        m.data[row * m.row_stride + col * m.col_stride]
    }

    #[test]
    fn products_of_every_layout_are_exact() {
        for (m, n, k) in [(1, 5, 3), (3, 1, 40), (17, 33, 65), (300, 800, 20), (2, 400, 70)] {
            let (a, b, start) = (integers(m * k, 1), integers(k * n, 2), integers(m * n, 3));
            for a in [Matrix::new(&a, m, k), Matrix::new(&a, k, m).t()] {
                for b in [Matrix::new(&b, k, n), Matrix::new(&b, n, k).t()] {
                    for onto in [Onto::Fresh, Onto::Sum] {
                        let (mut serial, mut parallel) = (start.clone(), start.clone());
                        gemm(MatrixMut::new(&mut serial, m, n), onto, a, b);
                        gemm_parallel(MatrixMut::new(&mut parallel, m, n), onto, a, b);
                        for i in 0..m * n {
                            let before = if onto == Onto::Sum { start[i] } else { 0. };
                            let product = |l| at(&a, i / n, l) * at(&b, l, i % n);
                            let expected = before + (0..k).map(product).sum::<f32>();
                            assert_eq!((serial[i], parallel[i]), (expected, expected));
                        }
                    }
                }
            }
        }
    }
}
