//! Reference implementations of the kernels: slow, in f64, written for readability.

pub(super) mod attention;
mod tests;

use super::near::{Near, Sum};
use super::numbers::rounded;
use crate::device::Dtype;
use crate::kernels::{AdamStep, Heads};

/// A matrix `[rows, cols]` with its elements in row-major order.
#[derive(Clone)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) data: Vec<f64>,
}

impl Matrix {
    pub(super) fn at(&self, row: usize, col: usize) -> f64 {
        self.data[row * self.cols + col]
    }
}

pub(super) fn add(a: &[f64], b: &[f64]) -> Vec<Near> {
    a.iter().zip(b).map(|(a, b)| Near::exact(*a) + *b).collect()
}

/// The sum of the rows of `x`, added to `sum`.
pub(super) fn sum_rows(sum: &[f64], x: &[f64]) -> Vec<Near> {
    let column = |col: usize| x.chunks(sum.len()).map(move |x| Near::exact(x[col]));
    let start = sum.iter().enumerate();
    start.map(|(col, sum)| Near::sum(column(col)) + *sum).collect()
}

pub(super) fn gemm(a: &Matrix, b: &Matrix) -> Vec<Near> {
    assert_eq!(a.cols, b.rows);
    let dot = |row, col| Near::sum((0..a.cols).map(|k| Near::exact(a.at(row, k)) * b.at(k, col)));
    let row = |row| (0..b.cols).map(move |col| dot(row, col));
    (0..a.rows).flat_map(row).collect()
}

pub(super) fn gather_rows(x: &[f64], rows: &[f64], width: usize) -> Vec<f64> {
    rows.iter().flat_map(|row| &x[*row as usize * width..][..width]).copied().collect()
}

/// Adds rows in order, rounding after each addition.
pub(super) fn scatter_add_rows(
    (y, dtype): (&[f64], Dtype),
    first: usize,
    x: &[f64],
    rows: &[f64],
    width: usize,
) -> Vec<f64> {
    let mut y = y.to_vec();
    for (x, row) in x.chunks(width).zip(rows) {
        let row = *row as usize;
        if row < first || (row - first) * width >= y.len() {
            continue;
        }
        for (y, x) in y[(row - first) * width..].iter_mut().zip(x) {
            *y = rounded(*y + *x, dtype);
        }
    }
    y
}

/// `1 / sqrt(mean(x^2) + eps)`.
fn inverse_root(x: &[f64], eps: f32) -> Near {
    let mean = Near::sum(x.iter().map(|x| Near::exact(*x) * *x)) / x.len() as f64;
    Near::exact(1.) / (mean + f64::from(eps)).sqrt()
}

pub(super) fn rms_norm(x: &[f64], w: &[f64], eps: f32) -> Vec<Near> {
    let group = |x: &[f64]| {
        let r = inverse_root(x, eps);
        x.iter().zip(w).map(|(x, w)| r * *x * *w).collect::<Vec<_>>()
    };
    x.chunks(w.len()).flat_map(group).collect()
}

pub(super) fn rms_norm_back(dy: &[f64], x: &[f64], w: &[f64], eps: f32) -> Vec<Near> {
    let group = |(dy, x): (&[f64], &[f64])| {
        let r = inverse_root(x, eps);
        let n: Vec<Near> = x.iter().map(|x| r * *x).collect();
        let dn: Vec<Near> = dy.iter().zip(w).map(|(dy, w)| Near::exact(*dy) * *w).collect();
        let mean = Near::sum(dn.iter().zip(&n).map(|(dn, n)| *dn * *n)) / x.len() as f64;
        dn.iter().zip(&n).map(|(dn, n)| (*dn - *n * mean) * r).collect::<Vec<_>>()
    };
    dy.chunks(w.len()).zip(x.chunks(w.len())).flat_map(group).collect()
}

pub(super) fn rms_norm_weight_back(dw: &[f64], dy: &[f64], x: &[f64], eps: f32) -> Vec<Near> {
    let mut sums = vec![Sum::default(); dw.len()];
    for (dy, x) in dy.chunks(dw.len()).zip(x.chunks(dw.len())) {
        let r = inverse_root(x, eps);
        let terms = dy.iter().zip(x).map(|(dy, x)| r * *x * *dy);
        sums.iter_mut().zip(terms).for_each(|(sum, term)| sum.push(term));
    }
    sums.into_iter().zip(dw).map(|(sum, dw)| sum.near() + *dw).collect()
}

