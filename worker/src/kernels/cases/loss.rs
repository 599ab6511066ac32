//! Cases of the cross-entropy of logits.

use super::case::{Case, Expected, Output, input};
use super::numbers::Numbers;
use super::reference;
use crate::device::Dtype;

/// Numbers of rows and of tokens in the vocabulary: none, one, partial vectors, several tasks.
const SHAPES: [[usize; 2]; 9] =
    [[0, 5], [1, 1], [3, 1], [1, 17], [5, 16], [70, 33], [3, 1000], [40, 999], [2, 40_003]];

pub(super) fn cases(dtype: Dtype) -> Vec<Case> {
    let mut numbers = Numbers::new(7);
    let mut cases = Vec::new();
    for shape in SHAPES {
        cases.extend(losses(&mut numbers, dtype, shape, 5.));
    }
    // Logits up to 10,000, whose exponentials are not finite.
    for shape in [[4, 7], [9, 300]] {
        cases.extend(losses(&mut numbers, dtype, shape, 1e4));
    }
    cases
}

fn losses(
    numbers: &mut Numbers,
    dtype: Dtype,
    [rows, vocabulary]: [usize; 2],
    size: f64,
) -> [Case; 2] {
    let about = format!("{rows} x {vocabulary} up to {size}");
    let logits = numbers.within(size, dtype, rows * vocabulary);
    let mut tokens = numbers.below(vocabulary, rows);
    let mut weights: Vec<f64> = numbers.within(1., Dtype::F32, rows);
    weights.iter_mut().for_each(|weight| *weight = weight.abs());
    // The first and the last token, and a target of weight 0.
    for (row, token) in [(0, 0), (1, vocabulary - 1)] {
        tokens.get_mut(row).into_iter().for_each(|own| *own = token as f64);
    }
    weights.get_mut(2).into_iter().for_each(|weight| *weight = 0.);

    let values = reference::nll(&logits, &tokens, &weights);
    let gradient = reference::nll_back(&logits, &tokens, &weights);
    let ins = || [input(Dtype::U32, &tokens), input(Dtype::F32, &weights)];
    let of = || Output::fresh(Dtype::F64, values.clone());
    let unspecified = vec![Expected::Any; logits.len()];
    let left = Output::of(dtype, logits.clone(), unspecified);
    let nll = Case::new(
        "nll",
        about.clone(),
        ins(),
        [of(), left],
        |k, [tokens, weights], [losses, logits]| k.nll(losses, logits, tokens, weights),
    );
    let back = Output::of(dtype, logits, gradient);
    let nll_back = Case::new(
        "nll_back",
        about,
        ins(),
        [of(), back],
        |k, [tokens, weights], [losses, logits]| k.nll_back(losses, logits, tokens, weights),
    );
    [nll, nll_back]
}
