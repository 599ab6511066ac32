//! Tests of every operation: its loss against an f64 forward, its gradients against central differences of that
//! forward.
//!
//! The inputs of an operation are rows of embedding tables, so that their gradients arrive at parameters. Its output
//! is the input of a linear cross-entropy.

use std::sync::Arc;

use super::{
    Numbers, cross_entropy, parameters,
    reference::{self, Matrix, matrix},
    run, targets,
};
use crate::device::Device;
use crate::kernels::Attention;
use crate::ops::{Documents, ParamId, Parameters, Placement, Result, Rotary, Tape, Target, Value};

const VOCABULARY: usize = 11;

/// An operation under test: `forward` uses the tape, `reference` computes in f64, both on the same parameters.
struct Case<'a> {
    /// Shapes of the parameters; the last one is the output head `[VOCABULARY, outputs]`.
    shapes: &'a [&'a [usize]],
    targets: Vec<Target>,
    forward: &'a dyn Fn(&Tape<'_>) -> Result<Value>,
    reference: &'a dyn Fn(&[Matrix]) -> Matrix,
}

impl Case<'_> {
    fn loss(&self, params: &[Vec<f64>]) -> f64 {
        let cols = |i: usize| *self.shapes[i].last().unwrap();
        let params: Vec<_> = params.iter().enumerate().map(|(i, p)| matrix(p, cols(i))).collect();
        let y = (self.reference)(&params);
        reference::cross_entropy(&y, params.last().unwrap(), &self.targets)
    }

    /// Compares each parameter's gradient along `directions` random directions. An f32 kernel of up to a few hundred
    /// terms is accurate to five digits, the central difference to eight.
    fn check(&self, directions: usize) {
        let params = parameters(self.shapes);
        let head = ParamId(params.len() - 1);
        let (loss, collected) =
            run(&params, |tape| cross_entropy(tape, &(self.forward)(tape)?, head, &self.targets));
        let exact: Vec<Vec<f64>> = params.ids().map(|p| widened(&params, p)).collect();
        let expected = self.loss(&exact);
        assert!((loss - expected).abs() <= 1e-5 * expected.abs().max(1.), "{loss} {expected}");

        let mut numbers = Numbers::new(99);
        for p in params.ids() {
            let norm = collected.grads[p.0].iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
            assert!(norm > 0., "{p:?} got no gradient");
            for _ in 0..directions {
                let along: Vec<f64> =
                    numbers.take(exact[p.0].len()).into_iter().map(f64::from).collect();
                let shifted = |step: f64| {
                    let mut params = exact.clone();
                    params[p.0].iter_mut().zip(&along).for_each(|(x, d)| *x += step * d);
                    self.loss(&params)
                };
                let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                let grads = collected.grads[p.0].iter();
                let slope: f64 = grads.zip(&along).map(|(&g, d)| f64::from(g) * d).sum();
                let tolerance = 3e-5 * norm.sqrt() + 1e-7;
                assert!((slope - difference).abs() <= tolerance, "{p:?}: {slope} {difference}");
            }
        }
    }
}

fn widened(params: &Parameters, p: ParamId) -> Vec<f64> {
    params.values(p).read::<f32>().iter().map(|&x| f64::from(x)).collect()
}

/// The rows of the table `p`, as a value.
fn rows(tape: &Tape<'_>, p: usize) -> Result<Value> {
    let tokens: Vec<_> = (0..tape.params().shape(ParamId(p))[0] as u32).collect();
    tape.embed(&tokens, ParamId(p))
}

#[test]
fn embed_and_cross_entropy_match_finite_differences() {
    Case {
        shapes: &[&[5, 18], &[VOCABULARY, 18]],
        targets: targets(0..7, VOCABULARY),
        forward: &|tape| tape.embed(&[4, 0, 2, 2, 4, 4, 1], ParamId(0)),
        reference: &|p| [4, 0, 2, 2, 4, 4, 1].iter().map(|&t: &usize| p[0][t].clone()).collect(),
    }
    .check(20);
}

#[test]
fn cross_entropy_of_several_chunks_and_repeated_rows_matches_finite_differences() {
    let mut targets = targets((0..700).filter(|row| row % 5 != 0), VOCABULARY);
    targets.extend(super::targets(0..9, VOCABULARY));
    Case {
        shapes: &[&[700, 20], &[VOCABULARY, 20]],
        targets,
        forward: &|tape| rows(tape, 0),
        reference: &|p| p[0].clone(),
    }
    .check(5);
}

#[test]
fn linear_matches_finite_differences() {
    Case {
        shapes: &[&[13, 18], &[21, 18], &[21], &[VOCABULARY, 21]],
        targets: targets(0..13, VOCABULARY),
        forward: &|tape| tape.linear(&rows(tape, 0)?, ParamId(1), Some(ParamId(2))),
        reference: &|p| reference::linear(&p[0], &p[1], Some(&p[2][0])),
    }
    .check(20);
}

