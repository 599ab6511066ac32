//! Cases of kernels on whole rows.

use super::case::{Case, Expected, Output, input};
use super::elementwise::and_f32;
use super::near::Near;
use super::numbers::Numbers;
use super::reference;
use crate::device::Dtype;
use crate::kernels::Rows;

/// Numbers of rows and columns: none, one, partial vectors, several blocks of a sum, several tasks, more columns than a
/// GPU's block has threads.
const SHAPES: [[usize; 2]; 9] =
    [[0, 5], [1, 1], [200, 1], [3, 17], [64, 48], [65, 33], [130, 7], [301, 250], [40, 301]];

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let mut numbers = Numbers::new(2);
    let mut cases = Vec::new();
    for [rows, width] in SHAPES {
        cases.push(repeat_row(&mut numbers, dtype, rows, width));
        cases.push(sum_rows(&mut numbers, dtype, rows, width));
        cases.push(gather_rows(&mut numbers, dtype, rows, width));
        for y in and_f32(dtype) {
            cases.extend(scatter_add_rows(&mut numbers, [y, dtype], rows, width));
        }
    }
    cases
}

fn repeat_row(numbers: &mut Numbers, dtype: Dtype, rows: usize, width: usize) -> Case {
    let row = numbers.within(2., dtype, width);
    let same: Vec<Expected> = row.iter().map(|x| Expected::Same(*x)).collect();
    let y = Output::fresh(dtype, same.repeat(rows));
    let about = format!("{rows} x {width}");
    Case::new("repeat_row", about, [input(dtype, &row)], [y], |k, [row], [y]| k.repeat_row(y, row))
}

fn sum_rows(numbers: &mut Numbers, dtype: Dtype, rows: usize, width: usize) -> Case {
    let x = numbers.within(2., dtype, rows * width);
    let start = numbers.within(2., Dtype::F32, width);
    let expected = reference::sum_rows(&start, &x);
    let sum = Output::of(Dtype::F32, start, expected);
    let about = format!("{rows} x {width}");
    Case::new("sum_rows", about, [input(dtype, &x)], [sum], |k, [x], [sum]| k.sum_rows(sum, x))
}

fn gather_rows(numbers: &mut Numbers, dtype: Dtype, rows: usize, width: usize) -> Case {
    // There are fewer rows than indices, so most rows are gathered twice.
    let among = rows / 2 + 1;
    let x = numbers.within(2., dtype, among * width);
    let indices = numbers.below(among, rows);
    let expected = reference::gather_rows(&x, &indices, width);
    let y = Output::fresh(dtype, expected.into_iter().map(Expected::Same).collect());
    let ins = [input(dtype, &x), input(Dtype::U32, &indices)];
    let about = format!("{rows} x {width}");
    Case::new("gather_rows", about, ins, [y], move |k, [x, indices], [y]| {
        k.gather_rows(y, x, Rows { indices, width });
    })
}

/// Adds to all rows, and to windows of them that leave out rows before and after.
fn scatter_add_rows(
    numbers: &mut Numbers,
    [to, dtype]: [Dtype; 2],
    rows: usize,
    width: usize,
) -> Vec<Case> {
    let among = rows / 2 + 1;
    let mut cases = Vec::new();
    for own in [0..among, among / 3..among * 2 / 3, among..among + 2, 1..1] {
        let x = numbers.within(2., dtype, rows * width);
        let indices = numbers.below(among, rows);
        let start = numbers.within(2., to, own.len() * width);
        let first = own.start;
        let exact = reference::scatter_add_rows((&start, to), first, &x, &indices, width);
        let expected: Vec<Expected> = match to {
            Dtype::F32 => exact.into_iter().map(Expected::Same).collect(),
            // Sums may be kept in f32 until the end.
            _ => {
                let near = scattered(&start, to, first, (&x, &indices, width));
                near.into_iter().map(Expected::Near).collect()
            }
        };
        let y = Output::of(to, start, expected);
        let ins = [input(dtype, &x), input(Dtype::U32, &indices)];
        let about = format!("{rows} x {width} onto {own:?} of {among}, {to:?}");
        cases.push(Case::new("scatter_add_rows", about, ins, [y], move |k, [x, indices], [y]| {
            k.scatter_add_rows(y, first, x, Rows { indices, width });
        }));
    }
    cases
}

/// The expected sums, with the slack of rounding to `dtype` after each row.
fn scattered(
    y: &[f64],
    dtype: Dtype,
    first: usize,
    (x, rows, width): (&[f64], &[f64], usize),
) -> Vec<Near> {
    let mut y: Vec<Near> = y.iter().map(|y| Near::exact(*y)).collect();
    for (x, row) in x.chunks(width).zip(rows) {
        let Some(row) = (*row as usize).checked_sub(first) else {
            continue;
        };
        let own = y.iter_mut().skip(row * width);
        own.zip(x).for_each(|(y, x)| *y = (*y + *x).rounded(dtype));
    }
    y
}
