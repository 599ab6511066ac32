//! A number, and how far from it an f32 computation may end.
//!
//! References compute on pairs of an f64 value and a slack. Every operation adds what f32 arithmetic may lose
//! in it, and passes on the slack of its operands (running error analysis: Higham, Accuracy and Stability of
//! Numerical Algorithms, 2002, section 3.3). So no case has a tolerance of its own: a sum of n terms gets
//! `n u sum|terms|`, whatever its order, and where terms cancel, the slack stays as large as they were.

use super::numbers::roundoff;
use crate::device::Dtype;
use std::ops::{Add, Div, Mul, Sub};

/// What one operation may lose, relative to its result: twice the unit roundoff of f32. The second half is
/// for products of errors, and for forms that round in another place than the reference.
const LOSS: f64 = f32::EPSILON as f64;
/// What it may lose where results underflow, or arguments are clamped so that they do not.
const UNDERFLOW: f64 = 4. * f32::MIN_POSITIVE as f64;

/// Errors of long sums cancel: n of them end up about `sqrt(n)` from 0, and almost never further than this
/// many times that (Higham and Mary 2019). Without this, a sum of ten thousand could lose a term unnoticed.
const DEVIATIONS: f64 = 8.;

/// A number that was computed from exact ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Near {
    pub(super) value: f64,
    /// How far from it an f32 computation may end.
    pub(super) slack: f64,
}

impl Near {
    /// A number that is given.
    pub(super) fn exact(value: f64) -> Self {
        Self { value, slack: 0. }
    }

    fn loses(self, operations: f64) -> Self {
        let lost = operations * LOSS * self.value.abs() + UNDERFLOW;
        Self { slack: self.slack + lost, ..self }
    }

    /// Perhaps stored as `dtype` before it is used.
    pub(super) fn rounded(self, dtype: Dtype) -> Self {
        let lost = roundoff(dtype) * (self.value.abs() + self.slack);
        Self { slack: self.slack + lost, ..self }
    }

    /// Adds a number in f64, which loses nothing.
    pub(super) fn shifted(self, by: f64) -> Self {
        Self { value: self.value + by, ..self }
    }

    /// By a few instructions, or as a power of 2: a product with `log2(e)` is off by a part of the argument.
    pub(super) fn exp(self) -> Self {
        let value = self.value.exp();
        let slack = value * self.slack.exp_m1();
        Self { value, slack }.loses(4. + self.value.abs())
    }

    /// Of a number above 0.
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

    /// In any order.
    pub(super) fn sum(terms: impl IntoIterator<Item = Near>) -> Self {
        let mut sum = Sum::default();
        terms.into_iter().for_each(|term| sum.push(term));
        sum.near()
    }
}

/// A sum of which the terms come one by one.
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
