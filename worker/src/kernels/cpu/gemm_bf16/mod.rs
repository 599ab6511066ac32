//! Products of bf16 matrices, summed in f32 and rounded once.
//!
//! An element of the result has the same bits on every CPU and for any number of threads. Its terms are added one at a
//! time to a sum that starts at 0, each by a fused multiply-add, in the order in which AVX-512's `VDPBF16PS` adds them:
//! the pairs of neighbouring terms in order, and of each pair the second term first.
//!
//! ```text
//! pack      each operand into panels of a few rows of `a` or columns of `b`, in the order of the sum
//! tile      one task: some panels of `a` with some of `b`, a block of the sum at a time
//! Multiply  one panel of `a` with one of `b`, whose sums stay in registers
//! ```

use super::float::Float;
use super::gemm::Matrix;
use super::simd::{Fused, fused, vectorized};
use crate::device::{give, take};
use crate::kernels::Onto;
use half::bf16;
use rayon::prelude::*;

/// Rows and columns of a block of sums that fits in the registers of AVX2.
const ROWS: usize = 6;
const COLS: usize = 16;
/// Panels of `a` and of `b` in a tile.
const ROW_PANELS: usize = 24;
const COL_PANELS: usize = 8;
/// Terms that are added at a time: a panel of `b` stays in the L1 cache, the panels of `a` in the L2 cache.
const TERMS: usize = 384;

/// `c = a b` or `c += a b`, in tiles on all threads of the pool.
pub(super) fn gemm_parallel<C: Float>(
    c: &mut [C],
    onto: Onto,
    a: Matrix<'_, bf16>,
    b: Matrix<'_, bf16>,
) {
    let (rows, cols, terms) = (a.rows, b.cols, a.cols);
    assert_eq!((c.len(), b.rows), (rows * cols, terms), "the shapes of operands match");
    if c.is_empty() {
        return;
    }
    let terms = terms.next_multiple_of(2);
    let (packed_a, packed_b) = (pack::<ROWS>(a), pack::<COLS>(b.t()));
    tiles(c, cols).into_par_iter().with_max_len(1).for_each(|tile| {
        let a = panels(&packed_a, tile.row_panel, ROW_PANELS, ROWS * terms);
        let b = panels(&packed_b, tile.col_panel, COL_PANELS, COLS * terms);
        tile.compute(onto, (a, b), terms);
    });
    give(packed_a);
    give(packed_b);
}

/// Up to `count` panels of `len` elements, starting at panel `first`.
fn panels(packed: &[f32], first: usize, count: usize, len: usize) -> &[f32] {
    let rest = &packed[first * len..];
    &rest[..rest.len().min(count * len)]
}

/// The lines of `m` in panels of `W`. Each panel holds one element of each of its lines after the other, in the order
/// of the sum; lines and terms that do not exist are zero.
fn pack<const W: usize>(m: Matrix<'_, bf16>) -> Vec<f32> {
    let terms = m.cols.next_multiple_of(2);
    let mut packed = take::<f32>(m.rows.next_multiple_of(W) * terms);
    packed.par_chunks_mut((W * terms).max(1)).enumerate().for_each(|(panel, packed)| {
        let lines = W.min(m.rows - panel * W);
        if lines < W || m.cols < terms {
            packed.fill(0.);
        }
        let m = m.rows(panel * W..panel * W + lines);
        vectorized(|| match m.col_stride {
            1 => pack_rows::<W>(packed, m),
            _ => pack_columns::<W>(packed, m),
        });
    });
    packed
}

/// Packs lines whose elements are neighbours.
#[inline(always)]
fn pack_rows<const W: usize>(packed: &mut [f32], m: Matrix<'_, bf16>) {
    for line in 0..m.rows {
        let row = &m.data[line * m.row_stride..][..m.cols];
        for (two, pair) in packed.chunks_exact_mut(2 * W).zip(row.chunks(2)) {
            two[W + line] = pair[0].widen();
            if let Some(second) = pair.get(1) {
                two[line] = second.widen();
            }
        }
    }
}

/// Packs lines of which the elements with the same index are neighbours.
#[inline(always)]
fn pack_columns<const W: usize>(packed: &mut [f32], m: Matrix<'_, bf16>) {
    assert_eq!(m.row_stride, 1, "rows or columns of elements that are neighbours");
    for (term, packed) in packed.chunks_exact_mut(W).enumerate() {
        // The second of each pair comes first.
        let term = term ^ 1;
        if term < m.cols {
            let column = &m.data[term * m.col_stride..][..m.rows];
            packed.iter_mut().zip(column).for_each(|(packed, x)| *packed = x.widen());
        }
    }
}

/// A part of the result.
struct Tile<'a, C> {
    row_panel: usize,
    col_panel: usize,
    /// The part's elements of each row.
    rows: Vec<&'a mut [C]>,
}

