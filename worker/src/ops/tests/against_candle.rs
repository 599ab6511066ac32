//! A whole small decoder on the tape, compared with candle's autograd.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor, Var};

use super::{cross_entropy, gradients::placement, reference, run, targets};
use crate::kernels::Attention;
use crate::ops::{LossSum, ParamId, Parameters, Placement, Recompute, Result, Tape, Target, Value};

pub(super) const LAYERS: usize = 2;
pub(super) const VOCABULARY: usize = 40;
const WIDTH: usize = 24;
const INNER: usize = 52;
pub(super) const ATTENTION: Attention =
    Attention { heads: 4, kv_heads: 2, head_dim: 6, scale: 0.4, window: None };
const EPS: f32 = 1e-5;

/// Shapes of the parameters of one layer, in order.
const LAYER: [&[usize]; 11] = [
    &[WIDTH],
    &[24, WIDTH],
    &[24],
    &[12, WIDTH],
    &[12, WIDTH],
    &[6],
    &[WIDTH, 24],
    &[WIDTH],
    &[INNER, WIDTH],
    &[INNER, WIDTH],
    &[WIDTH, INNER],
];

/// The decoder's parameters: tied embedding, layers, final norm.
pub(super) fn decoder_parameters() -> Parameters {
    let layers = std::iter::repeat_n(LAYER, LAYERS).flatten();
    let shapes: Vec<&[usize]> =
        [&[VOCABULARY, WIDTH][..]].into_iter().chain(layers).chain([&[WIDTH][..]]).collect();
    super::parameters(&shapes)
}

/// One layer on the tape, with a bias, QK norm and residuals.
pub(super) fn layer(
    tape: &Tape<'_>,
    x: &Value,
    first: usize,
    place: &Arc<Placement>,
) -> Result<Value> {
    let p = |i: usize| ParamId(first + i);
    let n = tape.rms_norm(x, p(0), EPS)?;
    let q = tape.rms_norm(&tape.linear(&n, p(1), Some(p(2)))?, p(5), EPS)?;
    let (k, v) = (tape.linear(&n, p(3), None)?, tape.linear(&n, p(4), None)?);
    let o = tape.attention([&q, &k, &v], place, &ATTENTION)?;
    let x = tape.add(x, &tape.linear(&o, p(6), None)?)?;
    let n = tape.rms_norm(&x, p(7), EPS)?;
    let inner = tape.swiglu(&tape.linear(&n, p(8), None)?, &tape.linear(&n, p(9), None)?)?;
    tape.add(&x, &tape.linear(&inner, p(10), None)?)
}

/// The whole decoder's loss on the tape.
pub(super) fn decoder<'p>(
    tape: &Tape<'p>,
    tokens: &[u32],
    lengths: &[usize],
    targets: &[Target],
) -> Result<LossSum<'p>> {
    let place = placement(lengths, ATTENTION.head_dim);
    let mut x = tape.embed(tokens, ParamId(0))?;
    for i in 0..LAYERS {
        let (place, first) = (place.clone(), 1 + i * LAYER.len());
        let f = move |tape: &Tape<'p>, x: &Value| layer(tape, x, first, &place);
        x = match tape.recomputes() {
            Recompute::On => tape.recompute(&x, f)?,
            Recompute::Off | Recompute::Light => f(tape, &x)?,
        };
    }
    let x = tape.rms_norm(&x, ParamId(tape.params().len() - 1), EPS)?;
    cross_entropy(tape, &x, ParamId(0), targets)
}

/// Tokens for rows `0..rows`.
pub(super) fn tokens(rows: usize) -> Vec<u32> {
    (0..rows).map(|i| ((i * i + 3 * i) % VOCABULARY) as u32).collect()
}

#[test]
fn loss_and_gradients_of_a_decoder_match_candles_autograd() {
    let params = decoder_parameters();
    let lengths = [90, 1, 17];
    let tokens = tokens(lengths.iter().sum());
    let targets = targets((0..tokens.len()).filter(|row| row % 3 != 0), VOCABULARY);
    let (loss, collected) = run(&params, |tape| decoder(tape, &tokens, &lengths, &targets));

    let var = |p| {
        let values = params.values(p).read::<f32>();
        Var::from_slice(&values, params.shape(p), &Device::Cpu).unwrap()
    };
    let vars: Vec<_> = params.ids().map(var).collect();
    let expected = candle_decoder(&vars, &tokens, &lengths, &targets).unwrap();
    let grads = expected.backward().unwrap();
    let expected = f64::from(expected.to_scalar::<f32>().unwrap());
    assert!((loss - expected).abs() < 1e-5 * expected, "{loss} {expected}");
    for (p, var) in params.ids().zip(&vars) {
        let expected = grads.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
        let got = &collected.grads[p.0];
        let difference = norm(&mut got.iter().zip(&expected).map(|(a, b)| a - b));
        let size = norm(&mut expected.iter().copied());
        assert!(size > 0. && difference <= 3e-5 * size, "{}: {difference} {size}", params.name(p));
    }
}

