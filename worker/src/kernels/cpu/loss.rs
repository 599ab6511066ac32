//! Cross-entropy of rows of logits.

use super::float::Float;
use super::simd::{exponentials, vectorized};
use rayon::prelude::*;

/// A token to predict, and its weight in the loss.
type Target = (u32, f32);

/// Computes a loss from every row of `logits` with `loss`, which may modify the row.
pub(super) fn each<T: Float>(
    losses: &mut [f64],
    logits: &mut [T],
    (tokens, weights): (&[u32], &[f32]),
    loss: impl Fn(&mut [f32], Target) -> f64 + Sync,
) {
    if losses.is_empty() {
        return;
    }
    let vocabulary = logits.len() / losses.len();
    let targets = tokens.par_iter().zip(weights);
    let rows = logits.par_chunks_mut(vocabulary).zip(targets);
    losses.par_iter_mut().zip(rows).for_each(|(sum, (logits, (&token, &weight)))| {
        *sum = vectorized(|| T::in_f32(logits, |logits| loss(logits, (token, weight))));
    });
}

/// The weighted loss of one row of logits; replaces the logits with exponentials.
#[inline(always)]
pub(super) fn nll(logits: &mut [f32], target: Target) -> f64 {
    weighted(logits, target).0
}

/// The weighted loss of one row of logits; replaces the logits with its gradient: `weight (softmax - one-hot)`.
#[inline(always)]
pub(super) fn nll_gradient(logits: &mut [f32], target: Target) -> f64 {
    let (loss, sum) = weighted(logits, target);
    let (token, weight) = target;
    let factor = weight / sum;
    logits.iter_mut().for_each(|x| *x *= factor);
    logits[token as usize] -= weight;
    loss
}

/// The weighted loss, and the sum of the exponentials that replace the logits.
#[inline(always)]
fn weighted(logits: &mut [f32], (token, weight): Target) -> (f64, f32) {
    let own = logits[token as usize];
    let all = 0..logits.len();
    let (largest, sum) = exponentials(logits, all);
    let nll = f64::from(sum).ln() + f64::from(largest) - f64::from(own);
    (f64::from(weight) * nll, sum)
}