fn sigmoid(x: f64) -> Near {
    // This exponential cannot overflow.
    let e = Near::exact(-x.abs()).exp();
    if x < 0. { e / (e + 1.) } else { Near::exact(1.) / (e + 1.) }
}

pub(super) fn swiglu(gate: &[f64], up: &[f64]) -> Vec<Near> {
    gate.iter().zip(up).map(|(gate, up)| sigmoid(*gate) * *gate * *up).collect()
}

pub(super) fn swiglu_gate_back(dy: &[f64], gate: &[f64], up: &[f64]) -> Vec<Near> {
    let back = |((dy, gate), up): ((&f64, &f64), &f64)| {
        let s = sigmoid(*gate);
        s * ((Near::exact(1.) - s) * *gate + 1.) * *dy * *up
    };
    dy.iter().zip(gate).zip(up).map(back).collect()
}

pub(super) fn swiglu_up_back(dy: &[f64], gate: &[f64]) -> Vec<Near> {
    swiglu(gate, dy)
}

/// The transformation applied to heads: a rotation, if any, and a factor.
#[derive(Clone)]
pub(super) struct Turned {
    pub(super) rotation: Option<Tables>,
    pub(super) scale: f32,
}

/// Cosines and sines `[positions, E / 2]`, and each row's position.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) cos: Vec<f64>,
    pub(super) sin: Vec<f64>,
    pub(super) positions: Vec<f64>,
}

impl Turned {
    /// Leaves heads unchanged.
    pub(super) const NONE: Self = Self { rotation: None, scale: 1. };

    /// Transforms the features of one head of one row; rotates backwards if `forth` is -1.
    fn apply(&self, x: &[Near], row: usize, forth: f64) -> Vec<Near> {
        let half = x.len() / 2;
        let turned = match &self.rotation {
            None => x.to_vec(),
            Some(tables) => {
                let at = tables.positions[row] as usize * half;
                let first = |i: usize| {
                    x[i] * tables.cos[at + i] - x[half + i] * (forth * tables.sin[at + i])
                };
                let second = |i: usize| {
                    x[half + i] * tables.cos[at + i] + x[i] * (forth * tables.sin[at + i])
                };
                (0..half).map(first).chain((0..half).map(second)).collect()
            }
        };
        turned.into_iter().map(|x| x * f64::from(self.scale)).collect()
    }
}

/// Splits rows `[T, H E]` into heads `[H, T, E]`.
pub(super) fn split_heads(x: &[f64], heads: Heads, turned: &Turned) -> Vec<Near> {
    let Heads { heads, head_dim } = heads;
    let rows = x.len() / (heads * head_dim);
    let mut y = Vec::new();
    for head in 0..heads {
        for row in 0..rows {
            let x = &x[(row * heads + head) * head_dim..][..head_dim];
            let x: Vec<Near> = x.iter().map(|x| Near::exact(*x)).collect();
            y.extend(turned.apply(&x, row, 1.));
        }
    }
    y
}

/// Merges heads `[H, T, E]` into rows `[T, H / G E]`, where G is `group`.
pub(super) fn merge_heads(x: &[f64], heads: Heads, group: usize, turned: &Turned) -> Vec<Near> {
    let Heads { heads, head_dim } = heads;
    let rows = x.len() / (heads * head_dim);
    let mut y = Vec::new();
    for row in 0..rows {
        for first in (0..heads).step_by(group) {
            let member = |head: usize| &x[(head * rows + row) * head_dim..][..head_dim];
            let members = |e: usize| (first..first + group).map(move |head| member(head)[e]);
            let sum = |e: usize| Near::sum(members(e).map(Near::exact));
            let sums: Vec<Near> = (0..head_dim).map(sum).collect();
            y.extend(turned.apply(&sums, row, -1.));
        }
    }
    y
}

