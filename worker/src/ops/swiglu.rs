//! SwiGLU (Shazeer 2020): `silu(gate) up`.

use super::array::Array;
use super::error::{Result, expect_shape};
use super::parameters::Parameters;
use super::tape::{Backward, Op, Tape, Value};
use crate::kernels::Onto;
use std::sync::Arc;

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

        let y = product(self.params(), &gate.array, &up.array);
        let op = |_: &Arc<Array>| SwiGlu { gate: gate.clone(), up: up.clone() };
        let y = self.push(y, &[gate, up], &[], op);
        let (gate, up) = (gate.array.clone(), up.array.clone());
        Ok(self.cheap(y, move |params| product(params, &gate, &up)))
    }
}

fn product(params: &Parameters, gate: &Array, up: &Array) -> Array {
    let kernels = params.kernels();
    let mut y = Array::take(kernels.device(), gate.dtype(), gate.rows(), gate.cols());
    kernels.swiglu(y.out(Onto::Fresh).to, gate.all(), up.all());
    y
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

    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let Self { gate, up } = *self;
        let kernels = flow.kernels();
        // Both gradients are open at the same time. If `gate` and `up` are one value, the second `close` adds to the
        // first.
        let mut dgate = flow.open(gate.grad);
        if let Some(dgate) = &mut dgate {
            kernels.swiglu_gate_back(dgate.out(), dy.all(), gate.array.all(), up.array.all());
        }
        let mut dup = flow.open(up.grad);
        if let Some(dup) = &mut dup {
            kernels.swiglu_up_back(dup.out(), dy.all(), gate.array.all());
        }
        flow.close(gate.grad, dgate);
        flow.close(up.grad, dup);
        Ok(())
    }
}
