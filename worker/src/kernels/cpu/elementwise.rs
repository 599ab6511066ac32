//! Element-wise kernels.

use super::TASK_ELEMENTS;
use super::simd::{sigmoid, vectorized};
use crate::device::{Dtype, Element, Window, WindowMut};
use crate::kernels::Onto;
use half::bf16;
use rayon::prelude::*;

/// `y = x`, converted to the type of `y`, in parallel.
pub(super) fn copy(y: WindowMut<'_>, x: Window<'_>) {
    match (y.dtype(), x.dtype()) {
        (Dtype::F32, Dtype::F32) => each::<f32, f32>(y, x, |x| x),
        (Dtype::F32, Dtype::Bf16) => each::<f32, bf16>(y, x, bf16::to_f32),
        (Dtype::Bf16, Dtype::F32) => each::<bf16, f32>(y, x, bf16::from_f32),
        (Dtype::Bf16, Dtype::Bf16) => each::<bf16, bf16>(y, x, |x| x),
        (Dtype::F64, Dtype::F64) => each::<f64, f64>(y, x, |x| x),
        (Dtype::U32, Dtype::U32) => each::<u32, u32>(y, x, |x| x),
        (to, from) => panic!("no copy from {from:?} to {to:?}"),
    }
}

fn each<Y: Element, X: Element>(y: WindowMut<'_>, x: Window<'_>, f: impl Fn(X) -> Y + Sync) {
    let (y, x) = (y.host::<Y>(), x.host::<X>());
    assert_eq!(y.len(), x.len(), "a copy of equal lengths");
    y.par_chunks_mut(TASK_ELEMENTS)
        .zip(x.par_chunks(TASK_ELEMENTS))
        .for_each(|(y, x)| vectorized(|| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x))));
}

/// `y = a + b`.
pub(super) fn add(y: &mut [f32], a: &[f32], b: &[f32]) {
    combine(y, Onto::Fresh, [a, b], |[a, b]| a + b);
}

/// `y += x`.
pub(super) fn add_assign(y: &mut [f32], x: &[f32]) {
    combine(y, Onto::Sum, [x], |[x]| x);
}

/// `y = silu(gate) up`.
pub(super) fn swiglu(y: &mut [f32], gate: &[f32], up: &[f32]) {
    combine(y, Onto::Fresh, [gate, up], |[g, u]| g * sigmoid(g) * u);
}

/// With s = sigmoid(gate): `dgate = dy up s (1 + gate (1 - s))`.
pub(super) fn swiglu_gate(dgate: &mut [f32], onto: Onto, dy_gate_up: [&[f32]; 3]) {
    combine(dgate, onto, dy_gate_up, |[dy, g, up]| {
        let s = sigmoid(g);
        dy * up * (s * (1. + g * (1. - s)))
    });
}

/// `dup = dy silu(gate)`.
pub(super) fn swiglu_up(dup: &mut [f32], onto: Onto, dy_gate: [&[f32]; 2]) {
    combine(dup, onto, dy_gate, |[dy, g]| dy * (g * sigmoid(g)));
}

/// `y = f(xs)` or `y += f(xs)`, element by element, in parallel.
fn combine<const N: usize>(
    y: &mut [f32],
    onto: Onto,
    xs: [&[f32]; N],
    f: impl Fn([f32; N]) -> f32 + Sync,
) {
    assert!(xs.iter().all(|x| x.len() == y.len()), "operands of equal lengths");
    y.par_chunks_mut(TASK_ELEMENTS).enumerate().for_each(|(task, y)| {
        let start = task * TASK_ELEMENTS;
        let xs = xs.map(|x| &x[start..start + y.len()]);
        vectorized(|| match onto {
            Onto::Fresh => (0..y.len()).for_each(|i| y[i] = f(xs.map(|x| x[i]))),
            Onto::Sum => (0..y.len()).for_each(|i| y[i] += f(xs.map(|x| x[i]))),
        });
    });
}
