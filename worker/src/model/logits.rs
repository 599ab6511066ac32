//! Operations on a row of logits in host memory: argmax and log-softmax.

use crate::kernels::cpu::{exp, max, vectorized};

/// The index of the largest element, the first if several are equal; `None` if the row is empty or contains a NaN.
pub(super) fn argmax(logits: &[f32]) -> Option<usize> {
    let largest = max(logits);
    if logits.iter().any(|x| x.is_nan()) {
        return None;
    }
    logits.iter().position(|&x| x == largest)
}

/// Turns logits into log-probabilities, in place.
pub(super) fn log_softmax(logits: &mut [f32]) {
    vectorized(|| {
        let largest = max(logits);
        let sum: f64 = logits.iter().map(|&x| f64::from(exp(x - largest))).sum();
        let log_sum = sum.ln() as f32;
        // Subtract the largest logit first: its magnitude must not round the log-sum away.
        logits.iter_mut().for_each(|x| *x = (*x - largest) - log_sum);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_is_the_first_of_the_largest_and_refuses_nan() {
        assert_eq!(argmax(&[1., 3., 3., -1.]), Some(1));
        assert_eq!(argmax(&[1., f32::NAN]), None);
        assert_eq!(argmax(&[]), None);
    }

    #[test]
    fn log_softmax_sums_to_one() {
        let mut x = [1000., 1001., 999.];
        log_softmax(&mut x);
        let sum: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
        assert!((sum - 1.).abs() < 1e-6, "{sum}");
        assert!((x[1] - x[0] - 1.).abs() < 1e-4);
    }
}
