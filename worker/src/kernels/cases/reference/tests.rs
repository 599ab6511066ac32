//! Tests of backward references against finite differences of forward references, and of slacks against f32.

use super::attention::{Computed, attend, attend_back};
use super::*;
use crate::kernels::cases::numbers::Numbers;
use crate::kernels::{Attention, Span};

/// Central differences of `loss` with respect to each element of `x`. The truncation error is about `STEP^2`, the
/// rounding error about `1e-16 / STEP`.
fn differences(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-4;
    let at = |i: usize, by: f64| {
        let mut x = x.to_vec();
        x[i] += by;
        loss(&x)
    };
    (0..x.len()).map(|i| (at(i, STEP) - at(i, -STEP)) / (2. * STEP)).collect()
}

fn assert_gradient(name: &str, gradient: &[Near], differences: &[f64]) {
    assert_eq!(gradient.len(), differences.len());
    for (i, (gradient, difference)) in gradient.iter().zip(differences).enumerate() {
        let value = gradient.value;
        assert!((value - difference).abs() < 1e-6, "{name}[{i}]: {value} and {difference}");
    }
}

fn dot(dy: &[f64], y: &[Near]) -> f64 {
    dy.iter().zip(y).map(|(dy, y)| dy * y.value).sum()
}

fn numbers<const N: usize>(seed: u64, len: usize) -> [Vec<f64>; N] {
    let mut numbers = Numbers::new(seed);
    [(); N].map(|()| numbers.within(1.5, Dtype::F32, len))
}

#[test]
fn gradients_of_the_norm_match_finite_differences() {
    let [dy, x] = numbers(1, 15);
    let [w] = numbers(2, 5);
    let eps = 1e-2;
    let by_x = differences(&x, |x| dot(&dy, &rms_norm(x, &w, eps)));
    assert_gradient("dx", &rms_norm_back(&dy, &x, &w, eps), &by_x);
    let by_w = differences(&w, |w| dot(&dy, &rms_norm(&x, w, eps)));
    assert_gradient("dw", &rms_norm_weight_back(&[0.; 5], &dy, &x, eps), &by_w);
}

#[test]
fn gradients_of_swiglu_match_finite_differences() {
    let [dy, gate, up] = numbers(3, 20);
    let by_gate = differences(&gate, |gate| dot(&dy, &swiglu(gate, &up)));
    assert_gradient("dgate", &swiglu_gate_back(&dy, &gate, &up), &by_gate);
    let by_up = differences(&up, |up| dot(&dy, &swiglu(&gate, up)));
    assert_gradient("dup", &swiglu_up_back(&dy, &gate), &by_up);
}

#[test]
fn the_gradient_of_losses_matches_finite_differences() {
    let [logits] = numbers(4, 21);
    let (tokens, weights) = ([0., 6., 3.], [1., 0.5, 2.]);
    let ones = [1.; 3];
    let by_logits = differences(&logits, |logits| dot(&ones, &nll(logits, &tokens, &weights)));
    assert_gradient("dlogits", &nll_back(&logits, &tokens, &weights), &by_logits);
}

#[test]
fn merging_heads_is_the_transpose_of_splitting_them() {
    let (heads, head_dim, rows) = (3, 4, 5);
    let [x, y] = numbers(5, rows * heads * head_dim);
    let angles: Vec<f64> = (0..12).map(f64::from).collect();
    let cos = angles.iter().map(|angle| angle.cos()).collect();
    let sin = angles.iter().map(|angle| angle.sin()).collect();
    let tables = Tables { cos, sin, positions: vec![3., 0., 5., 5., 1.] };
    let turned = Turned { rotation: Some(tables), scale: 0.5 };
    let heads = Heads { heads, head_dim };
    let forth = dot(&y, &split_heads(&x, heads, &turned));
    let back = dot(&x, &merge_heads(&y, heads, 1, &turned));
    assert!((forth - back).abs() < 1e-12, "{forth} and {back}");
    // A rotation preserves lengths, and the scale halves them.
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    let split: Vec<f64> = split_heads(&x, heads, &turned).iter().map(|x| x.value).collect();
    assert!((length(&split) - length(&x) / 4.).abs() < 1e-12);
}