/// The exponentials of a row of logits minus the largest logit, their sum, and the largest logit.
fn exponentials(logits: &[f64]) -> (Vec<Near>, Near, f64) {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<Near> = logits.iter().map(|x| (Near::exact(*x) - largest).exp()).collect();
    let sum = Near::sum(exps.iter().copied());
    (exps, sum, largest)
}

/// The weighted loss of each row of logits.
pub(super) fn nll(logits: &[f64], tokens: &[f64], weights: &[f64]) -> Vec<Near> {
    let loss = |row: usize| {
        let logits = row_of(logits, tokens.len(), row);
        let (_, sum, largest) = exponentials(logits);
        let loss = sum.ln().shifted(largest - logits[tokens[row] as usize]);
        let weight = weights[row];
        Near { value: loss.value * weight, slack: loss.slack * weight.abs() }
    };
    (0..tokens.len()).map(loss).collect()
}

/// The gradient of the sum of [`nll`] with respect to the logits.
pub(super) fn nll_back(logits: &[f64], tokens: &[f64], weights: &[f64]) -> Vec<Near> {
    let gradient = |row: usize| {
        let (exps, sum, _) = exponentials(row_of(logits, tokens.len(), row));
        let own = tokens[row] as usize;
        let hot = move |token| if token == own { 1. } else { 0. };
        let exps = exps.into_iter().enumerate();
        exps.map(move |(token, e)| (e / sum - hot(token)) * weights[row])
    };
    (0..tokens.len()).flat_map(gradient).collect()
}

fn row_of(x: &[f64], rows: usize, row: usize) -> &[f64] {
    let width = x.len() / rows;
    &x[row * width..][..width]
}

/// The sum of squares in f64, with the rounding errors of that type.
pub(super) fn sum_squares(x: &[f64]) -> Near {
    let value: f64 = x.iter().map(|x| x * x).sum();
    Near { value, slack: 2. * x.len() as f64 * f64::EPSILON * value }
}

/// One update in f32 with the bits that every device must give: each operation is rounded once, in the order shown in
/// [`AdamStep`], products before sums and the quotient before its factor.
pub(super) fn adamw_bits([p, m, v]: [f32; 3], g: f32, step: &AdamStep) -> [f32; 3] {
    let g = g * step.gradient_scale;
    let m = m + (g - m) * step.new1;
    let v = v * step.beta2 + step.new2 * (g * g);
    let p = p * step.keep - step.rate * (m / (v.sqrt() * step.root + step.eps));
    [p, m, v]
}

/// The hyperparameters of AdamW, as in the paper and `torch.optim.AdamW`.
#[derive(Clone, Copy)]
pub(super) struct AdamW {
    pub(super) lr: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    pub(super) gradient_scale: f64,
}

impl AdamW {
    /// The factors of update number `count`, starting at 1.
    pub(super) fn step(&self, count: i32) -> AdamStep {
        AdamStep {
            gradient_scale: self.gradient_scale as f32,
            new1: (1. - self.beta1) as f32,
            beta2: self.beta2 as f32,
            new2: (1. - self.beta2) as f32,
            keep: (1. - self.lr * self.weight_decay) as f32,
            rate: (self.lr / (1. - self.beta1.powi(count))) as f32,
            root: (1. / (1. - self.beta2.powi(count)).sqrt()) as f32,
            eps: self.eps as f32,
        }
    }

    /// Update number `count`, computed without [`AdamStep`]; it only assumes that each factor may be rounded to f32.
    pub(super) fn update(&self, [p, m, v]: [Near; 3], g: f64, count: i32) -> [Near; 3] {
        let factor = |x: f64| Near::exact(x).rounded(Dtype::F32);
        let g = factor(self.gradient_scale) * g;
        let m = m * factor(self.beta1) + g * factor(1. - self.beta1);
        let v = v * factor(self.beta2) + g * g * factor(1. - self.beta2);
        let m_hat = m / factor(1. - self.beta1.powi(count));
        let v_hat = v / factor(1. - self.beta2.powi(count));
        let p = p * factor(1. - self.lr * self.weight_decay);
        let p = p - m_hat / (v_hat.sqrt() + factor(self.eps)) * factor(self.lr);
        [p, m, v]
    }
}
