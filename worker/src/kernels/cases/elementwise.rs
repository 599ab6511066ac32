//! Cases of element-wise kernels.

use super::case::{Case, Expected, Output, input};
use super::numbers::{Numbers, rounded};
use super::reference;
use crate::device::Dtype;
use crate::kernels::{Onto, Out};

/// Numbers of elements: none, one, partial vectors, and more than two tasks.
const LENGTHS: [usize; 6] = [0, 1, 15, 64, 1000, 70_001];

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let mut numbers = Numbers::new(1);
    let mut cases = Vec::new();
    for len in LENGTHS {
        cases.extend(clear(dtype, len));
        cases.extend(copy(&mut numbers, dtype, len));
        cases.extend(add(&mut numbers, dtype, len));
        for size in [4., 200., 1e4] {
            cases.extend(swiglu(&mut numbers, dtype, len, size));
        }
    }
    cases.push(copy_of_extremes(dtype));
    cases.push(copy_of_nans(dtype));
    cases
}

/// The type of activations, and f32 (that of parameter gradients) if it differs.
pub(super) fn and_f32(dtype: Dtype) -> Vec<Dtype> {
    if dtype == Dtype::F32 { vec![dtype] } else { vec![dtype, Dtype::F32] }
}

fn clear(dtype: Dtype, len: usize) -> Vec<Case> {
    let of = |dtype| {
        let y = Output::fresh(dtype, vec![Expected::Same(0.); len]);
        Case::new("clear", format!("{len} {dtype:?}"), [], [y], |k, [], [y]| k.clear(y))
    };
    and_f32(dtype).into_iter().map(of).collect()
}

fn copy(numbers: &mut Numbers, dtype: Dtype, len: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for from in and_f32(dtype) {
        for to in and_f32(dtype) {
            let x = numbers.within(3., from, len);
            let same = x.iter().map(|x| Expected::Same(rounded(*x, to))).collect();
            let (x, y) = (input(from, &x), Output::fresh(to, same));
            let about = format!("{len} {from:?} to {to:?}");
            cases.push(Case::new("copy", about, [x], [y], |k, [x], [y]| k.copy(y, x)));
        }
    }
    cases
}

/// Numbers that the type of `y` may not represent: halfway between two of its numbers, too small, or too large.
fn copy_of_extremes(dtype: Dtype) -> Case {
    let halfway = 1. + 2f64.powi(-8);
    let x = [
        halfway,
        halfway + 2f64.powi(-7),
        -halfway - 2f64.powi(-20),
        f64::from(f32::MAX),
        f64::from(f32::MIN_POSITIVE),
        f64::from(f32::from_bits(1)),
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let same = x.iter().map(|x| Expected::Same(rounded(*x, dtype))).collect();
    let (x, y) = (input(Dtype::F32, &x), Output::fresh(dtype, same));
    Case::new("copy", "extremes", [x], [y], |k, [x], [y]| k.copy(y, x))
}

/// NaNs stay NaNs, also those from which rounding would carry into the exponent or the sign.
fn copy_of_nans(dtype: Dtype) -> Case {
    let bits = [0x7fc0_0000, 0xffc0_0000, 0x7fff_ffff, 0xffff_ffff];
    let x = bits.map(|bits| f64::from(f32::from_bits(bits)));
    let (x, y) = (input(Dtype::F32, &x), Output::fresh(dtype, vec![Expected::Nan; bits.len()]));
    Case::new("copy", "NaNs", [x], [y], |k, [x], [y]| k.copy(y, x))
}

fn add(numbers: &mut Numbers, dtype: Dtype, len: usize) -> [Case; 2] {
    let [a, b] = [3., 5.].map(|size| numbers.within(size, dtype, len));
    let sum = reference::add(&a, &b);
    let ins = [input(dtype, &a), input(dtype, &b)];
    let y = Output::fresh(dtype, sum.clone());
    let about = len.to_string();
    let add = Case::new("add", about.clone(), ins, [y], |k, [a, b], [y]| k.add(y, a, b));
    let (y, x) = (Output::of(dtype, a, sum), input(dtype, &b));
    [add, Case::new("add_assign", about, [x], [y], |k, [x], [y]| k.add_assign(y, x))]
}

/// SwiGLU and its gradients, with gates up to `size`.
fn swiglu(numbers: &mut Numbers, dtype: Dtype, len: usize, size: f64) -> Vec<Case> {
    let about = format!("{len} up to {size}");
    let gate = numbers.within(size, dtype, len);
    let [up, dy] = [(); 2].map(|()| numbers.within(2., dtype, len));
    let y = Output::fresh(dtype, reference::swiglu(&gate, &up));
    let ins = [input(dtype, &gate), input(dtype, &up)];
    let run = Case::new("swiglu", about.clone(), ins, [y], |k, [gate, up], [y]| {
        k.swiglu(y, gate, up);
    });
    let mut cases = vec![run];
    for onto in [Onto::Fresh, Onto::Sum] {
        let about = format!("{about}, {onto:?}");
        let result = reference::swiglu_gate_back(&dy, &gate, &up);
        let dx = Output::onto(dtype, onto, numbers, &result);
        let ins = [&dy, &gate, &up].map(|x| input(dtype, x));
        cases.push(Case::new(
            "swiglu_gate_back",
            about.clone(),
            ins,
            [dx],
            move |k, [dy, gate, up], [to]| k.swiglu_gate_back(Out { to, onto }, dy, gate, up),
        ));
        let result = reference::swiglu_up_back(&dy, &gate);
        let dx = Output::onto(dtype, onto, numbers, &result);
        let ins = [&dy, &gate].map(|x| input(dtype, x));
        cases.push(Case::new("swiglu_up_back", about, ins, [dx], move |k, [dy, gate], [to]| {
            k.swiglu_up_back(Out { to, onto }, dy, gate);
        }));
    }
    cases
}
