//! Products with f32 fused multiply-add.

use super::super::float::Float;
use super::super::gemm::Matrix;
use super::super::simd::{self, Loop, vectorized};
use super::Unit;
use half::bf16;

/// Rows and columns of a block of sums that fits in the registers of AVX2.
const ROWS: usize = 6;
const COLS: usize = 16;

/// The vector units of any CPU.
pub(super) struct Portable;

impl Unit for Portable {
    type Packed = f32;

    const ORDER: &'static str = "pairs";
    const ROWS: usize = ROWS;
    const COLS: usize = COLS;
    const PACKED_TERMS: usize = 1;
    const STEP: usize = 2;
    const TERMS: usize = 384;

    fn pack_rows(panel: &mut [f32], a: Matrix<'_, bf16>) {
        pack::<ROWS>(panel, a);
    }

    fn pack_columns(panel: &mut [f32], b: Matrix<'_, bf16>) {
        pack::<COLS>(panel, b);
    }

    fn ready() -> Self {
        Self
    }

    fn multiply(&self, a: &[f32], b: &[f32], sums: &mut [f32]) {
        simd::run(Multiply { a, b, sums });
    }
}

/// Packs the lines of `m` into a panel of `W`. It holds one element of each of its lines after the other, in the order
/// of the sum; lines and terms that do not exist are zero.
fn pack<const W: usize>(panel: &mut [f32], m: Matrix<'_, bf16>) {
    if m.rows < W || W * m.cols < panel.len() {
        panel.fill(0.);
    }
    vectorized(|| match m.col_stride {
        1 => pack_rows::<W>(panel, m),
        _ => pack_columns::<W>(panel, m),
    });
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

/// Adds the product of two panels to a block of sums.
struct Multiply<'a> {
    a: &'a [f32],
    b: &'a [f32],
    sums: &'a mut [f32],
}

impl Loop for Multiply<'_> {
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
