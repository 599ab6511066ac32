//! Reference implementations of the operations: slow, in f64, written for readability.

use crate::kernels::Attention;
use crate::ops::{Documents, Target};

pub(super) type Matrix = Vec<Vec<f64>>;

pub(super) fn matrix(data: &[f64], cols: usize) -> Matrix {
    data.chunks(cols).map(<[f64]>::to_vec).collect()
}

pub(super) fn linear(x: &Matrix, w: &Matrix, bias: Option<&[f64]>) -> Matrix {
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    let row = |x: &Vec<f64>| {
        let outs = w.iter().enumerate();
        outs.map(|(o, w)| dot(x, w) + bias.map_or(0., |bias| bias[o])).collect()
    };
    x.iter().map(row).collect()
}

pub(super) fn rms_norm(x: &Matrix, w: &[f64], eps: f64) -> Matrix {
    let group = |x: &[f64]| {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let r = 1. / (mean + eps).sqrt();
        x.iter().zip(w).map(|(x, w)| w * x * r).collect::<Vec<_>>()
    };
    x.iter().map(|x| x.chunks(w.len()).flat_map(group).collect()).collect()
}

pub(super) fn add(a: &Matrix, b: &Matrix) -> Matrix {
    zip(a, b, |a, b| a + b)
}

pub(super) fn swiglu(gate: &Matrix, up: &Matrix) -> Matrix {
    zip(gate, up, |g, u| g / (1. + (-g).exp()) * u)
}

fn zip(a: &Matrix, b: &Matrix, f: impl Fn(f64, f64) -> f64) -> Matrix {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()).collect()
}

/// The rotation angle of a pair of features at a position; the tests' tables hold its cosine and sine.
pub(super) fn angle(position: usize, pair: usize) -> f64 {
    position as f64 * 0.7 / (1. + pair as f64)
}

fn rotated(x: &[f64], position: usize) -> Vec<f64> {
    let half = x.len() / 2;
    let mut y = x.to_vec();
    for i in 0..half {
        let (sin, cos) = angle(position, i).sin_cos();
        y[i] = x[i] * cos - x[half + i] * sin;
        y[half + i] = x[half + i] * cos + x[i] * sin;
    }
    y
}

pub(super) fn attention(
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    docs: &Documents,
    a: &Attention,
) -> Matrix {
    let (width, group) = (a.head_dim, a.heads / a.kv_heads);
    let mut out = vec![vec![0.; a.heads * width]; q.len()];
    for doc in docs.iter() {
        for i in 0..doc.len() {
            for head in 0..a.heads {
                let own = head * width..(head + 1) * width;
                let key = head / group * width..(head / group + 1) * width;
                let first = a.window.map_or(0, |window| (i + 1).saturating_sub(window));
                let q = rotated(&q[doc.start + i][own.clone()], i);
                let scores: Vec<f64> = (first..=i)
                    .map(|j| {
                        let k = rotated(&k[doc.start + j][key.clone()], j);
                        q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>() * f64::from(a.scale)
                    })
                    .collect();
                let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                for (j, score) in (first..=i).zip(scores) {
                    let p = score.exp() / sum;
                    for (o, v) in out[doc.start + i][own.clone()]
                        .iter_mut()
                        .zip(&v[doc.start + j][key.clone()])
                    {
                        *o += p * v;
                    }
                }
            }
        }
    }
    out
}

pub(super) fn cross_entropy(x: &Matrix, w: &Matrix, targets: &[Target]) -> f64 {
    let logits = linear(x, w, None);
    let nll = |t: &Target| {
        let row = &logits[t.row as usize];
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        f64::from(t.weight) * (sum.ln() + largest - row[t.token as usize])
    };
    targets.iter().map(nll).sum()
}