#[test]
fn linear_of_several_tiles_matches_finite_differences() {
    Case {
        shapes: &[&[530, 34], &[800, 34], &[VOCABULARY, 800]],
        targets: targets(0..530, VOCABULARY),
        forward: &|tape| tape.linear(&rows(tape, 0)?, ParamId(1), None),
        reference: &|p| reference::linear(&p[0], &p[1], None),
    }
    .check(2);
}

#[test]
fn rms_norm_matches_finite_differences() {
    Case {
        shapes: &[&[130, 37], &[37], &[VOCABULARY, 37]],
        targets: targets(0..130, VOCABULARY),
        forward: &|tape| tape.rms_norm(&rows(tape, 0)?, ParamId(1), 1e-3),
        reference: &|p| reference::rms_norm(&p[0], &p[1][0], f64::from(1e-3f32)),
    }
    .check(10);
}

#[test]
fn rms_norm_by_head_matches_finite_differences() {
    Case {
        shapes: &[&[9, 48], &[16], &[VOCABULARY, 48]],
        targets: targets(0..9, VOCABULARY),
        forward: &|tape| tape.rms_norm(&rows(tape, 0)?, ParamId(1), 1e-5),
        reference: &|p| reference::rms_norm(&p[0], &p[1][0], f64::from(1e-5f32)),
    }
    .check(10);
}

#[test]
fn add_matches_finite_differences_also_for_a_value_and_itself() {
    Case {
        shapes: &[&[6, 19], &[6, 19], &[VOCABULARY, 19]],
        targets: targets(0..6, VOCABULARY),
        forward: &|tape| {
            let (a, b) = (rows(tape, 0)?, rows(tape, 1)?);
            tape.add(&tape.add(&a, &a)?, &tape.add(&b, &a)?)
        },
        reference: &|p| {
            let (a, b) = (&p[0], &p[1]);
            reference::add(&reference::add(a, a), &reference::add(b, a))
        },
    }
    .check(10);
}

#[test]
fn swiglu_matches_finite_differences_also_for_a_value_and_itself() {
    Case {
        shapes: &[&[6, 19], &[6, 19], &[VOCABULARY, 19]],
        targets: targets(0..6, VOCABULARY),
        forward: &|tape| {
            let (gate, up) = (rows(tape, 0)?, rows(tape, 1)?);
            tape.swiglu(&tape.swiglu(&gate, &up)?, &tape.swiglu(&up, &up)?)
        },
        reference: &|p| {
            let (gate, up) = (&p[0], &p[1]);
            reference::swiglu(&reference::swiglu(gate, up), &reference::swiglu(up, up))
        },
    }
    .check(10);
}

#[test]
fn attention_matches_finite_differences() {
    check_attention(&[5, 1, 7], 4, 2, 6, None, 10);
}

#[test]
fn attention_with_a_window_matches_finite_differences() {
    check_attention(&[9, 2], 2, 2, 6, Some(3), 10);
}

#[test]
fn attention_of_several_blocks_matches_finite_differences() {
    check_attention(&[70, 0, 131], 2, 1, 4, None, 2);
    check_attention(&[150], 2, 1, 4, Some(70), 2);
}

fn check_attention(
    lengths: &[usize],
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    directions: usize,
) {
    let docs = Documents::of_lengths(lengths.iter().copied());
    let a = Attention { heads, kv_heads, head_dim, scale: 0.6, window };
    let (t, width, kv_width) = (docs.rows(), heads * head_dim, kv_heads * head_dim);
    let place = placement(lengths, head_dim);
    Case {
        shapes: &[&[t, width], &[t, kv_width], &[t, kv_width], &[VOCABULARY, width]],
        targets: targets(0..t, VOCABULARY),
        forward: &|tape| {
            let [q, k, v] = [rows(tape, 0)?, rows(tape, 1)?, rows(tape, 2)?];
            tape.attention([&q, &k, &v], &place, &a)
        },
        reference: &|p| reference::attention(&p[0], &p[1], &p[2], &docs, &a),
    }
    .check(directions);
}

pub(super) fn rotary(positions: usize, head_dim: usize) -> Rotary {
    let pairs = head_dim / 2;
    let table = |f: fn(f64) -> f64| {
        let angles = (0..positions).flat_map(|at| (0..pairs).map(move |i| reference::angle(at, i)));
        angles.map(|angle| f(angle) as f32).collect()
    };
    Rotary::new(&Device::Host, table(f64::cos), table(f64::sin), pairs).unwrap()
}

/// The placement of documents of these lengths, with tables that are just long enough.
pub(super) fn placement(lengths: &[usize], head_dim: usize) -> Arc<Placement> {
    let documents = Documents::of_lengths(lengths.iter().copied());
    let rotary = Arc::new(rotary(documents.longest(), head_dim));
    Arc::new(Placement::new(&Device::Host, rotary, documents))
}