#[test]
fn gradients_of_attention_match_finite_differences() {
    let spans = [0..4, 4..5, 5..5, 5..11].map(|rows| Span { queries: rows.clone(), keys: rows });
    for window in [None, Some(3)] {
        let shape = Attention { heads: 4, kv_heads: 2, head_dim: 3, scale: 1., window };
        let [q, dy] = numbers(6, 4 * 11 * 3);
        let [k, v] = numbers(7, 2 * 11 * 3);
        let values = |x: &[Option<Near>]| x.iter().map(|x| x.map_or(0., |x| x.value)).collect();
        let loss = |qkv: [&[f64]; 3]| {
            let o: Vec<f64> = values(&attend(qkv, Dtype::F64, (&shape, &spans)).o);
            o.iter().zip(&dy).map(|(o, dy)| o * dy).sum::<f64>()
        };
        let attended = attend([&q, &k, &v], Dtype::F64, (&shape, &spans));
        let (o, log_sums): (Vec<f64>, Vec<f64>) = (values(&attended.o), values(&attended.log_sums));
        let heads = Heads { heads: 4, head_dim: 3 };
        let y: Vec<f64> =
            merge_heads(&o, heads, 1, &Turned::NONE).iter().map(|y| y.value).collect();
        let of = Computed { qkv: [&q, &k, &v], y: &y, log_sums: &log_sums };
        let [dq, dk, dv] = attend_back(&dy, of, Dtype::F64, (&shape, &spans));
        // Each head of a group contributes to the gradient of its key head.
        let grouped = |d: &[Near]| -> Vec<Near> {
            let head = |head: usize, at: usize| d[head * 33 + at];
            (0..66).map(|i| head(i / 33 * 2, i % 33) + head(i / 33 * 2 + 1, i % 33)).collect()
        };
        assert_gradient("dq", &dq, &differences(&q, |q| loss([q, &k, &v])));
        assert_gradient("dk", &grouped(&dk), &differences(&k, |k| loss([&q, k, &v])));
        assert_gradient("dv", &grouped(&dv), &differences(&v, |v| loss([&q, &k, v])));
    }
}

#[test]
fn attention_to_one_key_is_its_value() {
    let shape = Attention { heads: 1, kv_heads: 1, head_dim: 2, scale: 1., window: Some(1) };
    let spans = [Span { queries: 0..1, keys: 1..3 }];
    let attended =
        attend([&[2., 1.], &[0.; 6], &[1., 2., 3., 4., 5., 6.]], Dtype::F64, (&shape, &spans));
    let values: Vec<f64> = attended.o.iter().map(|o| o.map_or(0., |o| o.value)).collect();
    assert_eq!(values, [5., 6.]);
}

#[test]
fn slacks_are_wide_enough_for_f32_but_not_much_wider() {
    let [a, b] = numbers(8, 10_000);
    let near = Near::sum(a.iter().zip(&b).map(|(a, b)| Near::exact(*a) * *b));
    let sum: f32 = a.iter().zip(&b).map(|(a, b)| *a as f32 * *b as f32).sum();
    assert!((f64::from(sum) - near.value).abs() < near.slack);
    let term = a.iter().zip(&b).map(|(a, b)| (a * b).abs()).sum::<f64>() / 1e4;
    assert!(near.slack < term, "one term of ten thousand must not be lost in the slack");
    for x in [-30., -1., 0.3, 20.] {
        let exp = Near::exact(x).exp();
        assert!((f64::from((x as f32).exp()) - f64::from(x as f32).exp()).abs() < exp.slack);
        assert!(exp.slack < 1e-5 * exp.value + 1e-36);
    }
}

#[test]
fn the_bits_of_an_update_are_close_to_the_exact_update() {
    let adamw = AdamW {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 0.25,
    };
    let mut state = [0.5f32, 0., 0.];
    let mut near = state.map(|x| Near::exact(f64::from(x)));
    for count in 1..=5 {
        let g = 0.75 - 0.4 * count as f32;
        state = adamw_bits(state, g, &adamw.step(count));
        near = adamw.update(near, f64::from(g), count);
    }
    for (x, near) in state.iter().zip(near) {
        assert!((f64::from(*x) - near.value).abs() < near.slack, "{x} and {near:?}");
        assert!(near.slack < 1e-5 * near.value.abs(), "{near:?}");
    }
}
