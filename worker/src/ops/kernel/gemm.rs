//! Matrix products: one thin door to the `gemm` crate.
//!
//! The crate runs each product on one thread here; [`gemm_parallel`] cuts the result into tiles
//! whose sizes depend on the shapes alone, so that the same sums run in the same order on any
//! number of threads.

#![allow(unsafe_code)] // The crate takes pointers and strides; the checked views below are their only makers.

use gemm::Parallelism;
use rayon::prelude::*;

use crate::ops::tape::Onto;

/// A view of a matrix, row- or column-major, possibly a part of wider rows.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Whole rows.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a matrix of {rows} x {cols}");
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
        }
    }

    /// The transpose, by swapped strides.
    pub(crate) fn t(self) -> Self {
        let Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride,
        } = self;
        Self {
            data,
            rows: cols,
            cols: rows,
            row_stride: col_stride,
            col_stride: row_stride,
        }
    }
}

/// A matrix to write to.
pub(crate) struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
}

impl<'a> MatrixMut<'a> {
    /// Whole rows.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a matrix of {rows} x {cols}");
        Self { data, rows, cols }
    }
}

/// `c = a b` or `c += a b`, on this thread.
pub(crate) fn gemm(c: MatrixMut<'_>, onto: Onto, a: Matrix<'_>, b: Matrix<'_>) {
    let (rows, cols) = (c.rows, c.cols);
    Product::new(c, onto, a, b).tile(0, rows, 0, cols);
}

/// The same, by tiles on all threads of the pool.
pub(crate) fn gemm_parallel(c: MatrixMut<'_>, onto: Onto, a: Matrix<'_>, b: Matrix<'_>) {
    /// A tile's rows and columns: its operands stay in the second-level cache.
    const TILE_ROWS: usize = 256;
    const TILE_COLS: usize = 768;
    /// With fewer rows the product reads its right operand only once, so columns are cut finer.
    const FEW_ROWS: usize = 16;
    const TILE_COLS_OF_FEW_ROWS: usize = 96;

    let (rows, cols) = (c.rows, c.cols);
    let tile_cols = if rows <= FEW_ROWS {
        TILE_COLS_OF_FEW_ROWS
    } else {
        TILE_COLS
    };
    let product = Product::new(c, onto, a, b);
    let (down, across) = (rows.div_ceil(TILE_ROWS), cols.div_ceil(tile_cols));
    (0..down * across)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|tile| {
            let (row, col) = (tile / across * TILE_ROWS, tile % across * tile_cols);
            product.tile(
                row,
                TILE_ROWS.min(rows - row),
                col,
                tile_cols.min(cols - col),
            );
        });
}

/// A product whose operands were checked against each other.
struct Product<'a> {
    c: *mut f32,
    c_stride: usize,
    onto: Onto,
    a: Matrix<'a>,
    b: Matrix<'a>,
}

// SAFETY: `c` points into a slice that is borrowed mutably for 'a by the one holder of the product,
// and threads that share the product write disjoint tiles of it (`gemm_parallel`).
unsafe impl Sync for Product<'_> {}

impl<'a> Product<'a> {
    fn new(c: MatrixMut<'a>, onto: Onto, a: Matrix<'a>, b: Matrix<'a>) -> Self {
        assert_eq!(
            (c.rows, c.cols, a.cols),
            (a.rows, b.cols, b.rows),
            "operands fit each other"
        );
        Self {
            c: c.data.as_mut_ptr(),
            c_stride: c.cols,
            onto,
            a,
            b,
        }
    }

    /// Computes `rows` x `cols` elements of `c`, from `row` and `col` on. Tiles must not overlap.
    fn tile(&self, row: usize, rows: usize, col: usize, cols: usize) {
        let Self { a, b, .. } = self;
        assert!(
            row + rows <= a.rows && col + cols <= b.cols,
            "a tile lies inside the result"
        );
        if rows == 0 || cols == 0 {
            return;
        }
        // SAFETY: the views' constructors checked that every element lies in its slice, the
        // assertion that the tile lies in the result; nobody else writes this tile, and `a` and `b`
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

    /// Small integers: every product and sum is exact in f32.
    fn integers(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 7 + seed * 3) % 11) as f32 - 5.)
            .collect()
    }

    fn at(m: &Matrix<'_>, row: usize, col: usize) -> f32 {
        m.data[row * m.row_stride + col * m.col_stride]
    }

    #[test]
    fn products_of_every_layout_are_exact() {
        for (m, n, k) in [
            (1, 5, 3),
            (3, 1, 40),
            (17, 33, 65),
            (300, 800, 20),
            (2, 400, 70),
        ] {
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
