//! Element-wise kernels.

use super::TASK_ELEMENTS;
use super::float::{Float, convert, each, with_float};
use super::simd::{sigmoid, vectorized};
use crate::device::{Dtype, Window, WindowMut};
use crate::kernels::Onto;
use rayon::prelude::*;

/// `y = x`, rounded to the type of `y`, in parallel.
pub(super) fn copy(y: WindowMut<'_>, x: Window<'_>) {
    match (y.dtype(), x.dtype()) {
        (Dtype::F64, Dtype::F64) => each::<f64, f64>(y.host(), x.host(), |x| x),
        (Dtype::U32, Dtype::U32) => each::<u32, u32>(y.host(), x.host(), |x| x),
        (to, from) => with_float!(to, Y => with_float!(from, X => {
            convert::<Y, X>(y.host(), x.host());
        })),
    }
}

/// `y = a + b`.
pub(super) fn add<T: Float>(y: &mut [T], a: &[T], b: &[T]) {
    combine2(y, Onto::Fresh, [a, b], |a, b| a + b);
}

/// `y += x`.
pub(super) fn add_assign<T: Float>(y: &mut [T], x: &[T]) {
    assert_eq!(y.len(), x.len(), "operands of equal lengths");
    y.par_chunks_mut(TASK_ELEMENTS).zip(x.par_chunks(TASK_ELEMENTS)).for_each(|(y, x)| {
        vectorized(|| y.iter_mut().zip(x).for_each(|(y, x)| *y = T::round(y.widen() + x.widen())));
    });
}

/// `y = silu(gate) up`.
pub(super) fn swiglu<T: Float>(y: &mut [T], gate: &[T], up: &[T]) {
    combine2(y, Onto::Fresh, [gate, up], |g, u| g * sigmoid(g) * u);
}

/// With s = sigmoid(gate): `dgate = dy up s (1 + gate (1 - s))`.
pub(super) fn swiglu_gate<T: Float>(dgate: &mut [T], onto: Onto, dy_gate_up: [&[T]; 3]) {
    combine3(dgate, onto, dy_gate_up, |dy, g, up| {
        let s = sigmoid(g);
        dy * up * (s * (1. + g * (1. - s)))
    });
}

/// `dup = dy silu(gate)`.
pub(super) fn swiglu_up<T: Float>(dup: &mut [T], onto: Onto, dy_gate: [&[T]; 2]) {
    combine2(dup, onto, dy_gate, |dy, g| dy * (g * sigmoid(g)));
}

// One function for any number of operands would not be vectorized: only nested `zip`s are, and their type depends on
// how many there are.

/// `y = f(a, b)` or `y += f(a, b)`, element by element, in parallel.
fn combine2<T: Float>(
    y: &mut [T],
    onto: Onto,
    [a, b]: [&[T]; 2],
    f: impl Fn(f32, f32) -> f32 + Sync,
) {
    assert_eq!([a.len(), b.len()], [y.len(); 2], "operands of equal lengths");
    let n = TASK_ELEMENTS;
    let operands = a.par_chunks(n).zip(b.par_chunks(n));
    y.par_chunks_mut(n).zip(operands).for_each(|(y, (a, b))| {
        vectorized(|| {
            let each = y.iter_mut().zip(a).zip(b);
            let each = each.map(|((y, a), b)| (y, f(a.widen(), b.widen())));
            match onto {
                Onto::Fresh => each.for_each(|(y, x)| *y = T::round(x)),
                Onto::Sum => each.for_each(|(y, x)| *y = T::round(y.widen() + x)),
            }
        });
    });
}

/// `y = f(a, b, c)` or `y += f(a, b, c)`, element by element, in parallel.
fn combine3<T: Float>(
    y: &mut [T],
    onto: Onto,
    [a, b, c]: [&[T]; 3],
    f: impl Fn(f32, f32, f32) -> f32 + Sync,
) {
    assert_eq!([a.len(), b.len(), c.len()], [y.len(); 3], "operands of equal lengths");
    let n = TASK_ELEMENTS;
    let operands = a.par_chunks(n).zip(b.par_chunks(n)).zip(c.par_chunks(n));
    y.par_chunks_mut(n).zip(operands).for_each(|(y, ((a, b), c))| {
        vectorized(|| {
            let each = y.iter_mut().zip(a).zip(b).zip(c);
            let each = each.map(|(((y, a), b), c)| (y, f(a.widen(), b.widen(), c.widen())));
            match onto {
                Onto::Fresh => each.for_each(|(y, x)| *y = T::round(x)),
                Onto::Sum => each.for_each(|(y, x)| *y = T::round(y.widen() + x)),
            }
        });
    });
}