/// Cuts a result into tiles.
fn tiles<C>(c: &mut [C], cols: usize) -> Vec<Tile<'_, C>> {
    let mut tiles = Vec::new();
    for (band, c) in c.chunks_mut(ROW_PANELS * ROWS * cols).enumerate() {
        let first = tiles.len();
        let across = (0..cols.div_ceil(COL_PANELS * COLS)).map(|tile| Tile {
            row_panel: band * ROW_PANELS,
            col_panel: tile * COL_PANELS,
            rows: Vec::with_capacity(c.len() / cols),
        });
        tiles.extend(across);
        for row in c.chunks_mut(cols) {
            let parts = tiles[first..].iter_mut().zip(row.chunks_mut(COL_PANELS * COLS));
            parts.for_each(|(tile, part)| tile.rows.push(part));
        }
    }
    tiles
}

impl<C: Float> Tile<'_, C> {
    /// Computes the tile from its panels of `a` and `b`.
    fn compute(self, onto: Onto, (a, b): (&[f32], &[f32]), terms: usize) {
        const BLOCK: usize = ROWS * COLS;
        let down = self.rows.len().div_ceil(ROWS);
        let across = self.rows[0].len().div_ceil(COLS);
        let mut sums = take::<f32>(down * across * BLOCK);
        sums.fill(0.);
        for start in (0..terms).step_by(TERMS) {
            let end = terms.min(start + TERMS);
            for (b, sums) in b.chunks_exact(COLS * terms).zip(sums.chunks_exact_mut(down * BLOCK)) {
                let b = &b[start * COLS..end * COLS];
                for (a, sums) in a.chunks_exact(ROWS * terms).zip(sums.chunks_exact_mut(BLOCK)) {
                    fused(Multiply { a: &a[start * ROWS..end * ROWS], b, sums });
                }
            }
        }
        for (row, c) in self.rows.into_iter().enumerate() {
            let blocks = sums.chunks_exact(down * BLOCK);
            for (c, sums) in c.chunks_mut(COLS).zip(blocks) {
                let each = c.iter_mut().zip(&sums[row * COLS..]);
                match onto {
                    Onto::Fresh => each.for_each(|(c, sum)| *c = C::round(*sum)),
                    Onto::Sum => each.for_each(|(c, sum)| *c = C::round(c.widen() + sum)),
                }
            }
        }
        give(sums);
    }
}

/// Adds the product of two panels to a block of sums.
struct Multiply<'a> {
    a: &'a [f32],
    b: &'a [f32],
    sums: &'a mut [f32],
}

impl Fused for Multiply<'_> {
    #[inline(always)]
    fn run(self) {
        let mut block = [[0f32; COLS]; ROWS];
        for (line, sums) in block.iter_mut().zip(self.sums.chunks_exact(COLS)) {
            line.copy_from_slice(sums);
        }
        for (a, b) in self.a.chunks_exact(ROWS).zip(self.b.chunks_exact(COLS)) {
            for (line, a) in block.iter_mut().zip(a) {
                for (sum, b) in line.iter_mut().zip(b) {
                    *sum = a.mul_add(*b, *sum);
                }
            }
        }
        for (line, sums) in block.iter().zip(self.sums.chunks_exact_mut(COLS)) {
            sums.copy_from_slice(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<bf16> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bf16::round((state >> 8) as f32 / (1 << 23) as f32 - 1.)
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    /// The definition, with `f32::mul_add` element by element.
    fn defined(m: Matrix<'_, bf16>, b: Matrix<'_, bf16>, row: usize, col: usize) -> f32 {
        let a = |k: usize| m.data[row * m.row_stride + k * m.col_stride].to_f32();
        let b = |k: usize| b.data[k * b.row_stride + col * b.col_stride].to_f32();
        let mut sum = 0f32;
        for first in (0..m.cols).step_by(2) {
            if first + 1 < m.cols {
                sum = a(first + 1).mul_add(b(first + 1), sum);
            }
            sum = a(first).mul_add(b(first), sum);
        }
        sum
    }

    #[test]
    fn every_element_has_the_bits_of_its_definition() {
        for (m, n, k) in [(1, 5, 3), (7, 33, 65), (150, 140, 2), (13, 17, 801), (145, 129, 386)] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            for a in [Matrix::new(&a, m, k), Matrix::new(&a, k, m).t()] {
                for b in [Matrix::new(&b, k, n), Matrix::new(&b, n, k).t()] {
                    let mut c = vec![f32::NAN; m * n];
                    gemm_parallel(&mut c, Onto::Fresh, a, b);
                    for (i, c) in c.iter().enumerate() {
                        let expected = defined(a, b, i / n, i % n);
                        assert_eq!(c.to_bits(), expected.to_bits(), "{m} {n} {k}: {i}");
                    }
                }
            }
        }
    }
}
