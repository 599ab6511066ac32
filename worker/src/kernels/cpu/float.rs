//! The types of activations, for kernels that are written once for all of them.
//!
//! Kernels compute in f32. A bf16 element is widened when it is loaded, which is exact, and a result is rounded once,
//! when it is stored.

use super::TASK_ELEMENTS;
use super::simd::{LANES, vectorized};
use crate::device::{Element, give, take};
use half::bf16;
use rayon::prelude::*;

/// A type of activations and operands.
pub(super) trait Float: Element {
    /// The element as f32.
    fn widen(self) -> f32;

    /// The nearest element; the one with an even last bit if two are equally near.
    fn round(x: f32) -> Self;

    /// Calls `f` with the elements as f32, which it may change; rounds them once afterwards.
    fn in_f32<R>(x: &mut [Self], f: impl FnOnce(&mut [f32]) -> R) -> R;
}

impl Float for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn round(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn in_f32<R>(x: &mut [Self], f: impl FnOnce(&mut [f32]) -> R) -> R {
        f(x)
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// As [`bf16::from_f32`], but without branches.
    #[inline(always)]
    fn round(x: f32) -> Self {
        let bits = x.to_bits();
        let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let nan = bits >> 16 | 0x40;
        let bits = if x.is_nan() { nan } else { nearest };
        Self::from_bits(bits as u16)
    }

    #[inline(always)]
    fn in_f32<R>(x: &mut [Self], f: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut wide = take::<f32>(x.len());
        convert(&mut wide, x);
        let result = f(&mut wide);
        convert(x, &wide);
        give(wide);
        result
    }
}

/// `y = x`, rounded to the type of `y`, in parallel.
pub(super) fn convert<Y: Float, X: Float>(y: &mut [Y], x: &[X]) {
    each(y, x, |x| Y::round(x.widen()));
}

/// `y = f(x)`, element by element, in parallel.
pub(super) fn each<Y: Element, X: Element>(y: &mut [Y], x: &[X], f: impl Fn(X) -> Y + Sync) {
    assert_eq!(y.len(), x.len(), "a copy of equal lengths");
    if y.len() <= TASK_ELEMENTS {
        // Generation copies single rows; handing them to another thread would take longer.
        return vectorized(|| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)));
    }
    y.par_chunks_mut(TASK_ELEMENTS)
        .zip(x.par_chunks(TASK_ELEMENTS))
        .for_each(|(y, x)| vectorized(|| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x))));
}

/// The scalar product of `x` and `y`.
#[inline(always)]
pub(super) fn dot<T: Float>(x: &[T], y: &[T]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (mut xs, mut ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    for (x, y) in (&mut xs).zip(&mut ys) {
        for i in 0..LANES {
            lanes[i] += x[i].widen() * y[i].widen();
        }
    }
    let rest = xs.remainder().iter().zip(ys.remainder());
    let rest: f32 = rest.map(|(x, y)| x.widen() * y.widen()).sum();
    lanes.into_iter().sum::<f32>() + rest
}

/// Evaluates an expression in which `$T` is the Rust type of `$dtype`, one of activations.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $do:expr) => {
        match $dtype {
            crate::device::Dtype::F32 => {
                type $T = f32;
                $do
            }
            crate::device::Dtype::Bf16 => {
                type $T = half::bf16;
                $do
            }
            other => panic!("no arithmetic on {other:?}"),
        }
    };
}
pub(super) use with_float;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bf16_is_widened_exactly_and_rounds_to_itself() {
        for x in (0..=u16::MAX).map(bf16::from_bits).filter(|x| !x.is_nan()) {
            assert_eq!(x.widen().to_bits(), x.to_f32().to_bits());
            assert_eq!(bf16::round(x.widen()).to_bits(), x.to_bits());
        }
        assert!(bf16::round(bf16::NAN.widen()).is_nan());
    }

    #[test]
    fn scalar_products_have_the_same_bits_on_vectors_of_every_width() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 9.).collect();
        let rounded: Vec<bf16> = x.iter().map(|x| bf16::round(*x)).collect();
        let work = || (dot(&x, &x[..999]), dot(&rounded, &rounded[..999]));
        assert_eq!(work(), vectorized(work));
    }

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        for bits in (0..u32::MAX - 99_991).step_by(99_991) {
            for near in [bits, bits | 0x7fff, bits & !0xffff | 0x8000, bits & !0xffff | 0x8001] {
                let x = f32::from_bits(near);
                assert_eq!(bf16::round(x).to_bits(), bf16::from_f32(x).to_bits(), "{near:x}");
            }
        }
    }
}
