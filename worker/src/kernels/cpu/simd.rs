//! Loops that the compiler vectorizes for the features of this CPU.
//!
//! The binary is built for baseline x86-64; [`vectorized`] also compiles its loop for AVX2 and AVX-512 and chooses at
//! run time. No loop uses fused multiply-add and every sum runs in [`LANES`] fixed lanes, so all variants give the
//! same bits.

#![allow(unsafe_code)] // Calls code compiled for CPU features that were detected before.

/// Number of partial sums in a reduction, the same on every CPU.
pub(crate) const LANES: usize = 16;

/// Runs `f`, compiled for the widest vectors that this CPU supports.
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the CPU has the features that the function is compiled for.
            return unsafe { with_avx512(f) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { with_avx2(f) };
        }
    }
    f()
}

/// A loop that is surely compiled for the features of this CPU, while a closure is not always inlined. It may use
/// [`f32::mul_add`], which is one instruction on all but the oldest CPUs and has the same bits on every one.
///
/// `run` must be `#[inline(always)]`: compiled by itself, it calls a function for each `mul_add`.
pub(super) trait Loop {
    /// Runs it.
    fn run(self);
}

/// Runs a loop, compiled for the widest vectors that this CPU supports.
pub(super) fn run(body: impl Loop) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the CPU has the features that the function is compiled for.
            return unsafe { run_with_avx512(body) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { run_with_avx2(body) };
        }
    }
    body.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
fn run_with_avx512(body: impl Loop) {
    body.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_with_avx2(body: impl Loop) {
    body.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
fn with_avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// `e^x` within 2 units in the last place for x in [-87, 88], and clamped outside; branch-free.
///
/// Source: Cephes `expf` (range reduction by multiples of ln 2, polynomial of degree 6).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding this constant leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87. { -87. } else { x };
    let x = if x > 88. { 88. } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.;
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1. / (1. + exp(-x))
}

/// Folds the elements into [`LANES`] lanes: element i goes into lane i mod LANES.
#[inline(always)]
fn lanes<A: Copy>(start: A, x: &[f32], f: impl Fn(A, f32) -> A) -> [A; LANES] {
    let mut lanes = [start; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = f(*lane, x);
    }
    lanes
}

/// The largest element; `-inf` if there is none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    lanes(f32::NEG_INFINITY, x, larger).into_iter().fold(f32::NEG_INFINITY, larger)
}

/// The sum of `f(x)` over the elements, in f64.
#[inline(always)]
pub(crate) fn sum_f64(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    lanes(0f64, x, |sum, x| sum + f(f64::from(x))).into_iter().sum()
}

/// Replaces the `visible` scores with the exponentials of their differences from the largest, and the others with
/// zeros; returns the largest score and the sum of the exponentials.
#[inline(always)]
pub(crate) fn exponentials(scores: &mut [f32], visible: std::ops::Range<usize>) -> (f32, f32) {
    scores[..visible.start].fill(0.);
    scores[visible.end..].fill(0.);
    let scores = &mut scores[visible];
    let largest = max(scores);
    let mut sums = [0f32; LANES];
    let mut chunks = scores.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exp(*x - largest);
            *sum += *x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(chunks.into_remainder()) {
        *x = exp(*x - largest);
        *sum += *x;
    }
    (largest, sums.into_iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let (got, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got - expected).abs() <= 2.4e-7 * expected, "{x}: {got} {expected}");
        }
    }

    #[test]
    fn exp_of_negative_infinity_is_almost_zero_and_nan_stays_nan() {
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn vectors_of_every_width_give_the_same_bits() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 9.).collect();
        let body = || {
            let mut y = x.clone();
            let (largest, sum) = exponentials(&mut y, 3..997);
            (largest, sum, sum_f64(&y, |y| y * y), y)
        };
        assert_eq!(body(), vectorized(body));
    }
}
