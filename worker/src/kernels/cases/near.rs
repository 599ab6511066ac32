//! A number with the distance from it that an f32 computation may have.
//!
//! References compute on pairs of an f64 value and a slack. Every operation adds the error that f32 arithmetic may
//! make in it, and propagates the slack of its operands (running error analysis: Higham, Accuracy and Stability of
//! Numerical Algorithms, 2002, section 3.3). No case therefore needs its own tolerance: a sum of n terms gets `n u
//! sum|terms|`, whatever its order, and if terms cancel, the slack stays as large as they were.

use super::numbers::roundoff;
use crate::device::Dtype;
use std::ops::{Add, Div, Mul, Sub};

/// Relative error allowed per operation: twice the unit roundoff of f32. The second half allows for products of
/// errors, and for formulas that round in other places than the reference.
const LOSS: f64 = f32::EPSILON as f64;
/// Absolute error allowed per operation, for results that underflow or arguments that are clamped to prevent it.
const UNDERFLOW: f64 = 4. * f32::MIN_POSITIVE as f64;

/// Errors in long sums cancel: n of them add up to about `sqrt(n)`, and almost never to more than this many times
/// that (Higham and Mary 2019). Without this limit, a sum of ten thousand terms could lose one of them unnoticed.
const DEVIATIONS: f64 = 8.;

/// A number that was computed from exact numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Near {
    pub(super) value: f64,
    /// How far an f32 result may be from `value`.
    pub(super) slack: f64,
}

impl Near {
    /// An exact number, such as an input.
    pub(super) fn exact(value: f64) -> Self {
        Self { value, slack: 0. }
    }

    fn loses(self, operations: f64) -> Self {
        let lost = operations * LOSS * self.value.abs() + UNDERFLOW;
        Self { slack: self.slack + lost, ..self }
    }

    /// The number after it may have been stored as `dtype`.
    pub(super) fn rounded(self, dtype: Dtype) -> Self {
        let lost = roundoff(dtype) * (self.value.abs() + self.slack);
        Self { slack: self.slack + lost, ..self }
    }

    /// Adds a number in f64, without loss.
    pub(super) fn shifted(self, by: f64) -> Self {
        Self { value: self.value + by, ..self }
    }

    /// The exponential, computed by a few instructions or as a power of 2. The product with `log2(e)` has an error
    /// proportional to the argument.
    pub(super) fn exp(self) -> Self {
        let value = self.value.exp();
        let slack = value * self.slack.exp_m1();
        Self { value, slack }.loses(4. + self.value.abs())
    }

    /// The logarithm of a number above 0.
    pub(super) fn ln(self) -> Self {
        let value = self.value.ln();
        let slack = value - (self.value - self.slack).ln();
        Self { value, slack: slack + LOSS }.loses(4.)
    }

    pub(super) fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        let slack = value - (self.value - self.slack).max(0.).sqrt();
        let above = (self.value + self.slack).sqrt() - value;
        Self { value, slack: slack.max(above) }.loses(2.)
    }

    /// The sum of `terms` in any order.
    pub(super) fn sum(terms: impl IntoIterator<Item = Near>) -> Self {
        let mut sum = Sum::default();
        terms.into_iter().for_each(|term| sum.push(term));
        sum.near()
    }
}

/// A sum that is computed term by term.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    value: f64,
    slack: f64,
    magnitude: f64,
    terms: usize,
}

impl Sum {
    pub(super) fn push(&mut self, term: Near) {
        self.value += term.value;
        self.slack += term.slack;
        self.magnitude += term.value.abs();
        self.terms += 1;
    }

    pub(super) fn near(self) -> Near {
        let terms = self.terms as f64;
        let lost = terms.min(DEVIATIONS * terms.sqrt()) * LOSS * self.magnitude + UNDERFLOW;
        Near { value: self.value, slack: self.slack + lost }
    }
}

impl From<f64> for Near {
    fn from(value: f64) -> Self {
        Self::exact(value)
    }
}

impl<R: Into<Near>> Add<R> for Near {
    type Output = Self;

    fn add(self, other: R) -> Self {
        let other = other.into();
        Self { value: self.value + other.value, slack: self.slack + other.slack }.loses(1.)
    }
}

impl<R: Into<Near>> Sub<R> for Near {
    type Output = Self;

    fn sub(self, other: R) -> Self {
        let other = other.into();
        Self { value: self.value - other.value, slack: self.slack + other.slack }.loses(1.)
    }
}

impl<R: Into<Near>> Mul<R> for Near {
    type Output = Self;

    fn mul(self, other: R) -> Self {
        let other = other.into();
        let slack = self.value.abs() * other.slack + self.slack * (other.value.abs() + other.slack);
        Self { value: self.value * other.value, slack }.loses(1.)
    }
}

impl<R: Into<Near>> Div<R> for Near {
    type Output = Self;

    fn div(self, other: R) -> Self {
        let other = other.into();
        let value = self.value / other.value;
        let least = other.value.abs() - other.slack;
        assert!(least > 0., "a divisor of {other:?}");
        Self { value, slack: (self.slack + value.abs() * other.slack) / least }.loses(1.)
    }
}
