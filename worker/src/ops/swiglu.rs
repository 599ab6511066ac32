//! SwiGLU (Shazeer 2020): `silu(gate) up`.

use std::sync::Arc;

use rayon::prelude::*;

use super::{
    array::Array,
    error::{Result, expect_shape},
    kernel::{self, sigmoid, vectorized},
    pool,
    tape::{Backward, Onto, Op, Tape, Value},
};

impl Tape<'_> {
    /// `silu(gate) * up`, element by element.
    ///
    /// # Errors
    /// [`super::Error::Shape`] if the shapes differ.
    pub fn swiglu(&self, gate: &Value, up: &Value) -> Result<Value> {
        let (rows, cols) = (gate.rows(), gate.cols());
        let fits = (up.rows(), up.cols()) == (rows, cols);
        let got = || format!("{} x {}", up.rows(), up.cols());
        expect_shape("swiglu", fits, || format!("{rows} x {cols}"), got)?;

        let mut y = pool::take(rows * cols);
        let (gates, ups) = (gate.array.read(), up.array.read());
        let len = kernel::TASK_ELEMENTS;
        y.par_chunks_mut(len).zip(gates.par_chunks(len).zip(ups.par_chunks(len))).for_each(
            |(y, (gate, up))| {
                vectorized(|| {
                    for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
                        *y = g * sigmoid(g) * u;
                    }
                });
            },
        );
        Ok(self.push(Array::new(y, rows, cols)?, &[gate, up], &[], |_| SwiGlu {
            gate: gate.clone(),
            up: up.clone(),
        }))
    }
}

struct SwiGlu {
    gate: Value,
    up: Value,
}

impl Op for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn saved_bytes(&self) -> usize {
        self.gate.array.bytes() + self.up.array.bytes()
    }

    /// With s = sigmoid(g): `dup = dy g s`, `dgate = dy up s (1 + g (1 - s))`.
    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let Self { gate, up } = *self;
        let (gates, ups, dy) = (gate.array.read(), up.array.read(), dy.read());
        let mut dgate = flow.open(&gate);
        if let Some(dgate) = &mut dgate {
            add_products(&mut dgate.data, dgate.onto, [&dy, &gates, &ups], |dy, g, up| {
                let s = sigmoid(g);
                dy * up * (s * (1. + g * (1. - s)))
            });
        }
        let mut dup = flow.open(&up);
        if let Some(dup) = &mut dup {
            add_products(&mut dup.data, dup.onto, [&dy, &gates, &ups], |dy, g, _| {
                dy * (g * sigmoid(g))
            });
        }
        drop((gates, ups));
        flow.close(&gate, dgate)?;
        flow.close(&up, dup)
    }
}

/// `y = f(a, b, c)` or `y += f(a, b, c)`, element by element, in parallel.
fn add_products(
    y: &mut [f32],
    onto: Onto,
    [a, b, c]: [&[f32]; 3],
    f: impl Fn(f32, f32, f32) -> f32 + Sync,
) {
    let len = kernel::TASK_ELEMENTS;
    y.par_chunks_mut(len)
        .zip(a.par_chunks(len).zip(b.par_chunks(len)).zip(c.par_chunks(len)))
        .for_each(|(y, ((a, b), c))| {
            vectorized(|| {
                let each = y.iter_mut().zip(a).zip(b).zip(c);
                match onto {
                    Onto::Fresh => each.for_each(|(((y, &a), &b), &c)| *y = f(a, b, c)),
                    Onto::Sum => each.for_each(|(((y, &a), &b), &c)| *y += f(a, b, c)),
                }
            });
        });
}
