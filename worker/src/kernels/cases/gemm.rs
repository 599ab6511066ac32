//! Cases of matrix products.

use super::case::{Case, Output, input};
use super::elementwise::and_f32;
use super::numbers::Numbers;
use super::reference::{self, Matrix};
use crate::device::{Dtype, Window};
use crate::kernels::{Onto, Operand, Out};
use std::ops::Range;

/// Numbers of rows, columns and summed indices: none of each, one of each, partial vectors, several tiles of each.
const SHAPES: [[usize; 3]; 14] = [
    [0, 5, 4],
    [3, 0, 4],
    [3, 4, 0],
    [1, 1, 1],
    [1, 70, 2],
    [70, 1, 2],
    [1, 9, 600],
    [5, 7, 600],
    [48, 64, 32],
    [37, 29, 21],
    [33, 129, 530],
    [17, 260, 65],
    [530, 140, 1],
    [520, 131, 5],
];

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let mut numbers = Numbers::new(3);
    let mut cases = Vec::new();
    for shape in SHAPES {
        // The layouts of a forward, and of the gradients of its left and right operands.
        for layouts in [[WHOLE, TRANSPOSED], [WHOLE, WHOLE], [TRANSPOSED, WHOLE]] {
            cases.extend(products(&mut numbers, dtype, shape, layouts));
        }
    }
    let all =
        [false, true].map(|transposed| [false, true].map(|sliced| Layout { transposed, sliced }));
    for a in all.as_flattened() {
        for b in all.as_flattened() {
            for shape in [[19, 35, 23], [1, 33, 50], [66, 2, 1]] {
                cases.extend(products(&mut numbers, dtype, shape, [*a, *b]));
            }
        }
    }
    cases
}

/// How an operand is stored.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Whether the transpose is stored.
    transposed: bool,
    /// Whether it is stored as some columns of a wider matrix.
    sliced: bool,
}

const WHOLE: Layout = Layout { transposed: false, sliced: false };
const TRANSPOSED: Layout = Layout { transposed: true, sliced: false };

/// Number of columns of the wider matrix before and after those of a slice.
const BESIDE: [usize; 2] = [3, 6];

impl Layout {
    /// Number of rows and columns as stored, and the range of columns that belong to the matrix.
    fn stored(self, rows: usize, cols: usize) -> (usize, usize, Range<usize>) {
        let (rows, cols) = if self.transposed { (cols, rows) } else { (rows, cols) };
        let [before, behind] = if self.sliced { BESIDE } else { [0; 2] };
        (rows, before + cols + behind, before..before + cols)
    }

    /// The elements of `matrix` in this layout, surrounded by NaN.
    fn elements(self, matrix: &Matrix) -> Vec<f64> {
        let (rows, cols, own) = self.stored(matrix.rows, matrix.cols);
        let at = |row: usize, col: usize| match (own.contains(&col), self.transposed) {
            (false, _) => f64::NAN,
            (true, false) => matrix.at(row, col - own.start),
            (true, true) => matrix.at(col - own.start, row),
        };
        (0..rows).flat_map(|row| (0..cols).map(move |col| at(row, col))).collect()
    }

    fn operand(self, window: Window<'_>, rows: usize, cols: usize) -> Operand<'_> {
        let (rows, cols, own) = self.stored(rows, cols);
        let stored = Operand::new(window, rows, cols);
        let stored = if self.sliced { stored.cols(own) } else { stored };
        if self.transposed { stored.t() } else { stored }
    }
}

/// Products of this shape with operands in these layouts, which replace the result or are added to it.
fn products(
    numbers: &mut Numbers,
    dtype: Dtype,
    [m, n, k]: [usize; 3],
    layouts: [Layout; 2],
) -> Vec<Case> {
    let mut matrix = |rows, cols| {
        let data = numbers.within(1., dtype, rows * cols);
        Matrix { rows, cols, data }
    };
    let (a, b) = (matrix(m, k), matrix(k, n));
    let product = reference::gemm(&a, &b);
    let mut cases = Vec::new();
    for onto in [Onto::Fresh, Onto::Sum] {
        for to in and_f32(dtype) {
            let [la, lb] = layouts;
            let ins = [input(dtype, &la.elements(&a)), input(dtype, &lb.elements(&b))];
            let c = Output::onto(to, onto, numbers, &product);
            let about = format!("{m} x {n} x {k}, {la:?}, {lb:?}, {onto:?} {to:?}");
            cases.push(Case::new("gemm", about, ins, [c], move |kernels, [a, b], [to]| {
                kernels.gemm(Out { to, onto }, la.operand(a, m, k), lb.operand(b, k, n));
            }));
        }
    }
    cases
}
