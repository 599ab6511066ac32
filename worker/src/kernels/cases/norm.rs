//! Cases of RMSNorm.

use super::case::{Case, Output, input};
use super::numbers::{Numbers, rounded};
use super::reference;
use crate::device::Dtype;
use crate::kernels::{Norm, Onto, Out};

/// Numbers of groups and elements per group: none, one, partial vectors, several blocks of a sum, several tasks.
const SHAPES: [[usize; 2]; 9] =
    [[0, 8], [1, 1], [3, 1], [5, 17], [12, 64], [64, 16], [67, 100], [130, 33], [40, 1001]];

/// Magnitudes of the elements: the squares of the largest are just finite in f32, those of the smallest are 0.
const SIZES: [f64; 3] = [2., 1e17, 1e-25];

const EPS: f32 = 1e-5;

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let mut numbers = Numbers::new(4);
    let mut cases = Vec::new();
    for [groups, width] in SHAPES {
        cases.extend(norms(&mut numbers, dtype, [groups, width], &SIZES[..1]));
    }
    for shape in [[3, 17], [2, 128]] {
        cases.extend(norms(&mut numbers, dtype, shape, &SIZES[1..2]));
        cases.extend(norms(&mut numbers, dtype, shape, &SIZES[2..]));
    }
    // Adjacent groups of different magnitudes.
    cases.extend(norms(&mut numbers, dtype, [21, 20], &SIZES));
    cases
}

/// RMSNorm and its gradients; the elements of the groups have these magnitudes in turn.
fn norms(
    numbers: &mut Numbers,
    dtype: Dtype,
    [groups, width]: [usize; 2],
    sizes: &[f64],
) -> Vec<Case> {
    let about = format!("{groups} groups of {width} up to {sizes:?}");
    let group = |group: usize| numbers.within(sizes[group % sizes.len()], dtype, width);
    let x: Vec<f64> = (0..groups).flat_map(group).collect();
    let dy = numbers.within(2., dtype, groups * width);
    let offsets = numbers.within(0.5, dtype, width);
    let w: Vec<f64> = offsets.iter().map(|w| rounded(1. + w, dtype)).collect();

    let y = Output::fresh(dtype, reference::rms_norm(&x, &w, EPS));
    let ins = [&x, &w].map(|x| input(dtype, x));
    let mut cases = vec![Case::new("rms_norm", about.clone(), ins, [y], |k, [x, w], [y]| {
        k.rms_norm(y, x, Norm { w, eps: EPS });
    })];
    for onto in [Onto::Fresh, Onto::Sum] {
        let dx = reference::rms_norm_back(&dy, &x, &w, EPS);
        let dx = Output::onto(dtype, onto, numbers, &dx);
        let ins = [&dy, &x, &w].map(|x| input(dtype, x));
        let about = format!("{about}, {onto:?}");
        cases.push(Case::new("rms_norm_back", about, ins, [dx], move |k, [dy, x, w], [to]| {
            k.rms_norm_back(Out { to, onto }, dy, x, Norm { w, eps: EPS });
        }));
    }
    let start = numbers.within(2., Dtype::F32, width);
    let dw = reference::rms_norm_weight_back(&start, &dy, &x, EPS);
    let dw = Output::of(Dtype::F32, start, dw);
    let ins = [&dy, &x].map(|x| input(dtype, x));
    cases.push(Case::new("rms_norm_weight_back", about, ins, [dw], |k, [dy, x], [dw]| {
        k.rms_norm_weight_back(dw, dy, x, EPS);
    }));
    cases
}
