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
    if y.len() <= TASK_ELEMENTS {
        // Generation copies single rows; handing them to another thread would take longer.
        return y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x));
    }
    y.par_chunks_mut(TASK_ELEMENTS)
        .zip(x.par_chunks(TASK_ELEMENTS))
        .for_each(|(y, x)| vectorized(|| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x))));
}

/// `y = a + b`.
pub(super) fn add(y: &mut [f32], a: &[f32], b: &[f32]) {
    combine2(y, Onto::Fresh, [a, b], |a, b| a + b);
}

/// `y += x`.
pub(super) fn add_assign(y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "operands of equal lengths");
    y.par_chunks_mut(TASK_ELEMENTS)
        .zip(x.par_chunks(TASK_ELEMENTS))
        .for_each(|(y, x)| vectorized(|| y.iter_mut().zip(x).for_each(|(y, x)| *y += x)));
}

/// `y = silu(gate) up`.
pub(super) fn swiglu(y: &mut [f32], gate: &[f32], up: &[f32]) {
    combine2(y, Onto::Fresh, [gate, up], |g, u| g * sigmoid(g) * u);
}

/// With s = sigmoid(gate): `dgate = dy up s (1 + gate (1 - s))`.
pub(super) fn swiglu_gate(dgate: &mut [f32], onto: Onto, dy_gate_up: [&[f32]; 3]) {
    combine3(dgate, onto, dy_gate_up, |dy, g, up| {
        let s = sigmoid(g);
        dy * up * (s * (1. + g * (1. - s)))
    });
}

/// `dup = dy silu(gate)`.
pub(super) fn swiglu_up(dup: &mut [f32], onto: Onto, dy_gate: [&[f32]; 2]) {
    combine2(dup, onto, dy_gate, |dy, g| dy * (g * sigmoid(g)));
}

// One function for any number of operands would not be vectorized: only nested `zip`s are, and their type depends on
// how many there are.

/// `y = f(a, b)` or `y += f(a, b)`, element by element, in parallel.
fn combine2(y: &mut [f32], onto: Onto, [a, b]: [&[f32]; 2], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!([a.len(), b.len()], [y.len(); 2], "operands of equal lengths");
    let n = TASK_ELEMENTS;
    let operands = a.par_chunks(n).zip(b.par_chunks(n));
    y.par_chunks_mut(n).zip(operands).for_each(|(y, (a, b))| {
        vectorized(|| {
            let each = y.iter_mut().zip(a).zip(b);
            match onto {
                Onto::Fresh => each.for_each(|((y, &a), &b)| *y = f(a, b)),
                Onto::Sum => each.for_each(|((y, &a), &b)| *y += f(a, b)),
            }
        });
    });
}

/// `y = f(a, b, c)` or `y += f(a, b, c)`, element by element, in parallel.
fn combine3(
    y: &mut [f32],
    onto: Onto,
    [a, b, c]: [&[f32]; 3],
    f: impl Fn(f32, f32, f32) -> f32 + Sync,
) {
    assert_eq!([a.len(), b.len(), c.len()], [y.len(); 3], "operands of equal lengths");
    let n = TASK_ELEMENTS;
    let operands = a.par_chunks(n).zip(b.par_chunks(n)).zip(c.par_chunks(n));
    y.par_chunks_mut(n).zip(operands).for_each(|(y, ((a, b), c))| {
        vectorized(|| {
            let each = y.iter_mut().zip(a).zip(b).zip(c);
            match onto {
                Onto::Fresh => each.for_each(|(((y, &a), &b), &c)| *y = f(a, b, c)),
                Onto::Sum => each.for_each(|(((y, &a), &b), &c)| *y += f(a, b, c)),
            }
        });
    });
}
