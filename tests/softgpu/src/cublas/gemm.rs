//! A batch of matrix products: which bytes it touches, and how operands are packed.

use super::product::{COLUMNS, ROWS, multiply};
use crate::history::Touched;
use crate::memory::Span;
use crate::ops::Bytes;

/// A type of matrix elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    F32,
    Bf16,
}

impl Scalar {
    /// The type with this number in `cudaDataType_t`.
    pub(super) fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::F32),
            14 => Some(Self::Bf16),
            _ => None,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Sizes of the product: C is `m` x `n`, the sums have `k` terms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub batch: usize,
}

/// A column-major matrix as it is stored, one for each product of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix {
    pub at: Bytes,
    pub scalar: Scalar,
    pub ld: usize,
    pub stride: i64,
    pub rows: usize,
    pub columns: usize,
}

impl Matrix {
    fn address(&self, batch: usize, row: usize, column: usize) -> u64 {
        let element = batch as i64 * self.stride + (column * self.ld + row) as i64;
        (self.at.0 as u64).wrapping_add_signed(element * self.scalar.bytes() as i64)
    }

    fn spans(&self, batches: usize) -> Vec<Span> {
        let distinct = if self.stride == 0 { 1 } else { batches };
        let mut spans: Vec<Span> = Vec::new();
        for batch in 0..distinct {
            for column in 0..self.columns {
                let start = self.address(batch, 0, column);
                let span = Span::new(start, (self.rows * self.scalar.bytes()) as u64);
                match spans.last_mut() {
                    Some(last) if last.end == span.start => last.end = span.end,
                    _ => spans.push(span),
                }
            }
        }
        spans
    }

    /// # Safety
    /// The element must lie in live memory.
    unsafe fn load(&self, batch: usize, row: usize, column: usize) -> f32 {
        let at = self.address(batch, row, column);
        // SAFETY: the caller vouches for the address.
        unsafe {
            match self.scalar {
                Scalar::F32 => (at as *const f32).read_unaligned(),
                Scalar::Bf16 => from_bf16((at as *const u16).read_unaligned()),
            }
        }
    }

    /// # Safety
    /// The element must lie in live memory.
    unsafe fn store(&self, batch: usize, row: usize, column: usize, value: f32) {
        let at = self.address(batch, row, column);
        // SAFETY: the caller vouches for the address.
        unsafe {
            match self.scalar {
                Scalar::F32 => (at as *mut f32).write_unaligned(value),
                Scalar::Bf16 => (at as *mut u16).write_unaligned(to_bf16(value)),
            }
        }
    }
}

/// The value of a bf16.
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bf16, ties to even; a NaN stays one.
pub(crate) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return 0x7fff;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// `C = alpha * op(A) * op(B) + beta * C`, several times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gemm {
    pub shape: Shape,
    pub a: Matrix,
    pub b: Matrix,
    pub c: Matrix,
    pub a_transposed: bool,
    pub b_transposed: bool,
    pub alpha: f32,
    pub beta: f32,
}

impl Gemm {
    /// The bytes that the product reads and writes: C is read only if beta is not zero, and the
    /// padding between columns never is.
    pub(super) fn touched(&self) -> Touched {
        let batch = self.shape.batch;
        let mut reads = Vec::new();
        if self.uses_inputs() {
            reads.extend(self.a.spans(batch));
            reads.extend(self.b.spans(batch));
        }
        if self.beta != 0.0 {
            reads.extend(self.c.spans(batch));
        }
        Touched { reads, writes: self.c.spans(batch) }
    }

    fn uses_inputs(&self) -> bool {
        self.shape.k > 0 && self.alpha != 0.0
    }

    /// Computes all products.
    pub(super) fn run(&self) {
        for batch in 0..self.shape.batch {
            self.run_one(batch);
        }
    }

    fn run_one(&self, batch: usize) {
        let Shape { m, n, k, .. } = self.shape;
        let terms = if self.uses_inputs() { k } else { 0 };
        let (row_tiles, column_tiles) = (m.div_ceil(ROWS), n.div_ceil(COLUMNS));
        let mut packed_b = vec![0.0; column_tiles * COLUMNS * terms];
        for (tile, panel) in packed_b.chunks_exact_mut((COLUMNS * terms).max(1)).enumerate() {
            self.pack_b(batch, tile * COLUMNS, panel);
        }
        let mut packed_a = vec![0.0; ROWS * terms];
        for row_tile in 0..row_tiles {
            let first_row = row_tile * ROWS;
            self.pack_a(batch, first_row, &mut packed_a);
            for column_tile in 0..column_tiles {
                let panel = &packed_b[column_tile * COLUMNS * terms..][..COLUMNS * terms];
                let sums = multiply(&packed_a, panel);
                self.store_tile(batch, (first_row, column_tile * COLUMNS), &sums);
            }
        }
    }

    /// Packs rows `first..first + ROWS` of op(A), one column after another.
    fn pack_a(&self, batch: usize, first: usize, panel: &mut [f32]) {
        let rows = ROWS.min(self.shape.m - first);
        for (term, column) in panel.chunks_exact_mut(ROWS).enumerate() {
            for (row, slot) in column[..rows].iter_mut().enumerate() {
                let (i, j) = (first + row, term);
                let (i, j) = if self.a_transposed { (j, i) } else { (i, j) };
                // SAFETY: the operation's plan was checked, and (i, j) lies within A.
                *slot = unsafe { self.a.load(batch, i, j) };
            }
        }
    }

    /// Packs columns `first..first + COLUMNS` of op(B), one row after another.
    fn pack_b(&self, batch: usize, first: usize, panel: &mut [f32]) {
        let columns = COLUMNS.min(self.shape.n - first);
        for (term, row) in panel.chunks_exact_mut(COLUMNS).enumerate() {
            for (column, slot) in row[..columns].iter_mut().enumerate() {
                let (i, j) = (term, first + column);
                let (i, j) = if self.b_transposed { (j, i) } else { (i, j) };
                // SAFETY: the operation's plan was checked, and (i, j) lies within B.
                *slot = unsafe { self.b.load(batch, i, j) };
            }
        }
    }

    fn store_tile(
        &self,
        batch: usize,
        (first_row, first_column): (usize, usize),
        sums: &[[f32; ROWS]; COLUMNS],
    ) {
        let columns = COLUMNS.min(self.shape.n - first_column);
        let rows = ROWS.min(self.shape.m - first_row);
        for (column, sums) in sums[..columns].iter().enumerate() {
            for (row, sum) in sums[..rows].iter().enumerate() {
                let (i, j) = (first_row + row, first_column + column);
                let product = if self.uses_inputs() { self.alpha * sum } else { 0.0 };
                // SAFETY: the operation's plan was checked, and (i, j) lies within C.
                unsafe {
                    let value = if self.beta == 0.0 {
                        product
                    } else {
                        self.beta.mul_add(self.c.load(batch, i, j), product)
                    };
                    self.c.store(batch, i, j, value);
                }
            }
        }
    }
}
