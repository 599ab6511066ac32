//! Tests of each operation against f64 and finite differences, of the tape against candle's autograd, and of the
//! tape's other guarantees.

#![allow(clippy::unwrap_used)] // A test that cannot continue should panic.

mod against_candle;
mod gradients;
mod promises;
mod reference;

use super::cross_entropy::Limits;
use super::{Gradients, LossSum, ParamId, Parameters, Result, Tape, Target, Value};
use crate::device::{Buffer, Device, Dtype, WindowMut};
use crate::kernels;

/// The gradients of a backward, and the order in which they became final.
pub(super) struct Collected {
    pub(super) grads: Vec<Vec<f32>>,
    pub(super) finished: Vec<ParamId>,
}

/// Collects gradients in one buffer per parameter.
struct Slots {
    grads: Vec<Buffer>,
    finished: Vec<ParamId>,
    frozen: Vec<bool>,
}

impl Gradients for Slots {
    fn slots(&mut self, p: ParamId) -> Vec<WindowMut<'_>> {
        assert!(!self.frozen[p.0], "{p:?} is frozen");
        assert!(!self.finished.contains(&p), "{p:?} is finished");
        vec![self.grads[p.0].all_mut()]
    }

    fn finished(&mut self, p: ParamId) {
        assert!(!self.frozen[p.0], "{p:?} is frozen");
        assert!(!self.finished.contains(&p), "{p:?} is finished twice");
        self.finished.push(p);
    }
}

/// A generator of deterministic numbers, uniform over (-1, 1).
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.
    }

    pub(super) fn take(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// Random trainable parameters `p0`, `p1`, .. of these shapes.
pub(super) fn parameters(shapes: &[&[usize]]) -> Parameters {
    let mut numbers = Numbers::new(shapes.len() as u64 + 7);
    let mut params = Parameters::new(kernels::host());
    for (i, &shape) in shapes.iter().enumerate() {
        params.push(format!("p{i}"), shape, numbers.take(shape.iter().product()));
    }
    params
}

/// The loss in chunks so small that even small cases have several.
pub(super) fn cross_entropy<'p>(
    tape: &Tape<'p>,
    x: &Value,
    w: ParamId,
    targets: &[Target],
) -> Result<LossSum<'p>> {
    tape.cross_entropy_within(Limits { elements: 1 << 10, rows: 1 }, x, w, targets)
}

/// Targets for `rows`, with varied tokens and weights.
pub(super) fn targets(rows: impl IntoIterator<Item = usize>, vocabulary: usize) -> Vec<Target> {
    rows.into_iter()
        .map(|row| Target {
            row: row as u32,
            token: (row * 7 + 3) as u32 % vocabulary as u32,
            weight: [1., 0.5, 2., 0.][row % 4],
        })
        .collect()
}

/// Loss and gradients of the forward pass `forward`.
pub(super) fn run<'p>(
    params: &'p Parameters,
    forward: impl FnOnce(&Tape<'p>) -> Result<LossSum<'p>>,
) -> (f64, Collected) {
    run_on(Tape::training(params), forward)
}

/// As [`run`], on this tape.
pub(super) fn run_on<'p>(
    tape: Tape<'p>,
    forward: impl FnOnce(&Tape<'p>) -> Result<LossSum<'p>>,
) -> (f64, Collected) {
    let params = tape.params();
    let loss = forward(&tape).unwrap();
    let zeros = |p| Device::Host.zeros(Dtype::F32, params.elements(p));
    let mut slots = Slots {
        grads: params.ids().map(zeros).collect(),
        finished: Vec::new(),
        frozen: params.ids().map(|p| !params.trainable(p)).collect(),
    };
    let losses = tape.backward(loss, &mut slots).unwrap();
    let Slots { grads, finished, .. } = slots;
    let grads = grads.into_iter().map(Buffer::into_vec).collect();
    (losses.read(|_, _| {}), Collected { grads, finished })
}
