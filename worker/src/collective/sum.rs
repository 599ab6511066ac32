//! PURE: how the elements of buckets are added, for every type in which buckets are summed.
//!
//! Each addition of bf16 is made in f32 and rounded to the nearest bf16, or to the even one of two, as in NCCL's rings.

use crate::device::{Dtype, Element};
use half::bf16;

/// A type of which sums over ranks are taken.
pub(super) trait Addend: Element {
    /// The sum of two values, rounded once.
    fn plus(self, other: Self) -> Self;
}

impl Addend for f32 {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }
}

impl Addend for f64 {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }
}

impl Addend for bf16 {
    /// As `self + other`, but without a branch for NaN, so that a loop of additions is vectorized.
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        let widen = |x: Self| f32::from_bits(u32::from(x.to_bits()) << 16);
        Self::from_f32(widen(self) + widen(other))
    }
}

/// Adds `addends` to `sums`, element by element.
pub(super) fn add<T: Addend>(sums: &mut [T], addends: &[T]) {
    sums.iter_mut().zip(addends).for_each(|(sum, addend)| *sum = sum.plus(*addend));
}

/// The same for the bytes of elements of a bucket.
///
/// # Panics
/// If buckets are not summed in this type, or the bytes are not those of whole and aligned elements.
pub(super) fn add_bytes(dtype: Dtype, sums: &mut [u8], addends: &[u8]) {
    fn cast_and_add<T: Addend>(sums: &mut [u8], addends: &[u8]) {
        add::<T>(bytemuck::cast_slice_mut(sums), bytemuck::cast_slice(addends));
    }
    match dtype {
        Dtype::F32 => cast_and_add::<f32>(sums, addends),
        Dtype::Bf16 => cast_and_add::<bf16>(sums, addends),
        Dtype::F64 | Dtype::U32 => panic!("{}", not_summed(dtype)),
    }
}

/// Why a bucket of this type is a bug of the caller.
pub(super) fn not_summed(dtype: Dtype) -> String {
    format!("buckets are summed in f32 or bf16, not in {dtype}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_bf16_is_that_of_the_half_crate() {
        let all = || (0..=u16::MAX).map(bf16::from_bits);
        for other in [0x0000, 0x8000, 0x0001, 0x3f80, 0xbf81, 0x7f7f, 0xff80, 0x7fc0] {
            let other = bf16::from_bits(other);
            let mut sums: Vec<bf16> = all().collect();
            let addends = vec![other; sums.len()];
            add(&mut sums, &addends);
            for (x, sum) in all().zip(sums) {
                let right = x + other;
                assert!(sum.to_bits() == right.to_bits() || sum.is_nan() && right.is_nan(), "{x}");
            }
        }
    }
}
