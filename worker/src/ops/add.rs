//! The sum of two values, as in a residual connection.

use super::array::Array;
use super::error::{Result, expect_shape};
use super::tape::{Backward, Grad, Op, Tape, Value};
use crate::kernels::Onto;
use std::sync::Arc;

impl Tape<'_> {
    /// `a + b`, element by element.
    ///
    /// # Errors
    /// [`super::Error::Shape`] if the shapes differ.
    pub fn add(&self, a: &Value, b: &Value) -> Result<Value> {
        let (rows, cols) = (a.rows(), a.cols());
        let fits = (b.rows(), b.cols()) == (rows, cols);
        let got = || format!("{} x {}", b.rows(), b.cols());
        expect_shape("add", fits, || format!("{rows} x {cols}"), got)?;

        let mut y = self.take(rows, cols);
        self.kernels().add(y.out(Onto::Fresh).to, a.array.all(), b.array.all());
        Ok(self.push(y, &[a, b], &[], |_| Add { inputs: [a.grad, b.grad] }))
    }
}

struct Add {
    inputs: [Option<Grad>; 2],
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn saved_bytes(&self) -> usize {
        0
    }

    /// Both inputs share `dy`. An input that adds to it copies it first, unless it holds the last reference.
    fn backward(self: Box<Self>, dy: Arc<Array>, flow: &mut Backward<'_>) -> Result<()> {
        for input in self.inputs {
            flow.pass(input, dy.clone());
        }
        Ok(())
    }
}
