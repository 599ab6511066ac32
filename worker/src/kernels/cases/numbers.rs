//! The inputs of cases, which are the same in every run, and how they are rounded.

use crate::device::Dtype;
use half::bf16;

/// A random number generator (SplitMix64: Steele, Lea and Flood 2014).
pub(super) struct Numbers(u64);

impl Numbers {
    /// A generator with this seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = self.0;
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Numbers between `-size` and `size`, each representable in `dtype`.
    pub(super) fn within(&mut self, size: f64, dtype: Dtype, len: usize) -> Vec<f64> {
        let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
        (0..len).map(|_| rounded((2. * unit(self.next()) - 1.) * size, dtype)).collect()
    }

    /// Whole numbers below `end`.
    pub(super) fn below(&mut self, end: usize, len: usize) -> Vec<f64> {
        (0..len).map(|_| (self.next() % end as u64) as f64).collect()
    }
}

/// The number of `dtype` that is nearest to `x`.
pub(super) fn rounded(x: f64, dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => f64::from(x as f32),
        // `bf16::from_f64` looks at only half of the bits, and takes a number just above a tie for a tie.
        Dtype::Bf16 => bf16::from_f32(x as f32).to_f64(),
        Dtype::F64 => x,
        Dtype::U32 => f64::from(x as u32),
    }
}

/// The unit roundoff: the largest relative distance from a number to the nearest number of `dtype`.
pub(super) fn roundoff(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => f64::from(f32::EPSILON) / 2.,
        Dtype::Bf16 => bf16::EPSILON.to_f64() / 2.,
        Dtype::F64 => f64::EPSILON / 2.,
        Dtype::U32 => 0.,
    }
}