type Candle<T> = candle_core::Result<T>;

fn candle_decoder(
    p: &[Var],
    tokens: &[u32],
    lengths: &[usize],
    targets: &[Target],
) -> Candle<Tensor> {
    let ids = Tensor::new(tokens, &Device::Cpu)?;
    let mut x = p[0].index_select(&ids, 0)?;
    for i in 0..LAYERS {
        let p = &p[1 + i * LAYER.len()..];
        let n = candle_norm(&x, &p[0])?;
        let q = n.matmul(&p[1].t()?)?.broadcast_add(&p[2])?;
        let q = candle_norm(&q.reshape((tokens.len(), 4, 6))?, &p[5])?;
        let q = q.reshape((tokens.len(), 24))?;
        let (k, v) = (n.matmul(&p[3].t()?)?, n.matmul(&p[4].t()?)?);
        let o = candle_attention(&q, &k, &v, lengths)?;
        x = (x + o.matmul(&p[6].t()?)?)?;
        let n = candle_norm(&x, &p[7])?;
        let inner = (n.matmul(&p[8].t()?)?.silu()? * n.matmul(&p[9].t()?)?)?;
        x = (x + inner.matmul(&p[10].t()?)?)?;
    }
    let x = candle_norm(&x, p.last().expect("the last norm"))?;
    let logits = x.matmul(&p[0].t()?)?;
    let log_sum = logits.exp()?.sum_keepdim(1)?.log()?;
    let logs = logits.broadcast_sub(&log_sum)?;
    let mut weights = vec![0f32; tokens.len() * VOCABULARY];
    for t in targets {
        weights[t.row as usize * VOCABULARY + t.token as usize] -= t.weight;
    }
    (logs * Tensor::from_vec(weights, (tokens.len(), VOCABULARY), &Device::Cpu)?)?.sum_all()
}

fn candle_norm(x: &Tensor, w: &Tensor) -> Candle<Tensor> {
    let r = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(EPS))?.sqrt()?.recip()?;
    x.broadcast_mul(&r)?.broadcast_mul(w)
}

fn candle_attention(q: &Tensor, k: &Tensor, v: &Tensor, lengths: &[usize]) -> Candle<Tensor> {
    let Attention { heads, kv_heads, head_dim, scale, .. } = ATTENTION;
    let mut start = 0;
    let mut parts = Vec::new();
    for &len in lengths {
        let angles: Vec<f32> = (0..len)
            .flat_map(|at| (0..head_dim).map(move |i| (at, i % (head_dim / 2))))
            .map(|(at, i)| reference::angle(at, i) as f32)
            .collect();
        let angles = Tensor::from_vec(angles, (len, head_dim), &Device::Cpu)?;
        let split = |x: &Tensor, n: usize| {
            x.narrow(0, start, len)?.reshape((len, n, head_dim))?.transpose(0, 1)?.contiguous()
        };
        let rotate = |x: Tensor| {
            let half = head_dim / 2;
            let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
            let turned = Tensor::cat(&[&b.neg()?, &a], 2)?;
            x.broadcast_mul(&angles.cos()?)? + turned.broadcast_mul(&angles.sin()?)?
        };
        let spread = |x: Tensor| {
            let shape = (kv_heads, heads / kv_heads, len, head_dim);
            x.unsqueeze(1)?.broadcast_as(shape)?.reshape((heads, len, head_dim))
        };
        let q = rotate(split(q, heads)?)?;
        let k = spread(rotate(split(k, kv_heads)?)?)?;
        let v = spread(split(v, kv_heads)?)?;
        let mask: Vec<f32> = (0..len * len)
            .map(|at| if at % len > at / len { f32::NEG_INFINITY } else { 0. })
            .collect();
        let mask = Tensor::from_vec(mask, (len, len), &Device::Cpu)?;
        let scores = (q.matmul(&k.t()?)? * f64::from(scale))?.broadcast_add(&mask)?;
        let e = scores.broadcast_sub(&scores.max_keepdim(2)?.detach())?.exp()?;
        let p = e.broadcast_div(&e.sum_keepdim(2)?)?;
        parts.push(p.matmul(&v)?.transpose(0, 1)?.reshape((len, heads * head_dim))?);
        start += len;
    }
    Tensor::cat(&parts, 0)?.to_dtype(DType::F32)
}
