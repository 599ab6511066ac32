//! SwiGLU (Shazeer 2020): `silu(gate) up`.

use super::array::Array;
use super::error::{Result, expect_shape};
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

        let mut y = self.take(rows, cols);
        self.kernels().swiglu(y.out(Onto::Fresh).to, gate.array.all(), up.array.all());
        let op = |_: &Arc<Array>| SwiGlu { gate: gate.clone(), up: up.clone() };
        Ok(self.push(y, &[gate, up], &[], op))
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

    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        let Self { gate, up } = *self;
        let kernels = flow.kernels();
        // Both gradients are open at the same time. If `gate` and `up` are one value, the second `close` adds to the
        // first.
        let mut dgate = flow.open(&gate);
        if let Some(dgate) = &mut dgate {
            kernels.swiglu_gate_back(dgate.out(), dy.all(), gate.array.all(), up.array.all());
        }
        let mut dup = flow.open(&up);
        if let Some(dup) = &mut dup {
            kernels.swiglu_up_back(dup.out(), dy.all(), gate.array.all());
        }
        flow.close(&gate, dgate);
        flow.close(&up, dup);
        Ok(())
    }
}
